"""One process's part of a run: restores it, runs its phases, checks them, saves, stops."""

import itertools
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.devices import hosts
from abd_jax.devices.environment import environment, peak_memory
from abd_jax.errors import Diverged, Paused
from abd_jax.files import checksum_of_arrays
from abd_jax.run.checkpoint import Checkpoints, TeacherStore
from abd_jax.run.console import Console, PauseSignals
from abd_jax.run.plan import Plan
from abd_jax.run.workdir import Workdir
from abd_jax.state import TrainState
from abd_jax.steps import chunks
from abd_jax.steps.inputs import StepInputs

JUDGED = 100  # steps of a phase below which neither chance nor a dull generator says anything
_TESTED = 20  # images below which an accuracy says nothing
_SAME = 1 / 255  # of the range of pixels: no eye tells them apart


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
  """bool[n]: in one array, so that the host fetches one."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def not_finite(state: TrainState) -> list[str]:
  """Paths of the parameters and statistics with a value that is no number, such as 'params.head.bias'."""
  kept = {'params': state.params, 'batch_stats': state.batch_stats, 'extra': state.extra}
  paths, leaves = zip(*jax.tree.leaves_with_path(kept), strict=True)
  good = jax.device_get(_finite(list(leaves)))
  return [
    jax.tree_util.keystr(path, simple=True, separator='.') for path, one in zip(paths, good, strict=True) if not one
  ]


def dead(dreams: np.ndarray, labels: np.ndarray, classes: int) -> str:
  """Why nothing can be remembered from images f[n, h, w, c] in [0, 1] that a teacher labels i[n]; '' if it can."""
  if np.ptp(dreams, axis=0).max() < _SAME:
    return f'the generator is dead, its {len(dreams)} images are all the same'
  if classes > 1 and len(set(labels.tolist())) == 1:
    return f'the generator is dead, its {len(dreams)} images are all of one class'
  return ''


def at_chance(hits: np.ndarray, new: np.ndarray, classes: int) -> str:
  """Why a student has learnt nothing; '' if it has.

  Both on all it has seen and on the newest task it does no better than guessing: a method that forgets all but the
  newest classes is no such case. hits: bool[n] of the test images; new: bool[n], those of the newest task.
  """
  if classes == 1 or min(len(hits), new.sum()) < _TESTED:
    return ''
  chance = 1 / classes
  margin = lambda count: 2 * np.sqrt(chance * (1 - chance) / count)
  if all(some.mean() <= chance + margin(len(some)) for some in (hits, hits[new])):
    return f'the student is at chance, {100 * hits.mean():.1f} % of {classes} classes'
  return ''


PyTree = Any
COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
SECONDS_OF = {'student': 'train', 'generator': 'invert'}  # kind of state -> where Progress counts its time


class Session:
  """Restores a run's progress and states, and runs its phases from there."""

  def __init__(self, workdir: Workdir, plan: Plan, total_steps: int):
    self.workdir = workdir
    self.checkpoints, self.teacher_store = Checkpoints(workdir.path), TeacherStore(workdir.path)
    self.states, saved = self.checkpoints.restore(plan.abstract)
    self.progress, config = saved or plan.begin(), plan.config
    self._environment = environment(plan.mesh.size)
    workdir.cut_log(self.progress.log_bytes, self.progress.log_checksum)
    self._chunk_steps, self._collapse, self._profile = config.chunk_steps, config.collapse, config.profile
    self._save_every, self._limit = config.checkpoint_seconds, config.max_seconds
    self._began = self._saved = time.monotonic()
    self._total_steps = total_steps
    self._compiled = 0.0
    self._begun: set[int] = set()  # ids of the compiled steps that this process has called

  def __enter__(self) -> 'Session':
    done = sum(int(state.step) for state in self.states.values())
    self.console = Console(self._total_steps, done, silent=not self.workdir.is_main)
    jax.monitoring.register_event_duration_secs_listener(self._on_event)
    self._signals = PauseSignals(self.console.line).__enter__()
    if self.progress.runs_on(self._environment):
      self.console.line('other devices, versions or code than before: rounding may differ; results.json names both')
    return self

  def __exit__(self, *exc) -> None:
    self._signals.__exit__(*exc)
    jax.monitoring.unregister_event_duration_listener(self._on_event)
    self.console.close()
    self.checkpoints.wait()
    self.checkpoints.close()
    self.teacher_store.close()

  def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
    if event == COMPILE_EVENT:
      self._compiled += duration_secs
      self.console.compiled(duration_secs)

  @contextmanager
  def clock(self, what: str):
    """Counts the block's seconds as spent on `what`, those of compiling apart."""
    self._mark = time.monotonic(), self._compiled
    try:
      yield
    finally:
      self._count_seconds(what)

  def _count_seconds(self, what: str) -> None:
    """Those since the last mark; and marks now."""
    began, compiled = self._mark
    self._mark = time.monotonic(), self._compiled
    self.progress.spent(what, self._mark[0] - began, self._mark[1] - compiled)

  def run(self, kind: str, phase: str, chunk: chunks.Chunk, state: PyTree, data: PyTree, inputs: StepInputs) -> PyTree:
    """Runs what is left of the named phase, which trains `kind`; logs, saves, and returns the state after it.

    Raises Paused if told to stop, Diverged if a loss or a parameter is no longer finite.
    """
    progress, marks = self.progress, [time.monotonic(), self.progress.step]

    def on_chunk(state: PyTree, metrics: PyTree, done: int) -> None:
      means = {key: float(np.mean(values)) for key, values in metrics.items()}
      # Parameters too: what the last update of all did to them, no loss has seen.
      broken = [name for name, value in means.items() if not math.isfinite(value)] or not_finite(state)
      if broken:
        raise Diverged(
          f'task {progress.task + 1}, {phase}: {broken[0]} is not finite after step {done}. Lower its learning rate in '
          'another --workdir.'
        )
      now, count = time.monotonic(), done - marks[1]
      rate = count * inputs.images_per_step / (now - marks[0])
      marks[:] = now, done
      self._count_seconds(SECONDS_OF[kind])
      progress.step_done(done)
      self._log({'phase': phase, 'step': done} | means | {'images_per_second': round(rate, 1)})
      self.console.step(count, means, rate)
      if hosts.any_says(now - self._saved >= self._save_every or self._must_stop()):
        self.save(kind, state)

    new = id(chunk) not in self._begun
    self._begun.add(id(chunk))
    self.console.begin(f'task {progress.task + 1} {phase}', 'first steps')
    called = self._traced(chunk, phase) if new and self._profile and self.workdir.is_main else chunk
    began, busy, first = time.monotonic(), time.process_time(), progress.step
    try:
      with self.clock(SECONDS_OF[kind]):
        return chunks.run(called, state, data, inputs, range(first, inputs.steps), self._chunk_steps, on_chunk)
    finally:
      spent = {
        'seconds': round(time.monotonic() - began, 3),
        'cpu_seconds': round(time.process_time() - busy, 3),  # of all threads; what others do here is not in it
        'peak_bytes': peak_memory(),
      }
      self.workdir.log_phase({'task': progress.task, 'phase': phase, 'steps': progress.step - first} | spent)

  def _traced(self, chunk: chunks.Chunk, phase: str) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """`chunk`, whose second call is traced."""
    folder = self.workdir.path / 'profile' / f'task_{self.progress.task + 1}_{phase}'
    calls = itertools.count(1)

    def call(*arguments: PyTree) -> tuple[PyTree, PyTree]:
      if next(calls) != 2:
        return chunk(*arguments)
      with jax.profiler.trace(str(folder)):
        result = jax.block_until_ready(chunk(*arguments))
      self.console.line(f'one chunk of {phase} is traced: tensorboard --logdir {folder.parent}')
      return result

    return call

  def evaluated(self, seen: float | None, class_names: list[str], confusion: np.ndarray) -> None:
    """Logs the newest row of the accuracy matrix and the accuracy over all seen; writes the confusion i[c, c].

    seen: None where the test images of some classes are not at hand.
    """
    self.workdir.write_confusion(self.progress.task, class_names, confusion)
    row = self.progress.history.accuracy[-1]
    self._log({'phase': 'evaluating', 'accuracy': row, 'seen_accuracy': seen})
    said = 'on its classes alone' if seen is None else 'on all classes seen'
    value = row[-1] if seen is None else seen
    assert value is not None  # a run's own tasks have test images
    self.console.line(f'after task {len(row)}: accuracy {said} {100 * value:.1f} %')

  def collapsed(self, phase: str, why: str) -> None:
    """Ends the run, or tells of it, as config.collapse says; '' is no reason. Raises Diverged."""
    if not why:
      return
    where = f'task {self.progress.task + 1}, {phase}, after step {self.progress.step}: {why}'
    if self._collapse == 'stop':
      raise Diverged(
        f'{where}. Choose other rates or weights in another --workdir; --config.collapse=tell resumes nevertheless.'
      )
    self.console.line(where)

  def _log(self, record: dict) -> None:
    self.progress.logged(*self.workdir.log({'task': self.progress.task} | record))

  def save(self, kind: str, state: PyTree) -> None:
    """Saves `state` and the progress; raises Paused, with all on disk, if it is time to stop."""
    self.checkpoints.save(kind, state, self.progress.next_save(kind, checksum_of_arrays(state)))
    self._saved = time.monotonic()
    if hosts.any_says(self._must_stop()):
      self.checkpoints.wait()
      why = self._signals.received or f'max_seconds={self._limit:g}'
      at_end = self.progress.task and not (self.progress.phase or self.progress.step)
      where = f'after task {self.progress.task}' if at_end else f'in task {self.progress.task + 1}'
      raise Paused(f'paused ({why}) {where}; the same command resumes it')

  def _must_stop(self) -> bool:
    return bool(self._signals.received) or 0 < self._limit <= time.monotonic() - self._began
