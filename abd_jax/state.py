"""The pytrees that flow through every step."""

from typing import Any

import jax
from flax import struct

PyTree = Any
Array = Any  # jax.Array on the devices, np.ndarray until it is there


class TrainState(struct.PyTreeNode):
  """Whatever is being trained: the student or the generator.

  `extra` holds parameters a method owns, or {}; `statistics` what a method measures and no step changes, or {}.
  """

  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  step: Array  # i32[], counted over the whole run; randomness is a function of it
  extra: PyTree
  statistics: PyTree = struct.field(default_factory=dict)

  @property
  def variables(self) -> PyTree:
    return {'params': self.params, 'batch_stats': self.batch_stats}


class FrozenModel(struct.PyTreeNode):
  """A frozen student and, where a method dreams, the generator trained by inverting it. Never updated."""

  params: PyTree
  batch_stats: PyTree
  extra: PyTree
  generator: PyTree  # {'params', 'batch_stats'} or {}
  statistics: PyTree = struct.field(default_factory=dict)

  @property
  def variables(self) -> PyTree:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def freeze(student: TrainState, generator: TrainState | None = None) -> FrozenModel:
  """A student's weights and statistics, with its generator's if there is one, without optimizer state."""
  dreams = generator.variables if generator else {}
  return FrozenModel(student.params, student.batch_stats, student.extra, dreams, student.statistics)


class TaskSnapshot(struct.PyTreeNode):
  """What stands in a folder of teachers/: a frozen model, and the memory as it then was, padded, or {}."""

  model: FrozenModel
  memory: PyTree


class Classes(struct.PyTreeNode):
  """Which classes are old, new and seen: arrays, so that one compiled step serves every task.

  Classes are numbered in learning order; `task` is 0-based; classes never learnt carry a task past the last.
  """

  task_of_class: Array  # i32[c]
  task: Array  # i32[]

  @property
  def old(self) -> jax.Array:
    """bool[c]"""
    return self.task_of_class < self.task

  @property
  def new(self) -> jax.Array:
    """bool[c]"""
    return self.task_of_class == self.task

  @property
  def seen(self) -> jax.Array:
    """bool[c]"""
    return self.task_of_class <= self.task


class PhaseData(struct.PyTreeNode):
  """What all steps of a phase read and none writes."""

  images: Array | None  # u8[n, h, w, c], one task's, padded to the largest; None while dreaming, or streaming
  labels: Array | None  # i32[n], in learning order
  classes: Classes
  teachers: tuple[FrozenModel, ...]  # newest first
  seed: Array  # u32[]
