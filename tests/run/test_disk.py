"""A disk that takes no more: one line, the earlier saves intact, and the same command completes everything."""

import errno
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, assert_same_outcome, command, flags_of, snapshot

from abd_jax import files, train
from abd_jax.errors import UserError, disk_errors_told
from abd_jax.run import checkpoint as manifest
from abd_jax.run import logs as mirrors
from abd_jax.run import workdir
from abd_jax.run.checkpoint import Checkpoints, TeacherStore


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    ValueError('UNKNOWN: [tensorstore] write failed: No space left on device [errno 28]'),
    RuntimeError('the cause is below'),
  ],
)
def test_whoever_passes_it_on_it_is_told(error):
  if isinstance(error, RuntimeError):
    error.__cause__ = OSError(errno.EDQUOT, 'Disk quota exceeded')
  with (
    pytest.raises(UserError, match=r'there cannot be written \((No space left|Disk quota)') as told,
    disk_errors_told('there'),
  ):
    raise error
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('error', [OSError(errno.ENOENT, 'No such file'), KeyError('x'), UserError('mine')])
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as raised, disk_errors_told('there'):
    raise error
  assert raised.value is error


FULL = OSError(errno.ENOSPC, 'No space left on device')


def full_once(monkeypatch, owner, name):
  """The disk is full the first time that a function is called."""
  real, calls = getattr(owner, name), []

  def write(*args, **kwargs):
    calls.append(1)
    if len(calls) == 1:
      raise FULL
    return real(*args, **kwargs)

  monkeypatch.setattr(owner, name, write)


@pytest.fixture(scope='module')
def reference_path(tmp_path_factory):
  return tmp_path_factory.mktemp('disk') / 'run'


@pytest.mark.parametrize(
  ('owner', 'name'),
  [
    (Checkpoints, 'save'),
    (TeacherStore, 'save'),
    (manifest, 'write_atomically'),
    (train, 'save_grid'),
    (workdir.Workdir, 'log'),
    (workdir.Workdir, 'log_read'),
    (workdir.Workdir, 'write_results'),
    (mirrors.Board, 'flush'),
  ],
)
def test_a_full_disk_is_one_line_and_the_same_command_completes_everything(
  learn, reference_path, tmp_path, monkeypatch, owner, name
):
  learn(reference_path)
  full_once(monkeypatch, owner, name)
  with pytest.raises(UserError, match=r'cannot be written \(No space left on device') as error:
    learn(tmp_path / 'run')
  assert '\n' not in str(error.value)
  learn(tmp_path / 'run')
  assert_same_outcome(tmp_path / 'run', reference_path)


def test_a_disk_that_is_full_to_the_end_leaves_the_workdir_to_the_next_run(
  learn, reference_path, tmp_path, monkeypatch
):
  learn(reference_path)

  def full(board):
    raise FULL

  with monkeypatch.context() as patch:
    patch.setattr(mirrors.Board, 'flush', full)
    patch.setattr(mirrors.Board, 'close', full)
    with pytest.raises(UserError, match=r'cannot be written \(No space left on device'):
      learn(tmp_path / 'run')
  learn(tmp_path / 'run')
  assert_same_outcome(tmp_path / 'run', reference_path)


def test_a_teacher_is_not_given_up_before_its_successor_is_complete(learn, tmp_path, monkeypatch):
  """A run killed after its last teacher writes that one again: what is there stays until the new one is whole."""
  learn(tmp_path)
  (tmp_path / 'results.json').unlink()
  before = snapshot(tmp_path / 'teachers')
  store = TeacherStore(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(store._checkpointer, 'save', lambda *_, **__: (_ for _ in ()).throw(FULL))
    with pytest.raises(OSError):
      store.save('2', {'a': np.zeros(3)}, {})
  assert snapshot(tmp_path / 'teachers') == before


def test_a_file_size_limit_is_told_by_the_command(cli_env, tmp_path, digits_data):
  """As the kernel says it, to whichever library happens to write."""
  words = command('--config=configs/digits.py:quick', *flags_of({'devices': 1}), f'--workdir={tmp_path / "run"}')
  # Not by preexec_fn: that forks this process, whose JAX has threads.
  limit = (
    'import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2); '
    'os.execv(sys.argv[1], sys.argv[1:])'
  )
  env = cli_env | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
  limited = [sys.executable, '-c', limit, *words]
  done = subprocess.run(limited, env=env, cwd=REPO, capture_output=True, text=True)
  assert done.returncode == 2, done.stderr
  lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and os.strerror(errno.EFBIG) in lines[0] and 'Traceback' not in done.stderr
  assert not (tmp_path / 'run/results.json').exists()


def test_half_a_record_does_not_stay(tmp_path):
  with workdir.Workdir(str(tmp_path), {}) as folder:
    folder.log_phase({'task': 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # the first record has 12 bytes
    try:
      with pytest.raises(OSError, match='File too large'):
        folder.log_phase({'task': 1})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder.log_phase({'task': 2})
  assert files.read_lines(tmp_path / 'phases.jsonl') == [{'task': 0}, {'task': 2}]
