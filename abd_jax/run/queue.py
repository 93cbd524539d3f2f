"""Lists of runs: one after another under a time budget, shared by several processes, and those of an upper bound."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from abd_jax.config import Config, changed, default
from abd_jax.errors import Diverged, InUse, Paused, PauseSignals, UserError
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.workdir import fixed


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


def shares(at_once: int, places: Sequence[Environment]) -> list[Environment]:
  """Environments for `at_once` processes: an accelerator each; if there are too few, a share of one's memory."""
  if not places:
    return [{}] * at_once
  most = -(-at_once // len(places))  # processes on one of them
  memory = {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 / most:.2f}'} if most > 1 else {}
  return [memory | places[k % len(places)] for k in range(at_once)]


def run_copies(
  words: Sequence[str], environments: Sequence[Environment], tell: Callable[[str], None], stdin: str = ''
) -> list[int]:
  """Runs `python WORDS` in each environment at the same time: commands that share a list of runs, as `execute` does.

  Passes the first SIGTERM or Ctrl-C on. Each process has a session of its own, so that Ctrl-C reaches it only once.

  Args:
    words: of the command, after `python`.
    environments: one for each process.
    tell: called with each line that a process prints on stderr, after its number.
    stdin: what each process reads.

  Returns: the exit code of each; 0 for complete or paused.
  """
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE, 'text': True}
  start = lambda one: subprocess.Popen([sys.executable, *words], env=os.environ | one, start_new_session=True, **pipes)

  def follow(k: int, process: subprocess.Popen) -> None:
    assert process.stdin and process.stderr
    with process.stdin as pipe:
      pipe.write(stdin)
    for line in process.stderr:
      tell(f'{k}: {line.rstrip()}')

  with PauseSignals() as signals, ThreadPoolExecutor(len(environments)) as pool:
    processes = [start(one) for one in environments]
    followed, told = [pool.submit(follow, *one) for one in enumerate(processes)], False
    while wait(followed, timeout=0.2).not_done:
      if signals.received and not told:  # once: a second SIGTERM would stop a process without a save
        told = True
        for process in processes:
          process.send_signal(signal.SIGTERM)
  codes = [process.wait() for process in processes]
  return [0 if told and code in _STOPPED else code for code in codes]


def upper_bound(config, tasks: Tasks, seed: int, root: Path) -> list[tuple[Config, Path]]:
  """(config, workdir) of the upper bound of each task: a fresh model that learns the images of all classes so far.

  Each is an ordinary run: Base, one task. Its folder under `root` is named by all that its result depends on, so
  methods share it, and so do splits into 5, 10 and 20 tasks.
  """
  common, found = default(), []
  for name in ('data', 'model', 'student', 'bn_gamma_init', 'precision', 'eval_batch_size', 'chunk_steps'):
    common[name] = config[name]
  for name in ('checkpoint_seconds', 'devices', 'distributed', 'collapse'):  # change no result
    common[name] = config[name]
  # Base trains no generator. This one fits the images, and is the same for all runs that share the result.
  scale = 2 ** len(config.generator.widths)
  common.generator.latent, common.generator.widths = 1, ()
  common.generator.start = (*(side * scale for side in config.generator.start[:2]), 1)
  for classes in itertools.accumulate(tasks.sizes):
    known = tasks.order[:classes]
    order = ','.join(map(str, (*known, *sorted(set(tasks.order) - set(known)))))
    own = {'method': 'base', 'tasks': 1, 'task_sizes': (classes,), 'seed': seed, 'class_order': order}
    part = changed(common, own)
    digest = hashlib.sha256(json.dumps(fixed(part.to_dict()), sort_keys=True).encode()).hexdigest()[:12]
    found.append((part, root / f'{part.data.name}_{classes}_{digest}'))
  return found
