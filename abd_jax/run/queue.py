"""Lists of runs: one after another under a time budget, several at once in processes, and those of an upper bound."""

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from abd_jax.config import FREE_FIELDS, Config, changed, default, flatten
from abd_jax.errors import Diverged, InUse, Paused, UserError
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.console import PauseSignals


class Job(NamedTuple):
  """A run under a name that no other job of its list has.

  run: given the seconds it may take, 0 for no limit; returns its results, raises Paused, InUse or Diverged.
  """

  name: str
  run: Callable[[float], dict]


@dataclass
class Outcome:
  """What became of a list of jobs."""

  results: dict[str, dict] = field(default_factory=dict)  # by name
  failed: dict[str, str] = field(default_factory=dict)  # name -> why; no exception, whose traceback would keep arrays
  in_use: list[InUse] = field(default_factory=list)  # those that other processes are running
  pause: Paused | None = None  # why it stopped before the end

  def complete(self) -> list[dict]:
    """The results in the order of the jobs. Raises Paused, InUse or UserError if one is missing."""
    self.check_ended()
    self.check_sound()
    return list(self.results.values())

  def check_ended(self) -> None:
    """Raises Paused or InUse if a job has neither succeeded nor failed."""
    for reason in (self.pause, *self.in_use):
      if reason is not None:
        raise reason

  def check_sound(self) -> None:
    """Raises UserError if a job has failed."""
    if self.failed:
      count = f'{len(self.failed)} runs have failed; the first: ' if len(self.failed) > 1 else ''
      name, why = next(iter(self.failed.items()))
      raise UserError(f'{count}{name}: {why}')


def execute(
  jobs: Iterable[Job],
  max_seconds: float = 0.0,
  max_jobs: int = sys.maxsize,
  tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
  """Runs jobs one after another, also after one that diverges; what another process is running is left for the end, so
  two can share the work.

  Args:
    jobs: in this order.
    max_seconds: over all of them; 0 for no limit. Each is given what is left, at least a moment, so that even a late
      one finds out that it is complete.
    max_jobs: how many to start, those that fail not counted.
    tell: called with a line about each.
  """
  began, outcome, jobs = time.monotonic(), Outcome(), list(jobs)
  waiting, begun = jobs, set()
  for is_last_time in (False, True):
    later = []
    for job in waiting:
      if len(begun | {job.name}) > max_jobs:
        break
      begun.add(job.name)
      left = max(max_seconds - (time.monotonic() - began), 0.01)
      tell(f'{job.name} ...')
      try:
        outcome.results[job.name] = job.run(left if max_seconds else 0.0)
      except InUse as error:
        later.append(job)
        if is_last_time:
          outcome.in_use.append(error)
          tell(f'{job.name} is run by another process; left to it')
      except Diverged as error:
        outcome.failed[job.name] = str(error)
        begun.remove(job.name)
        tell(f'{job.name} has failed: {error}')
      except Paused as pause:
        outcome.pause = pause
        return outcome
    waiting = later
  outcome.results = {job.name: outcome.results[job.name] for job in jobs if job.name in outcome.results}
  return outcome


Environment = dict[str, str]  # variables that a process gets in addition to those of this one
# Runs in a process of its own: a process that asks JAX for devices holds them until it ends. A TPU chip may be two.
_ASK = """
import jax
devices = jax.local_devices()
print(devices[0].platform, len({str(getattr(one, 'coords', one.id)) for one in devices}))
"""

_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a process that had nothing to save yet


class Run(NamedTuple):
  """A config to be run in a workdir."""

  name: str
  config: Config
  workdir: Path


def accelerators() -> list[Environment]:
  """For each accelerator of this host, the variables that show a process only that one; [] on a CPU."""
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    return []
  said = subprocess.run([sys.executable, '-c', _ASK], capture_output=True, text=True, check=False).stdout.split()
  platform, count = (said[-2], int(said[-1])) if len(said) > 1 else ('cpu', 0)
  if platform == 'gpu':
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    return [{'CUDA_VISIBLE_DEVICES': name} for name in (visible.split(',') if visible else map(str, range(count)))]
  if platform == 'tpu':
    alone = {'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1', 'TPU_PROCESS_BOUNDS': '1,1,1'}
    return [alone | {'TPU_VISIBLE_CHIPS': str(k)} for k in range(count)]
  return []


def shares(at_once: int, places: Sequence[Environment], cache: Path) -> list[Environment]:
  """Environments for `at_once` processes: an accelerator each; if there are too few, a share of one's memory.

  cache: the folder in which they share compiled programs, unless JAX_COMPILATION_CACHE_DIR is set.
  """
  common = {'JAX_COMPILATION_CACHE_DIR': os.environ.get('JAX_COMPILATION_CACHE_DIR') or str(cache)}
  if not places:
    return [common] * at_once
  most = -(-at_once // len(places))  # processes on one of them
  if most > 1:
    common['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{0.9 / most:.2f}'
  return [common | places[k % len(places)] for k in range(at_once)]


def run_all(
  runs: Sequence[Run], environments: Sequence[Environment], tell: Callable[[str], None], max_seconds: float = 0.0
) -> dict[str, int]:
  """Runs each config in a process of its own, as many at once as there are environments. Passes SIGTERM and Ctrl-C on.

  Args:
    runs: started in this order.
    environments: one for each process that runs at a time.
    tell: called with each line that a run prints on stderr, after its name.
    max_seconds: for all runs together; 0 for no limit.

  Returns: name -> exit code of each run that was started; 0 for complete or paused.
  """
  free, began, codes = queue.SimpleQueue(), time.monotonic(), {}
  alive: dict[str, subprocess.Popen] = {}
  for environment in environments:
    free.put(environment)
  with PauseSignals() as signals, ThreadPoolExecutor(len(environments)) as pool:

    def one(run: Run) -> None:
      left = max(max_seconds - (time.monotonic() - began), 0.01) if max_seconds else 0.0
      if signals.received:
        return
      environment = free.get()
      alive[run.name] = process = _start(run, environment, left)
      for line in process.stderr or ():
        tell(f'{run.name}: {line.rstrip()}')
      codes[run.name] = process.wait()
      del alive[run.name]
      free.put(environment)

    waiting, told = {pool.submit(one, run) for run in runs}, set()
    while waiting:
      done, waiting = wait(waiting, timeout=0.2)
      for future in done:
        future.result()
      if signals.received:  # once to each process: a second SIGTERM would stop it without a save
        for name, process in list(alive.items()):
          if name not in told:
            told.add(name)
            process.send_signal(signal.SIGTERM)
  return {name: 0 if name in told and code in _STOPPED else code for name, code in codes.items()}


def _start(run: Run, environment: Environment, max_seconds: float) -> subprocess.Popen:
  """Starts the process of a run, in a session of its own, so that Ctrl-C reaches it only through this process."""
  words = [sys.executable, '-m', 'abd_jax', 'train', '--config=-', f'--workdir={run.workdir}']
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE, 'text': True}
  process = subprocess.Popen(words, env=os.environ | environment, start_new_session=True, **pipes)
  assert process.stdin is not None
  with process.stdin as stdin:
    stdin.write(json.dumps(changed(run.config, {'max_seconds': max_seconds}).to_dict()))
  return process


def prefix_config(config, tasks: Tasks, task: int, seed: int) -> Config:
  """The config of a Base run that learns all classes up to 0-based `task` at once."""
  c = default()
  for name in ('data', 'model', 'student', 'bn_gamma_init', 'precision', 'eval_batch_size', 'chunk_steps'):
    c[name] = config[name]
  for name in ('checkpoint_seconds', 'devices', 'distributed', 'collapse'):  # change no result
    c[name] = config[name]
  classes = sum(tasks.sizes[: task + 1])
  known = tasks.order[:classes]
  c.class_order = ','.join(map(str, (*known, *sorted(set(tasks.order) - set(known)))))
  # Base trains no generator. This one fits the images, and is the same for all runs that share the result.
  scale = 2 ** len(config.generator.widths)
  c.generator.latent, c.generator.widths = 1, ()
  c.generator.start = (*(side * scale for side in config.generator.start[:2]), 1)
  c.method, c.tasks, c.task_sizes, c.seed = 'base', 1, (classes,), seed
  return c


def upper_bound(config, tasks: Tasks, seed: int, root: Path) -> list[tuple[Config, Path]]:
  """(config, workdir) of the upper bound of each task: a fresh model that learns the images of all classes so far.

  Each is an ordinary run: Base, one task. Its folder under `root` is named by all that its result depends on, so
  methods share it, and so do splits into 5, 10 and 20 tasks.
  """
  found = []
  for task in range(tasks.num_tasks):
    part = prefix_config(config, tasks, task, seed)
    fields = {name: value for name, value in flatten(part.to_dict()).items() if name not in FREE_FIELDS}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    found.append((part, root / f'{part.data.name}_{part.task_sizes[0]}_{digest}'))
  return found
