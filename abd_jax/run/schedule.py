"""The order of a run: which phases each task has, which rows they train on, which models they freeze. Pure NumPy."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from abd_jax.data import memory as memory_lib
from abd_jax.data.memory import ExemplarPolicy, Pool
from abd_jax.methods.types import Method, Phase
from abd_jax.protocol.tasks import Tasks
from abd_jax.steps.inputs import steps_per_epoch
from abd_jax.steps.rng import host_rng

POOL_ROUNDING = 256  # images


class TeacherId(NamedTuple):
  """Which frozen model: that of the end of a task, or of the end of one of its earlier phases."""

  task: int  # 0-based
  phase: int | None = None  # 0-based; None: the end of the task

  @property
  def folder(self) -> str:
    """Its name below teachers/."""
    return f'{self.task}' if self.phase is None else f'{self.task}_phase_{self.phase}'

  @classmethod
  def of_folder(cls, name: str) -> 'TeacherId | None':
    """The model whose `folder` is `name`; None if it is no such name."""
    match = re.fullmatch(r'(\d+)(?:_phase_(\d+))?', name)
    return match and cls(int(match[1]), None if match[2] is None else int(match[2]))


BASE = TeacherId(-1)  # in no folder: the model of another run that this one starts from


class NamedPhase(NamedTuple):
  """A part of a run under the name that logs and checkpoints give it. Each ends with a save."""

  name: str  # 'learning', 'learning_2', ... or 'dreaming'
  index: int  # among the task's phases
  training: Phase | None  # how the student learns; None while dreaming, when the generator does
  evaluates: bool  # whether accuracy is measured at its end: the student's last phase on the task
  frozen: TeacherId | None  # the model that is frozen at its end

  @property
  def kind(self) -> str:
    """Which state it trains."""
    return 'student' if self.training else 'generator'


@dataclass(frozen=True)
class Schedule:
  """A method's phases over the tasks."""

  method: Method
  tasks: Tasks  # the classes of each task
  seed: int  # of the rows that a phase or the memory draws
  batch_size: int  # the student's, in real images
  inversion_steps: int  # of the generator, after every task but the last
  memory_size: int  # images for which the memory has room; 0 for a method that stores none
  known: int = 0  # how many tasks another run has learnt, whose last model this one starts from
  stored: tuple[int, ...] = ()  # the labels of the images in that run's memory
  per_class: int = 0  # images of each class that the memory keeps; 0: all classes share its room

  @property
  def start(self) -> tuple[int, str]:
    """(0-based task, phase) that the run begins with, '' for a task's first: dreaming of the model it starts from."""
    if self.known and self.dreams_after(self.known - 1):
      return self.known - 1, 'dreaming'
    return self.known, ''

  def phases(self, task: int) -> tuple[NamedPhase, ...]:
    """The phases of 0-based `task`, in order. The model at the end of the last one is the task's own."""
    training = self.method.phases(task)
    last, dreams = len(training) - 1, self.dreams_after(task)
    named = []
    for k, phase in enumerate(training):
      frozen = TeacherId(task, k) if phase.freeze_after and k < last else None
      if k == last and not dreams:
        frozen = TeacherId(task)
      named.append(NamedPhase('learning' if k == 0 else f'learning_{k + 1}', k, phase, k == last, frozen))
    if dreams:
      named.append(NamedPhase('dreaming', len(training), None, False, TeacherId(task)))
    return tuple(named)

  def dreams_after(self, task: int) -> bool:
    """Whether a generator is trained at the end of `task`: not after the last."""
    return self.method.inverts and task + 1 < self.tasks.num_tasks

  @property
  def teachers_kept(self) -> int:
    """How many frozen models a phase may ask for, at least one."""
    return max(1, *(phase.teachers for phase in self.method.later))

  def after(self, task: int, phase: NamedPhase) -> tuple[int, str]:
    """(0-based task, name of the phase) that follows a phase of `task`; '' for the next task's first."""
    following = self.phases(task)[phase.index + 1 :]
    return (task, following[0].name) if following else (task + 1, '')

  def frozen_before(self, task: int, name: str) -> list[TeacherId]:
    """The models that are frozen when that phase of `task` begins, the newest last."""
    frozen = [BASE] if self.known else []
    for t, phase in self.from_place(*self.start):
      if t == task and name in ('', phase.name):
        break
      frozen += [phase.frozen] if phase.frozen else []
    return frozen

  def from_place(self, first: int, name: str) -> Iterator[tuple[int, NamedPhase]]:
    """(0-based task, phase) of what is left from that phase of a task on, in order; '' for all of the task."""
    left = ((task, phase) for task in range(first, self.tasks.num_tasks) for phase in self.phases(task))
    return itertools.dropwhile(lambda one: one[0] == first and name not in ('', one[1].name), left)

  def pool_size(self, task_images: tuple[int, ...]) -> int:
    """Images on the devices: a phase's most, rounded up, so that other class orders find their programs compiled."""
    most = max(task_images) + self.memory_size
    return -(-most // POOL_ROUNDING) * POOL_ROUNDING

  def rows(self, task: int, phase: int, pool: Pool) -> np.ndarray:
    """i64[n]: the rows of `pool` that a phase trains on."""
    return self.method.phases(task)[phase].data(pool, host_rng('rows', self.seed, task, phase))

  def kept_rows(
    self, task: int, phase: int, pool: Pool, features: np.ndarray | None, policy: ExemplarPolicy | None = None
  ) -> np.ndarray:
    """i64[m]: the rows of `pool` that the memory keeps after a phase that ends in a frozen model.

    features: f[n, d] of the task's rows, if memory.looks_at_features. policy: in place of the method's.
    """
    rows, rng = self.rows(task, phase, pool), host_rng('memory', self.seed, task, phase)
    policy = policy or self.method.memory
    assert policy is not None, 'this method stores no images'
    size = self.per_class * sum(self.tasks.sizes[: task + 1]) or self.memory_size
    return memory_lib.kept_rows(policy, size, pool, rows, features, rng)

  def phase_steps(self, task: int, phase: NamedPhase, pool: Pool) -> int:
    """Steps of the student in one phase; none while dreaming. pool: the task's."""
    if phase.training is None:
      return 0
    return phase.training.epochs * steps_per_epoch(len(self.rows(task, phase.index, pool)), self.batch_size)

  def total_steps(self, labels: Callable[[int], np.ndarray]) -> int:
    """Steps of all phases and of all dreaming. labels: i32[n] of a task's training images.

    Walks through the tasks as the run will, so that a split that cannot work raises its UserError at the start.
    """
    in_order = ExemplarPolicy(lambda n, features, rng, count: np.arange(n)[:count])
    stored, steps = np.asarray(self.stored, np.int32), 0
    for task, phase in self.from_place(*self.start):
      if phase.training is None:
        steps += self.inversion_steps
        continue
      pool = memory_lib.join(labels(task), stored)
      steps += self.phase_steps(task, phase, pool)
      if self.method.memory and phase.frozen:
        stored = pool.labels[self.kept_rows(task, phase.index, pool, None, in_order)]
    return steps
