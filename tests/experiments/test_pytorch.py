"""python -m experiments pytorch refuses to run without PyTorch, and times only steps with the same losses."""

import json
import sys

import pytest
from test_hardware import NETWORKS

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import pytorch


def test_without_pytorch_it_says_how_to_get_it(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match='pip install torch -r'):
    command.run(['pytorch', f'--output={tmp_path}'])
  assert not list(tmp_path.iterdir())


def test_both_compute_the_same_or_nothing_is_timed(monkeypatch, tmp_path, capsys):
  pytest.importorskip('torch')
  whole = pytorch.measure_all
  monkeypatch.setattr(pytorch, 'measure_all', lambda rounds, fields: whole(rounds, NETWORKS))
  command.run(['pytorch', '--rounds=1', f'--output={tmp_path}'])
  found = json.loads((tmp_path / 'torch_cpu.json').read_text())
  assert set(found['relative_difference']) == set(found['torch_ms']['channels_last']) > set(found['ours_ms'])
  assert capsys.readouterr().out.startswith(pytorch.render(found))
  monkeypatch.setattr(pytorch, 'TOLERANCES', (-1.0,))
  with pytest.raises(UserError, match='nothing is timed'):
    whole(1, NETWORKS)
