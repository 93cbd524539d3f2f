"""What a method is made of. Each method is one file in this folder, found by its name.

The file holds `make(config) -> Method` and, where needed, these tables, which abd_jax/config.py collects:

  SETTINGS   the method's own fields: name -> abd_jax.fields type. They become config.<method>.<name>
  READS      other groups of fields that the method reads: 'memory', or the group of another method
  RECIPE     what the method changes in a config: dotted field -> value, or a `Share` of the config's own value
  RECIPE_ON  data.name -> what it changes instead on that data set

A Method is a value: phases of training, each with a loss. The loop, the steps and the checkpoints know no
method's name. A loss is a pure function of `LossInputs` that returns (value f[], metrics dict of f[]).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax.data.memory import ExemplarPolicy, Pool, task_only
from abd_jax.fields import Choice, Number
from abd_jax.state import Classes, FrozenModel

PyTree = Any
MEMORY = {  # the group of all methods that store images
  'size': Number(2000, 0, 10**9),  # images
  'per_class': Number(0, 0, 10**6),  # >0: images of each class instead of `size`, with room for all classes at once
  'redraw': Choice('never', 'released'),  # 'released': random memories fill up with copies, as in the authors' code
}


class Output(NamedTuple):
  """What a network says about the joined batch, its linear head, and the method's own parameters beside it."""

  features: jax.Array  # f[n, d]
  logits: jax.Array  # f[n, c]
  kernel: jax.Array  # f[d, c]
  bias: jax.Array  # f[c]
  extra: PyTree  # what Method.extra_init made, or {}
  statistics: PyTree  # what Method.end_task made of Method.statistics_init's, or {}


class LossInputs(NamedTuple):
  """What a loss may look at. Labels of dreamed rows are the newest teacher's choice among the old classes."""

  images: jax.Array  # f[n, h, w, ch], augmented and normalised
  student: Output
  teachers: tuple[Output, ...]  # newest first; no gradient flows into them
  labels: jax.Array  # i32[n], in learning order
  is_real: jax.Array  # bool[n], neither a dream nor turned
  classes: Classes
  key: jax.Array  # for losses that draw


Loss = Callable[[LossInputs], tuple[jax.Array, dict[str, jax.Array]]]


# (params, extra, key, Classes) -> (params, extra): what is made anew at the start of each task.
StartTask = Callable[[PyTree, PyTree, jax.Array, Classes], tuple[PyTree, PyTree]]


class TaskEnd(NamedTuple):
  """What two models make of the same samples at the end of a task: its images, augmented copies of them, and dreams."""

  old: jax.Array  # f[n, d], features of the model of the task before; in the first task the student's
  new: jax.Array  # f[n, d], of the student
  labels: jax.Array  # i32[n], in learning order; of a dream: any
  kinds: jax.Array  # i32[n], 0: an image, 1: a copy, 2 and more: a dream
  there: jax.Array  # bool[n]; the rest is padding, so that all tasks have one shape
  classes: Classes
  statistics: PyTree  # as the task before left them


@dataclass(frozen=True)
class Phase:
  """One stretch of training on one task."""

  loss: Loss
  epochs: int
  lr: float
  milestones: tuple[int, ...] = ()  # 0-based epochs from which the rate is divided by ten
  data: Callable[[Pool, np.random.Generator], np.ndarray] = task_only  # the rows of the pool it trains on
  teachers: int = 0  # how many of the newest frozen models the loss sees
  dreams: bool = False  # adds to each real batch as many dreamed images, labelled by the newest teacher
  dreamer: Callable[[FrozenModel, jax.Array, int], jax.Array] | None = None  # (.., key, size); None: a generator's
  turns: bool = False  # each real image is followed by itself turned by 90, 180 and 270 degrees; not with dreams
  joint_bn: bool = True  # real and dreamed images share batch norm's moments
  bn_passes: int = 1  # times each batch is folded into the running statistics; 0: they are used, and left alone
  trainable: tuple[str, ...] = ('backbone', 'head')  # groups of parameters: these, and the keys of `extra`
  observe: Callable[[PyTree, jax.Array], PyTree] | None = None  # (extra, labels of a batch) -> extra
  reset_optimizer: bool = True  # at the start of the phase
  freeze_after: bool = False  # the model as it then is becomes the newest teacher, and the memory is refreshed

  def __post_init__(self) -> None:
    if self.dreams and (self.turns or not self.teachers):
      raise ValueError('dreams=True needs teachers=1, for the newest teacher labels what is dreamed, and turns=False')


@dataclass(frozen=True)
class Method:
  """A way of learning classes task after task."""

  first: tuple[Phase, ...]  # phases of the first task, when there is nothing to remember
  later: tuple[Phase, ...]  # phases of every later task
  extra_init: Callable[[jax.Array, int], PyTree] | None = None  # (key, classes) -> {group: ...}, its own parameters
  start_task: StartTask | None = None
  statistics_init: Callable[[int, int], PyTree] | None = None  # (features, classes) -> what is kept, but never trained
  end_task: Callable[[TaskEnd], PyTree] | None = None  # -> the statistics, after a task's last phase
  generator: bool = False  # asks for one even if no phase trains on its dreams
  logits: Callable[[Output, Classes], jax.Array] | None = None  # to predict by, in place of the head's own
  memory: ExemplarPolicy | None = None  # how stored images are chosen; None: none is ever stored
  offline: bool = False  # an upper bound: for each task a fresh model that learns all classes so far

  def phases(self, task: int) -> tuple[Phase, ...]:
    return self.later if task else self.first

  @property
  def still(self) -> bool:
    """Whether the network stays as the first task left it."""
    return not any(phase.epochs for phase in self.later)

  @property
  def inverts(self) -> bool:
    """Whether a generator must be trained at the end of a task."""
    return self.generator or any(phase.dreams and phase.dreamer is None for phase in self.later)


def student_schedule(student) -> dict[str, Any]:
  """The epochs, rate and milestones of most phases. student: config.student."""
  return dict(epochs=student.epochs, lr=student.lr, milestones=tuple(student.milestones))
