"""One process's part of a run: restores it, logs and saves it, measures its time, and stops when it must."""

import itertools
import math
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.devices import hosts
from abd_jax.devices.environment import environment, peak_memory
from abd_jax.errors import Diverged, Paused, PauseSignals
from abd_jax.files import checksum_of_arrays
from abd_jax.protocol.metrics import Evaluation
from abd_jax.run.checkpoint import Checkpoints, manifest_file, read_manifest, write_model
from abd_jax.run.console import Console
from abd_jax.run.load import load_teacher
from abd_jax.run.logs import confusion_file, write_confusion
from abd_jax.run.plan import Plan
from abd_jax.run.schedule import BASE, NamedPhase, TeacherId
from abd_jax.run.workdir import Workdir
from abd_jax.state import TaskSnapshot, TrainState
from abd_jax.steps.chunks import Chunk
from abd_jax.steps.inputs import StepInputs

PyTree = Any
COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
SECONDS_OF = {'student': 'train', 'generator': 'invert'}  # kind of state -> the entry of Progress.seconds


@jax.jit
def _are_finite(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def not_finite(state: TrainState) -> list[str]:
  """Paths of the parameters and statistics that hold a NaN or an infinity, such as 'params.head.bias'."""
  kept = {name: getattr(state, name) for name in ('params', 'batch_stats', 'extra', 'statistics')}
  good = jax.tree.leaves_with_path(jax.device_get(_are_finite(kept)))
  return [jax.tree_util.keystr(path, simple=True, separator='.') for path, one in good if not one]


class Session:
  """The input and output of a run while this process works on it. The learner owns the arrays."""

  def __init__(self, files: Workdir, plan: Plan):
    self.files, self._plan, self._config = files, plan, plan.config
    self.checkpoints, self._teachers = Checkpoints(files.path), files.path / 'teachers'
    # The newest saved state of each kind, for the learner to begin with, and where the run stands.
    self.states, saved = self.checkpoints.restore(plan.abstract)
    self.progress = saved or plan.begin()
    files.cut_log(self.progress.log_bytes, self.progress.log_checksum)
    self._began = self._saved = time.monotonic()
    self._compiled = 0.0
    self._mark = self._began, self._compiled
    self._called: set[int] = set()  # ids of the compiled steps that this process has called

  def __enter__(self) -> 'Session':
    done = sum(int(state.step) for state in self.states.values())
    total = self._plan.schedule.total_steps(self._plan.stream.labels)
    self.console = Console(total, done, silent=not self.files.is_main)
    jax.monitoring.register_event_duration_secs_listener(self._on_event)
    self._signals = PauseSignals().__enter__()
    if self.progress.runs_on(environment(self._plan.mesh.size)):
      self.console.line('other devices, versions or code than before: rounding may differ; results.json names both')
    return self

  def __exit__(self, *exc) -> None:
    self._signals.__exit__(*exc)
    jax.monitoring.unregister_event_duration_listener(self._on_event)
    self.console.close()
    self.checkpoints.wait()
    self.checkpoints.close()

  # Time.

  def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
    if event == COMPILE_EVENT:
      self._compiled += duration_secs
      self.console.compiled(duration_secs)

  @contextmanager
  def clock(self, what: str) -> Iterator[None]:
    """Adds the block's seconds to progress.seconds[what], those of compiling to 'compile'."""
    self._mark = time.monotonic(), self._compiled
    yield
    self._count_seconds(what)

  def _count_seconds(self, what: str) -> None:
    """Adds the seconds since the last mark, and sets a new mark."""
    began, compiled = self._mark
    self._mark = time.monotonic(), self._compiled
    seconds, compiling = self._mark[0] - began, self._mark[1] - compiled
    self.progress.seconds['compile'] += compiling
    self.progress.seconds[what] += seconds - compiling

  # Frozen models.

  def load_teachers(self, frozen: list[TeacherId], needed: int) -> list[TaskSnapshot]:
    """The newest `needed` of the models frozen so far, the newest last.

    Also checks the files of the older ones that are still there. Raises UserError for a missing or damaged model.
    """
    for folder in (self._teachers / one.folder for one in frozen[:-needed] if one != BASE):
      if folder.exists() or manifest_file(folder).exists():
        read_manifest(folder)
    load = lambda one: self._plan.mesh.replicate(load_teacher(self.files.path, one)[2])
    return [self._plan.base_snapshot() if one == BASE else load(one) for one in frozen[-needed:]]

  def store_teacher(self, one: TeacherId, snapshot: TaskSnapshot, no_longer_kept: list[TeacherId]) -> None:
    """Writes a frozen model with its manifest. First removes those that are no longer kept, to make room."""
    if no_longer_kept:
      self.checkpoints.wait()
      self.files.remove_teachers(no_longer_kept)
    write_model(self._teachers / one.folder, snapshot, self._plan.manifest(one.task))

  # Phases.

  @contextmanager
  def phase(self, phase: NamedPhase) -> Iterator[None]:
    """Surrounds the steps of a phase: clocks them, and appends their cost to phases.jsonl."""
    progress = self.progress
    self.console.begin(f'task {progress.task + 1} {phase.name}')
    began, busy, first = time.monotonic(), time.process_time(), progress.step
    self._chunk_began = began, first
    try:
      with self.clock(SECONDS_OF[phase.kind]):
        yield
    finally:
      spent = {
        'task': progress.task,
        'phase': phase.name,
        'steps': progress.step - first,
        'seconds': round(time.monotonic() - began, 3),
        'cpu_seconds': round(time.process_time() - busy, 3),  # of all threads of this process
        'peak_bytes': peak_memory(),
      }
      self.files.append('phases.jsonl', spent)

  def chunk_done(self, phase: NamedPhase, state: TrainState, metrics: PyTree, done: int, inputs: StepInputs) -> None:
    """Logs a chunk's metrics, f[k] each. Raises Diverged if a metric or a parameter is no longer finite."""
    means = {key: float(np.mean(values)) for key, values in metrics.items()}
    # Parameters too: no loss has seen what the last update did to them.
    broken = [name for name, value in means.items() if not math.isfinite(value)] or not_finite(state)
    if broken:
      raise Diverged(
        f'task {self.progress.task + 1}, {phase.name}: {broken[0]} is not finite after step {done}. Lower its learning '
        'rate in another --workdir.'
      )
    (began, first), now = self._chunk_began, time.monotonic()
    self._chunk_began = now, done
    rate = (done - first) * inputs.images_per_step / (now - began)
    self._count_seconds(SECONDS_OF[phase.kind])
    self.progress.step = done
    self._log({'phase': phase.name, 'step': done} | means | {'images_per_second': round(rate, 1)})
    self.console.step(done - first, means, rate)

  def traced(self, chunk: Chunk, phase: NamedPhase) -> Any:
    """`chunk`, the second call of which is profiled if config.profile asks for it and this step is new."""
    if not self._config.profile or not self.files.is_main or id(chunk) in self._called:
      return chunk
    self._called.add(id(chunk))
    folder = self.files.path / 'profile' / f'task_{self.progress.task + 1}_{phase.name}'
    calls = itertools.count(1)

    def call(*arguments: PyTree) -> tuple[PyTree, PyTree]:
      if next(calls) != 2:
        return chunk(*arguments)
      with jax.profiler.trace(str(folder)):
        result = jax.block_until_ready(chunk(*arguments))
      self.console.line(f'profiled one chunk of {phase.name}: tensorboard --logdir {shlex.quote(str(folder.parent))}')
      return result

    return call

  def evaluated(self, found: Evaluation) -> None:
    """Logs accuracies by task and over all classes; writes the confusion matrix."""
    names, row, seen = self._plan.stream.class_names, found.accuracy, found.seen
    if self.files.is_main:
      write_confusion(
        confusion_file(self.files.path, self.progress.task), names[: len(found.confusion)], found.confusion
      )
    self._log({'phase': 'evaluating', 'accuracy': row, 'seen_accuracy': seen})
    classes, value = ('its own classes', row[-1]) if seen is None else ('all classes seen', seen)
    assert value is not None  # a run's own tasks have test images
    self.console.line(f'after task {len(row)}: accuracy on {classes} {100 * value:.1f} %')

  def collapsed(self, phase: NamedPhase, why: str) -> None:
    """Ends the run with Diverged, or only prints why, as config.collapse says. Does nothing if `why` is ''."""
    if not why:
      return
    where = f'task {self.progress.task + 1}, {phase.name}, after step {self.progress.step}: {why}'
    if self._config.collapse == 'stop':
      raise Diverged(
        f'{where}. Choose other rates or weights in another --workdir; --config.collapse=tell resumes nevertheless.'
      )
    self.console.line(where)

  def _log(self, record: dict) -> None:
    self.files.log({'task': self.progress.task} | record)

  # Saving.

  def save(self, phase: NamedPhase, state: TrainState, at_end: bool = True) -> None:
    """Saves the state that a phase trains, and the progress. Raises Paused, all on disk, if the run must stop.

    at_end: of the phase; before, nothing is saved until config.checkpoint_seconds are over or the run must stop.
    """
    due = time.monotonic() - self._saved >= self._config.checkpoint_seconds or self._must_stop()
    if not (at_end or hosts.any_says(due)):
      return
    self.progress.log_bytes, self.progress.log_checksum = self.files.log_state()
    self.checkpoints.save(phase.kind, state, self.progress.next_save(phase.kind, checksum_of_arrays(state)))
    self._saved = time.monotonic()
    if hosts.any_says(self._must_stop()):
      self.checkpoints.wait()
      why = self._signals.received or f'max_seconds={self._config.max_seconds:g}'
      complete = self.progress.task and not (self.progress.phase or self.progress.step)
      where = f'after task {self.progress.task}' if complete else f'in task {self.progress.task + 1}'
      raise Paused(f'paused ({why}) {where}; the same command resumes it')

  def _must_stop(self) -> bool:
    return bool(self._signals.received or 0 < self._config.max_seconds <= time.monotonic() - self._began)
