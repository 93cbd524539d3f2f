"""One process's stretch of a run: where it stands, when it saves, when it must stop."""

import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from abd_jax import loop
from abd_jax.checkpoint import Checkpoints
from abd_jax.console import Console
from abd_jax.errors import UserError
from abd_jax.workdir import Workdir

PyTree = Any
COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'


class Paused(Exception):
  """The run has saved itself and stops here; the same command goes on."""


@dataclass
class Measured:
  """What evaluation has found so far, as fractions: a row for each task learnt, and the newest by class."""

  accuracy: list[list[float]] = field(default_factory=list)
  top5_accuracy: list[list[float]] = field(default_factory=list)
  class_accuracy: list[float] = field(default_factory=list)
  class_top5_accuracy: list[float] = field(default_factory=list)


@dataclass
class Position:
  """Everything about a run that is not an array. Saved with every checkpoint."""

  saves: dict[str, int] = field(default_factory=dict)  # number of the newest save of each kind
  task: int = 0  # 0-based
  phase: int = 0  # of the task; the one after the student's last is dreaming
  step: int = 0  # steps done in this phase
  measured: Measured = field(default_factory=Measured)
  seconds: dict[str, float] = field(
    default_factory=lambda: {'compile': 0.0, 'train': 0.0, 'invert': 0.0, 'evaluate': 0.0}
  )
  log_bytes: int = 0


class Session:
  """Restores a run's position and states on entering, and runs its phases from there."""

  def __init__(self, workdir: Workdir, abstract: dict[str, PyTree], config, total_steps: int):
    self.workdir = workdir
    self.checkpoints = Checkpoints(workdir.path)
    self.states, position = self.checkpoints.restore(abstract)
    self.position = Position(**position) if position else Position()
    if position:
      self.position.measured = Measured(**position['measured'])
    workdir.cut_log(self.position.log_bytes)
    self._chunk_steps = config.chunk_steps
    self._save_every, self._limit = config.checkpoint_seconds, config.max_seconds
    self._began = self._saved = time.monotonic()
    self._stop_signal = ''
    self._total_steps = total_steps
    self._compiled = 0.0

  def __enter__(self) -> 'Session':
    done = sum(int(state.step) for state in self.states.values())
    self.console = Console(self._total_steps, done)
    jax.monitoring.register_event_duration_secs_listener(self._on_event)
    # A second Ctrl-C stops at once.
    self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *exc) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    jax.monitoring.unregister_event_duration_listener(self._on_event)
    self.console.close()
    self.checkpoints.wait()
    self.checkpoints.close()

  def _on_event(self, event: str, seconds: float, **_) -> None:
    if event == COMPILE_EVENT:
      self._compiled += seconds

  def _on_signal(self, number: int, _frame) -> None:
    self._stop_signal = signal.Signals(number).name
    signal.signal(number, self._handlers[number])

  @contextmanager
  def clock(self, name: str):
    """Adds the block's seconds to position.seconds[name], those spent compiling to 'compile'."""
    self._mark = time.monotonic(), self._compiled
    try:
      yield
    finally:
      self._add_seconds(name)

  def _add_seconds(self, name: str) -> None:
    """Those since the last mark; and marks now."""
    began, compiled = self._mark
    self._mark = time.monotonic(), self._compiled
    self.position.seconds['compile'] += self._mark[1] - compiled
    self.position.seconds[name] += self._mark[0] - began - (self._mark[1] - compiled)

  def run(self, kind: str, chunk: loop.Chunk, state: PyTree, context: PyTree, inputs: Any) -> PyTree:
    """Runs what is left of a phase that trains `kind`; logs, saves, and returns the state after it.

    inputs: `inputs(start, stop)` gives those steps' inputs; `.steps` is the phase's length, `.images` those of a step.
    Raises Paused if told to stop, UserError if a loss is no longer finite.
    """
    name, clock = {'student': ('learning', 'train'), 'generator': ('dreaming', 'invert')}[kind]
    at, marks = self.position, [time.monotonic(), self.position.step]
    if kind == 'student' and at.phase > 0:
      name = f'{name}_{at.phase + 1}'  # a method's second phase on one task

    def on_chunk(state: PyTree, metrics: PyTree, done: int) -> None:
      means = {key: float(np.mean(values)) for key, values in metrics.items()}
      if not np.isfinite(list(means.values())).all():
        raise UserError(
          f'task {at.task + 1}, {name}: a loss is not finite after step {done} ({means}). Lower its learning rate in '
          'another --workdir.'
        )
      now, count = time.monotonic(), done - marks[1]
      rate = count * inputs.images / (now - marks[0])
      marks[:] = now, done
      self._add_seconds(clock)
      at.step = done
      record = {'task': at.task, 'phase': name, 'step': done} | means | {'images_per_second': round(rate, 1)}
      at.log_bytes = self.workdir.log(record)
      self.console.step(f'task {at.task + 1} {name}', count, means, rate)
      if _agreed(now - self._saved >= self._save_every or self._must_stop()):
        self.save(kind, state)

    with self.clock(clock):
      return loop.run(chunk, state, context, inputs, range(at.step, inputs.steps), self._chunk_steps, on_chunk)

  def evaluated(self, seen: float) -> None:
    """Logs the newest row of the accuracy matrix and the accuracy over all classes seen."""
    row = self.position.measured.accuracy[-1]
    record = {'task': self.position.task, 'phase': 'evaluating', 'accuracy': row, 'seen_accuracy': seen}
    self.position.log_bytes = self.workdir.log(record)
    self.console.line(f'after task {len(row)}: accuracy on all classes seen {100 * seen:.1f} %')

  def save(self, kind: str, state: PyTree) -> None:
    """Saves `state` and the position; raises Paused, with all on disk, if it is time to stop."""
    self.position.saves[kind] = 1 + max(self.position.saves.values(), default=0)
    self.checkpoints.save(kind, state, asdict(self.position))
    self._saved = time.monotonic()
    if _agreed(self._must_stop()):
      self.checkpoints.wait()
      why = self._stop_signal or f'max_seconds={self._limit:g}'
      raise Paused(f'paused ({why}) in task {self.position.task + 1}; the same command goes on from here')

  def _must_stop(self) -> bool:
    return bool(self._stop_signal) or 0 < self._limit <= time.monotonic() - self._began


def _agreed(mine: bool) -> bool:
  """Whether any host says so: clocks and signals differ between hosts, and all must save together."""
  if jax.process_count() == 1:
    return mine
  return bool(multihost_utils.process_allgather(np.asarray(mine)).any())
