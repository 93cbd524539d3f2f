"""Several runs of one host at once, each in a process of its own, with a share of its accelerators."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from abd_jax.config import Config, changed
from abd_jax.run.signals import PauseSignals

Environment = dict[str, str]  # variables over this process's own
# In a process of its own, for one that has asked holds the devices until it ends. A TPU chip may be two devices.
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
  """What shows a process one accelerator of this host, for each of them; [] on a host with a CPU only."""
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
  """Environments for so many processes at once: an accelerator each, or a part of one's memory where they are fewer.

  cache: a folder that they share for compiled programs, unless the user has named one.
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
  """Runs them all, as many at once as there are environments; a signal to pause is passed on.

  Args:
    runs: in this order.
    environments: of the processes.
    tell: called with each line that a run says on stderr, its name before it.
    max_seconds: over all of them; 0 for no limit.

  Returns: the exit codes of those that were started, by name: 0 for complete or paused.
  """
  free, began, codes = queue.SimpleQueue(), time.monotonic(), {}
  alive: dict[str, subprocess.Popen] = {}
  for environment in environments:
    free.put(environment)
  with PauseSignals(tell) as signals, ThreadPoolExecutor(len(environments)) as pool:

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
      if signals.received:  # once to each, also to one that was just being started: twice would stop it
        for name, process in list(alive.items()):
          if name not in told:
            told.add(name)
            process.send_signal(signal.SIGTERM)
  return {name: 0 if name in told and code in _STOPPED else code for name, code in codes.items()}


def _start(run: Run, environment: Environment, max_seconds: float) -> subprocess.Popen:
  """Its process. It has a session of its own, so that Ctrl-C reaches it once, through this one."""
  words = [sys.executable, '-m', 'abd_jax', 'train', '--config=-', f'--workdir={run.workdir}']
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE, 'text': True}
  process = subprocess.Popen(words, env=os.environ | environment, start_new_session=True, **pipes)
  assert process.stdin is not None
  with process.stdin as stdin:
    stdin.write(json.dumps(changed(run.config, {'max_seconds': max_seconds}).to_dict()))
  return process
