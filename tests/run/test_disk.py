"""A disk that takes no more: one line, the earlier saves intact, and the same command completes everything."""

import errno
import resource
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from conftest import assert_same_outcome, snapshot

from abd_jax import files
from abd_jax.errors import UserError, reason, system_errors_explained
from abd_jax.run import checkpoint, session, workdir
from abd_jax.run.checkpoint import Checkpoints


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    ValueError('UNKNOWN: [tensorstore] write failed: No space left on device [errno 28]'),
    RuntimeError('the cause is below'),
  ],
)
def test_an_error_of_the_disk_is_one_line_whichever_library_raises_it(error):
  if isinstance(error, RuntimeError):
    error.__cause__ = OSError(errno.EDQUOT, 'Disk quota exceeded')
  with (
    pytest.raises(UserError, match=r'there cannot be written \((No space left|Disk quota)'),
    system_errors_explained('there'),
  ):
    raise error


def test_a_full_device_is_one_line(learn, tmp_path, monkeypatch):
  def refuse(*_):
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nBFC allocator'
    )

  monkeypatch.setattr('abd_jax.steps.chunks.run', refuse)
  with pytest.raises(UserError, match=r'too little memory \(RESOURCE_EXHAUSTED: .* Use smaller batches'):
    learn(tmp_path)


def test_the_message_of_a_library_is_one_line_of_whole_words():
  text = reason(ValueError('NOT_FOUND: Error opening\n"zarr" driver, ' * 9))
  assert len(text) <= 160 and '\n' not in text and text.endswith('Error opening "zarr" ...')
  assert reason(KeyError()) == 'KeyError'


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


@pytest.mark.parametrize(
  ('owner', 'name'),
  [
    (Checkpoints, 'save'),
    (session, 'write_model'),
    (checkpoint, 'write_sealed'),
    (workdir.Workdir, 'log'),
    (workdir.Workdir, 'write_results'),
  ],
)
def test_a_full_disk_is_one_line_and_the_same_command_completes_everything(
  learn, learnt, tmp_path, monkeypatch, owner, name
):
  full_once(monkeypatch, owner, name)
  with pytest.raises(UserError, match=r'cannot be written \(No space left on device'):
    learn(tmp_path / 'run')
  learn(tmp_path / 'run')
  assert_same_outcome(tmp_path / 'run', learnt())


def test_a_teacher_is_not_given_up_before_its_successor_is_complete(learn, tmp_path, monkeypatch):
  """A run killed after its last teacher writes that one again: what is there stays until the new one is whole."""
  learn(tmp_path)
  (tmp_path / 'results.json').unlink()
  before = snapshot(tmp_path / 'teachers')
  full_once(monkeypatch, checkpoint.ocp.StandardCheckpointer, 'save')
  with pytest.raises(OSError):
    checkpoint.write_model(tmp_path / 'teachers' / '2', {'a': np.zeros(3)}, {})
  assert snapshot(tmp_path / 'teachers') == before


@contextmanager
def largest_file(size):
  """The kernel refuses to write files of more bytes."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_half_a_record_does_not_stay(tmp_path):
  with workdir.Workdir(str(tmp_path), {}) as folder:
    folder.append('phases.jsonl', {'task': 0})
    with largest_file(20), pytest.raises(OSError, match='File too large'):  # the first record has 12 bytes
      folder.append('phases.jsonl', {'task': 1})
    folder.append('phases.jsonl', {'task': 2})
  assert files.read_lines(tmp_path / 'phases.jsonl') == [{'task': 0}, {'task': 2}]
