"""Small runs of digits to do harm to, in this process: they compile once, so that hundreds of faults take minutes."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from abd_jax.config import Config
from abd_jax.errors import Paused, UserError
from abd_jax.files import checksum_of_arrays
from abd_jax.run import plan as build
from abd_jax.run.load import load_snapshot
from abd_jax.train import train_and_evaluate
from experiments.jobs import load_config

# Three tasks of two digits: 9 or 10 steps of learning and 6 of dreaming each, saved after every chunk.
TINY = {
  'task_sizes': (2, 2, 2), 'tasks': 3, 'devices': 1, 'model.widths': (4, 4, 4), 'generator.latent': 8,
  'generator.start': (2, 2, 8), 'generator.widths': (8, 8), 'student.epochs': 1, 'student.milestones': (1,),
  'inversion.steps': 6, 'inversion.batch_size': 16, 'chunk_steps': 5, 'checkpoint_seconds': 0.0,
}  # fmt: skip
# What else there is: a method with a memory, and a run long enough to be killed in.
LONG = {'student.epochs': 3, 'student.milestones': (1, 2), 'inversion.steps': 24, 'chunk_steps': 2}
VARIANTS: dict[str, dict[str, Any]] = {'abd': {}, 'e2e': {'memory.size': 26}, 'long': LONG}
EQUAL, REFUSED, TRACEBACK, WRONG, LOST = OUTCOMES = ('equal', 'refused', 'traceback', 'wrong', 'lost')


class Verdict(NamedTuple):
  """What became of a fault: one of OUTCOMES, and what was told or differs."""

  outcome: str
  told: str = ''


class Case(NamedTuple):
  """A fault. try_it: given an empty folder of its own, injects it and judges what comes of it."""

  kind: str  # its row in the table
  name: str
  try_it: Callable[[Path], Verdict]


class Lab:
  """Runs under `root`: of each of VARIANTS one that is complete, one that was paused in its last task but one."""

  def __init__(self, root: Path):
    self.root = root
    self.data = root / 'data'
    self.finished, self.interrupted = cache(self._finished), cache(self._interrupted)

  def fields(self, variant: str) -> dict[str, Any]:
    return TINY | VARIANTS[variant] | {'data.dir': str(self.data)}

  def config(self, variant: str, fields: dict[str, Any]) -> Config:
    return load_config('digits', f'method={method_of(variant)}', self.fields(variant) | fields)

  def run(self, workdir: Path, variant: str = 'abd', **fields: Any) -> dict:
    """Does the run or what is left of it, silently. Raises as `train_and_evaluate` does."""
    with redirect_stderr(StringIO()):
      return train_and_evaluate(self.config(variant, dotted(fields)), str(workdir))

  def _finished(self, variant: str) -> Path:
    workdir = self.root / f'finished_{variant}'
    self.run(workdir, variant)
    return workdir

  def _interrupted(self, variant: str) -> Path:
    """Both kinds of checkpoint, a frozen model and, of a method with one, a memory are there."""
    workdir = self.root / f'interrupted_{variant}'
    while not _stands_in(workdir, task=1, phase='learning_2' if variant == 'e2e' else 'dreaming'):
      try:
        self.run(workdir, variant, max_seconds=1e-9)
      except Paused:
        continue
    return workdir

  def copy_finished(self, folder: Path, variant: str = 'abd') -> Path:
    return self.copy(self.finished(variant), folder)

  def copy_interrupted(self, folder: Path, variant: str = 'abd') -> Path:
    return self.copy(self.interrupted(variant), folder)

  def copy(self, workdir: Path, folder: Path) -> Path:
    return Path(shutil.copytree(workdir, folder / 'run'))

  def judge(self, workdir: Path, variant: str, act: Callable[[], object]) -> Verdict:
    """What comes of `act` in a damaged `workdir`: told in one line with every file as it was, or no harm done."""
    before = snapshot(workdir)
    verdict = judged(act)
    if verdict.outcome == REFUSED and snapshot(workdir) != before:
      return Verdict(LOST, 'files were changed')
    if verdict.outcome == EQUAL and (other := difference(workdir, self.finished(variant))):
      return Verdict(WRONG, other)
    return verdict

  def judge_passing(self, workdir: Path, variant: str, act: Callable[[], object]) -> Verdict:
    """The same of a fault that passes: the same command must then complete everything."""
    verdict = judged(act)
    again = judged(lambda: self.run(workdir, variant))
    if verdict.outcome == TRACEBACK:
      return verdict
    if again.outcome != EQUAL:
      return Verdict(LOST, again.told)
    if other := difference(workdir, self.finished(variant)):
      return Verdict(WRONG, other)
    return verdict


def method_of(variant: str) -> str:
  return 'abd' if variant == 'long' else variant


def dotted(fields: dict[str, Any]) -> dict[str, Any]:
  """Keyword arguments as names of fields: 'data__dir' is data.dir."""
  return {name.replace('__', '.'): value for name, value in fields.items()}


def judged(act: Callable[[], object]) -> Verdict:
  """Whether it ends well, in one line, or otherwise."""
  try:
    act()
  except (UserError, Paused) as error:
    return Verdict(TRACEBACK if '\n' in str(error) else REFUSED, str(error))
  except Exception as error:
    return Verdict(TRACEBACK, f'{type(error).__name__}: {error}'[:300])
  return Verdict(EQUAL)


def snapshot(folder: Path) -> dict[str, bytes]:
  """Name -> bytes of every file but the lock."""
  files = (file for file in folder.rglob('*') if file.is_file() and file.name != '.lock')
  return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def judge_reading(workdir: Path, read: Callable[[], Any], sound: Any) -> Verdict:
  """What comes of reading a damaged `workdir`, of which a sound one gives `sound`."""
  before, found = snapshot(workdir), []
  verdict = judged(lambda: found.append(read()))
  if verdict.outcome == REFUSED and snapshot(workdir) != before:
    return Verdict(LOST, 'files were changed')
  return Verdict(WRONG, 'it reads otherwise') if found and found[0] != sound else verdict


def difference(workdir: Path, reference: Path) -> str:
  """The first thing of which two complete runs leave something else, '' if all is the same bit by bit."""
  ours, theirs = _outcome(workdir), _reference_outcome(reference)
  return next((name for name in theirs if ours.get(name) != theirs[name]), '')


@cache
def _reference_outcome(workdir: Path) -> dict[str, Any]:
  return _outcome(workdir)


def _outcome(workdir: Path) -> dict[str, Any]:
  """Name -> value of what a complete run leaves but for times: results, log, pictures, arrays."""
  results = json.loads((workdir / 'results.json').read_text())
  others = ('seconds', 'checksum', 'commit', 'config')  # of the config, where its data lie
  found: dict[str, Any] = {f'results: {name}': value for name, value in results.items() if name not in others}
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  found['log'] = [{key: value for key, value in line.items() if key != 'images_per_second'} for line in lines]
  found['pictures'] = snapshot(workdir / 'dreams') if (workdir / 'dreams').exists() else {}
  found['frozen models'] = sorted(path.name for path in (workdir / 'teachers').iterdir())
  for task in range(len(results['task_sizes'])):
    found[f'model after task {task + 1}'] = checksum_of_arrays(load_snapshot(workdir, task)[2])
  found['checkpoint'] = newest_progress(workdir)['checksums']
  return found


def newest_save(workdir: Path, kind: str = '*') -> Path:
  """The folder of the newest checkpoint, or of the newest of one kind."""
  saves = [path for path in workdir.glob(f'checkpoints/{kind}/*') if path.name.isdigit()]
  return max(saves, key=lambda path: int(path.name))


def newest_progress(workdir: Path) -> dict:
  return json.loads((newest_save(workdir) / 'progress' / 'metadata').read_text())


def _stands_in(workdir: Path, task: int, phase: str) -> bool:
  if not list(workdir.glob('checkpoints/*/*')):
    return False
  progress = newest_progress(workdir)
  return (progress['task'], progress['phase']) == (task, phase) and progress['step'] > 0


@contextmanager
def compiled_once() -> Iterator[None]:
  """Runs within it share their compiled steps wherever method, epochs and seed are the same."""
  methods, steps = {}, {}
  get, compile_steps = build.methods.get, build.compile_steps

  def method(config):
    return methods.setdefault((config.method, config.student.epochs), get(config))

  def steps_of(config, components, method, shape, seed, mesh):
    key = (id(method), seed)  # methods, kept above, are values whose functions are their own
    if key not in steps:
      steps[key] = compile_steps(config, components, method, shape, seed, mesh)
    return steps[key]

  with mock.patch.object(build.methods, 'get', method), mock.patch.object(build, 'compile_steps', steps_of):
    yield
