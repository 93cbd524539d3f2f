"""A run that was stopped in whatever way ends as if it had not been."""

import random
import signal
import subprocess
import time

import jax
import pytest
from conftest import KILLABLE, REPO, RUN, SMALLEST, assert_same_outcome, command, flags_of, log_records, until_complete

from abd_jax import methods
from abd_jax.devices.backend import pin_numbers
from abd_jax.run import session
from abd_jax.run.checkpoint import Checkpoints
from abd_jax.run.workdir import Workdir


@pytest.fixture
def undisturbed(learnt):
  """The workdir of a run in this process that saved only where it must."""
  return learnt()


def test_resuming_from_every_checkpoint_gives_the_same_bits(learn, undisturbed, tmp_path):
  _, pauses = until_complete(lambda: learn(tmp_path, max_seconds=1e-9))  # stops after each chunk
  # Three tasks of 2 chunks (9 or 10 steps) and their ends, two of 2 chunks of dreaming and their ends.
  assert pauses == 3 * 3 + 2 * 3
  assert_same_outcome(tmp_path, undisturbed)


class Crash(BaseException):
  """What nothing in the package catches."""


def crash_around(monkeypatch, owner, name, key_of, before=True, after=True):
  """Makes a function raise the first time it is called with a key, before and after it does its work."""
  survived, write = set(), getattr(owner, name)

  def crash_once(key):
    if key not in survived:
      survived.add(key)
      raise Crash

  def crashing(*args):
    if before:
      crash_once((key_of(*args), 'before'))
    result = write(*args)
    if after:
      crash_once((key_of(*args), 'after'))
    return result

  monkeypatch.setattr(owner, name, crashing)


@pytest.mark.slow
def test_a_crash_before_or_after_anything_is_written_changes_nothing(learn, undisturbed, tmp_path, monkeypatch):
  crash_around(monkeypatch, Workdir, 'log', lambda _, record: str((record['task'], record['phase'])), before=False)
  crash_around(monkeypatch, Workdir, 'write_results', lambda *_: None)
  crash_around(monkeypatch, Checkpoints, 'save', lambda _, kind, __, progress: (kind, progress['saves'][kind]))
  crash_around(monkeypatch, session, 'write_model', lambda folder, *_: folder.name)
  crash_around(monkeypatch, Workdir, 'write_dreams', lambda _, task, *__: task, before=False)
  starts = 1
  while True:
    try:
      learn(tmp_path, checkpoint_seconds=0.0)
      break
    except Crash:
      starts += 1
  # 15 saves, 3 teachers and 1 file of results, before and after; 8 phases' logs; 2 pictures; and the last start.
  assert starts == 2 * (15 + 3 + 1) + 8 + 2 + 1
  monkeypatch.undo()
  assert_same_outcome(tmp_path, undisturbed)


def test_settings_of_jax_do_not_change_the_numbers(learn, undisturbed, tmp_path):
  """As JAX_ENABLE_X64=1 and the like have them."""
  try:
    for name, value in (('enable_x64', True), ('threefry_partitionable', False), ('default_prng_impl', 'rbg')):
      jax.config.update(f'jax_{name}', value)
    learn(tmp_path)
  finally:
    pin_numbers()
  assert_same_outcome(tmp_path, undisturbed)


def test_two_saves_in_flight_cannot_overtake_each_other(learn, undisturbed, tmp_path, monkeypatch):
  """A kill may leave the newer of two background writes finished and the older one not."""
  overlaps = []
  save = Checkpoints.save

  def checked(self, kind, state, progress):
    others = [manager for name, manager in self._managers.items() if name != kind]
    save(self, kind, state, progress)
    overlaps.append(any(manager.is_saving_in_progress() for manager in others))

  monkeypatch.setattr(Checkpoints, 'save', checked)
  learn(tmp_path, checkpoint_seconds=0.0)
  assert overlaps and not any(overlaps)


def kill_and_resume(path, words, env, moments, seed):
  """Starts the command, kills it once its log has as many lines as the next of `moments`; at last lets it finish."""
  rng = random.Random(seed)
  for moment in moments:
    log, line = path / 'metrics.jsonl', command(*words, f'--workdir={path}')
    with subprocess.Popen(line, env=env, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
      while not log.exists() or log.read_bytes().count(b'\n') < moment:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
      time.sleep(rng.random() * 0.03)
      process.send_signal(signal.SIGKILL)
      assert process.wait() == -signal.SIGKILL
  done = subprocess.run(command(*words, f'--workdir={path}'), env=env, cwd=REPO, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def moments_to_kill(path, phases, seed):
  """One random line of the finished run's log per item of `phases`, in order."""
  records, rng = log_records(path), random.Random(seed)
  lines = lambda phase: [k + 1 for k, record in enumerate(records[:-5]) if record['phase'] == phase and k > 1]
  return sorted(rng.choice(lines(phase)) for phase in phases)


def test_kill_dash_nine_at_two_random_moments_changes_nothing(finished, cli_env, tmp_path):
  reference = finished[0]
  moments = moments_to_kill(reference, ['learning', 'dreaming'], seed=0)
  kill_and_resume(tmp_path, RUN, cli_env, moments, seed=0)
  assert_same_outcome(tmp_path, reference)


@pytest.mark.parametrize(
  'method',
  [
    'e2e',
    'class_gaussians',
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('bic', 'dgr', 'rdfcil')),
  ],
)
def test_methods_with_state_of_their_own_resume_from_every_checkpoint(method, learn, tmp_path):
  """A memory, bias layers, an autoencoder, label counts, class statistics; a second phase, a model frozen between."""
  small = {'method': method, 'rdfcil__finetune_epochs': 1, 'bic__held_out': 0.3} | SMALLEST
  small |= {'tasks': 2, 'student__batch_size': 16, 'chunk_steps': 10}  # R-DFCIL compares all triplets of a batch
  learn(tmp_path / 'undisturbed', **small)
  _, pauses = until_complete(lambda: learn(tmp_path / 'run', **small, max_seconds=1e-9))  # stops after each chunk
  assert pauses >= 6
  assert_same_outcome(tmp_path / 'run', tmp_path / 'undisturbed')


@pytest.mark.slow
@pytest.mark.parametrize('method', sorted(set(methods.available()) - {'oracle'}))  # runs of Base, one after another
def test_kill_dash_nine_in_each_phase_of_every_method_changes_nothing(method, cli_env, tmp_path, digits_data):
  own = {'rdfcil': {'rdfcil.finetune_epochs': 3}}.get(method, {})
  words = [f'--config=configs/digits.py:tasks=3,method={method}', *flags_of(KILLABLE | own)]
  reference = tmp_path / 'reference'
  subprocess.run(command(*words, f'--workdir={reference}'), env=cli_env, cwd=REPO, check=True, capture_output=True)
  lines = {}
  for k, record in enumerate(log_records(reference)):
    if record['phase'] != 'evaluating' and k > 1:
      lines.setdefault((record['task'], record['phase']), []).append(k + 1)
  rng = random.Random(method)
  moments = sorted(rng.choice(numbers[:-1]) for numbers in lines.values())
  kill_and_resume(tmp_path / 'run', words, cli_env, moments, seed=2)
  assert_same_outcome(tmp_path / 'run', reference)
