"""The fault drill, in this process: damaged files, full disks, damaged data. `make drill` runs it.

A fault passes if the outcome is the same to the bit, or if one line reports it and no file of the run changes.
"""

import errno
import io
import os
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_outcome, log_records, snapshot

from abd_jax.errors import Paused, UserError
from abd_jax.run.load import load_model

pytestmark = [
  pytest.mark.slow,
  # Threads of orbax may outlive the fault that they met.
  pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning'),
]
TIMES = int(os.environ.get('DRILL_TIMES', '8'))  # how often each random fault is tried, each time at another place
SAVING = {'checkpoint_seconds': 0.0}  # a save after every chunk
VARIANTS = {'abd': SAVING, 'e2e': SAVING | {'method': 'e2e', 'memory__size': 26}}

_interrupted: dict[str, Path] = {}


@pytest.fixture
def finished_run(learnt):
  """finished_run(variant) -> the workdir of a complete run, which tests only copy."""
  return lambda variant='abd': learnt(**VARIANTS[variant])


@pytest.fixture
def interrupted_run(learn, tmp_path_factory):
  """interrupted_run(variant) -> the workdir of a run paused in its second task, after it began to dream if it does."""

  def make(variant='abd'):
    if variant not in _interrupted:
      workdir, phase = tmp_path_factory.mktemp('interrupted') / 'run', 'dreaming' if variant == 'abd' else 'learning'
      last = {'task': 0, 'phase': ''}
      while last['task'] != 1 or not last['phase'].startswith(phase):
        with pytest.raises(Paused):
          learn(workdir, **VARIANTS[variant], max_seconds=1e-9)
        last = log_records(workdir)[-1] if (workdir / 'metrics.jsonl').exists() else last
      _interrupted[variant] = workdir
    return _interrupted[variant]

  return make


def contents(workdir):
  """Name -> bytes of every file except the lock."""
  return {name: content for name, content in snapshot(workdir).items() if not name.endswith('.lock')}


def refused(act):
  """The one line that `act` is refused with, '' if it succeeds. Any other error fails the test."""
  try:
    act()
  except (UserError, Paused) as error:
    return str(error)
  return ''


def files_in(folder, pattern='**/*'):
  return sorted(file for file in folder.glob(pattern) if file.is_file() and file.stat().st_size)


def flip(file, rng):
  """Flips one random bit."""
  content = bytearray(file.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  file.write_bytes(content)


SPOIL = {
  'flipped': flip,
  'cut': lambda file, rng: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
  'empty': lambda file, rng: file.write_bytes(b''),
  'missing': lambda file, rng: file.unlink(),
}
# The files of a run under way that can be damaged, and the variant of the run.
PLACES = [
  ('checkpoints/**/*', 'abd'), ('checkpoints/**/*', 'e2e'), ('teachers/0/**/*', 'abd'), ('teachers/**/*', 'e2e'),
  ('teachers/0.json', 'abd'), ('config.json', 'abd'), ('metrics.jsonl', 'abd'), ('phases.jsonl', 'abd'),
  ('reads.jsonl', 'abd'), ('dreams/*', 'abd'),
]  # fmt: skip


def spoil(source, workdir, pattern, how, k):
  """Copies a run and damages one of its files; -> the contents then."""
  if k and how != 'flipped' and '*' not in pattern:
    pytest.skip('one file is cut, emptied or removed once')
  shutil.copytree(source, workdir)
  rng, files = random.Random(f'{pattern} {how} {k}'), files_in(workdir, pattern)
  SPOIL[how](rng.choices(files, [file.stat().st_size for file in files])[0], rng)
  return contents(workdir)


@pytest.mark.parametrize('k', range(TIMES))
@pytest.mark.parametrize('how', SPOIL)
@pytest.mark.parametrize(('pattern', 'variant'), PLACES)
def test_a_damaged_run_resumes_to_the_same_bits_or_is_refused_untouched(
  pattern, variant, how, k, learn, interrupted_run, finished_run, tmp_path
):
  workdir = tmp_path / 'run'
  before = spoil(interrupted_run(variant), workdir, pattern, how, k)
  if refused(lambda: learn(workdir, **VARIANTS[variant])):
    assert contents(workdir) == before
  else:
    if pattern == 'dreams/*':  # nothing reads it again: it stays as it is
      shutil.copytree(interrupted_run(variant) / 'dreams', workdir / 'dreams', dirs_exist_ok=True)
    assert_same_outcome(workdir, finished_run(variant))


def predict(workdir):
  images = np.random.default_rng(0).integers(0, 17, (8, 8, 8, 1), dtype=np.uint8)
  names, probabilities = load_model(workdir).predict(images, batch_size=8)
  return names.tolist(), probabilities.tolist()


@pytest.mark.parametrize('k', range(TIMES))
@pytest.mark.parametrize('how', SPOIL)
@pytest.mark.parametrize('pattern', ['results.json', 'teachers/2.json', 'teachers/2/**/*'])
def test_a_damaged_complete_run_reads_as_before_or_is_refused_untouched(pattern, how, k, learn, finished_run, tmp_path):
  if (pattern, how) == ('results.json', 'missing'):
    pytest.skip('a run without results.json is not complete')
  read = (lambda workdir: learn(workdir, **SAVING)) if pattern == 'results.json' else predict
  workdir, found, sound = tmp_path / 'run', [], read(finished_run())
  before = spoil(finished_run(), workdir, pattern, how, k)
  if refused(lambda: found.append(read(workdir))):
    assert contents(workdir) == before
  else:
    assert found == [sound]


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize('k', range(TIMES))
def test_a_disk_that_is_full_once_costs_nothing(k, number, learn, finished_run, tmp_path, monkeypatch):
  """The n-th file that Python opens for writing in the workdir cannot be opened; then the disk has room again."""
  rng, opens, real = random.Random(f'{k} {number}'), [], io.open
  limit = rng.randrange(1, 60)

  def fails(file, mode='r', *args, **kwargs):
    if str(file).startswith(str(tmp_path)) and set(mode) & set('wax+'):
      opens.append(file)
      if len(opens) == limit:
        raise OSError(number, os.strerror(number), str(file))
    return real(file, mode, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(io, 'open', fails)
    refused(lambda: learn(tmp_path / 'run', **SAVING))
  learn(tmp_path / 'run', **SAVING)
  assert_same_outcome(tmp_path / 'run', finished_run())


@pytest.mark.parametrize('size', [200, 1000, 2000, 4000, 8000, 16_000, 30_000][: max(2, TIMES)])
def test_a_limit_to_the_size_of_files_costs_nothing(size, learn, finished_run, tmp_path):
  """Whichever library writes beyond the limit gets the error from the system."""
  finished_run()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    assert refused(lambda: learn(tmp_path / 'run', **SAVING))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  learn(tmp_path / 'run', **SAVING)
  assert_same_outcome(tmp_path / 'run', finished_run())


@pytest.mark.parametrize('k', range(TIMES))
@pytest.mark.parametrize('how', SPOIL)
def test_a_damaged_data_set_gives_the_same_bits_or_is_refused(how, k, learn, finished_run, tmp_path):
  """Also a run that had begun on damaged data must then complete on sound data, or be refused."""
  finished_run()
  rng = random.Random(f'data {how} {k}')
  data = Path(os.environ['TFDS_DATA_DIR']) / 'digits'
  shutil.copytree(data, tmp_path / 'data/digits')
  SPOIL[how](rng.choice(files_in(tmp_path / 'data')), rng)
  place = {'data__dir': str(tmp_path / 'data'), 'data__download': False}
  refused(lambda: learn(tmp_path / 'run', **place, **SAVING))
  learn(tmp_path / 'run', **SAVING)
  assert_same_outcome(tmp_path / 'run', finished_run())
