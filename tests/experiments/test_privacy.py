"""The privacy figures of dreams, measured on a run."""

import pytest

from abd_jax.analysis import diagnose
from experiments import privacy


@pytest.mark.slow
def test_what_is_measured_on_a_run(tmp_path, learn, monkeypatch):
  monkeypatch.setattr(diagnose, 'DREAMS', 64)
  learn(tmp_path / 'run')
  found = privacy.measure(tmp_path / 'run')
  assert [one['task'] for one in found['dreams']] == [0, 1] and found['method'] == 'abd'
  for one in found['dreams']:
    for space in ('pixels', 'features'):
      assert set(one[space]) == set(privacy.FIGURES) and 0 <= one[space]['closer'] <= 1
