"""Names of folders that a library, or a shell, could take for something else."""

import os
import shlex

import numpy as np
import pytest
from conftest import SMALLEST, assert_same_outcome

from abd_jax.analysis.audit import audit
from abd_jax.commands.train import learn as command
from abd_jax.errors import Paused
from abd_jax.run.extend import extended_config
from abd_jax.run.load import load_model
from abd_jax.train import train_and_evaluate

FIELDS = SMALLEST | {'method': 'e2e'}
NAMES = [
  'run[1]', 'lr=[0.1] *', 'a?b', 'a\\b', '\\', '%41%2F#x', 'it\'s "q"', 'two\nlines', 'é ü 漢', '-dash', '~', '$HOME',
  'a:b', 'gs:', '{x,y}', ' spaces ', '!x&|;<>`', '.hidden', 'trailing.', '1.orbax-checkpoint-tmp', '@eaDir', 'x' * 255,
  '\udcff', 'ocdbt.process_0',
]  # fmt: skip


@pytest.fixture
def plain(learnt):
  """The same in a folder of a plain name: (workdir, workdir that extends it)."""
  path = learnt(**FIELDS)
  return path, path.with_name('more')


def use(workdir, learn, plain):
  """Trains, pauses, resumes, loads, audits and extends in `workdir`; all is as in `plain`."""
  with pytest.raises(Paused):
    learn(workdir / 'run', max_seconds=1e-9, **FIELDS)
  learn(workdir / 'run', **FIELDS)
  assert_same_outcome(workdir / 'run', plain[0])
  images = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1), np.uint8)
  for run, more in ((workdir / 'run', workdir / 'more'), plain):
    if not more.exists():
      train_and_evaluate(extended_config(str(run), {'task_sizes': (2, 2, 2), 'devices': 1}), str(more))
  assert_same_outcome(workdir / 'more', plain[1])
  ours, theirs = (load_model(more).predict(images)[1] for more in (workdir / 'more', plain[1]))
  np.testing.assert_array_equal(ours, theirs)
  found = audit(workdir / 'run')
  assert found['unreadable'] == found['findings'] == [] and found['images'] == 12


def test_a_workdir_may_have_any_name(learn, plain, tmp_path, tiny_config, monkeypatch, capsys):
  """All at once: each is a folder in the one before it."""
  names = [name for name in NAMES if len(name) < 255]
  use(workdir := tmp_path.joinpath(*names), learn, plain)
  assert sorted(os.listdir(tmp_path)) == ['run[1]']  # nothing is written elsewhere
  monkeypatch.setattr('abd_jax.devices.backend.use_compilation_cache', lambda folder: None)
  monkeypatch.chdir(tmp_path)
  for name, asked in (("it's [1]\n$x", "it's [1]\n$x"), ('-x', './-x')):
    (tmp_path / name).symlink_to(workdir / 'run')
    command(tiny_config(**FIELDS), name)
    suggested = capsys.readouterr().out.partition('next: ')[2]
    assert shlex.split(suggested) == ['abd-jax', 'predict', asked, 'IMAGE...']


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_each_name(learn, plain, tmp_path, name):
  use(tmp_path / name, learn, plain)
  assert os.listdir(tmp_path) == [name]
