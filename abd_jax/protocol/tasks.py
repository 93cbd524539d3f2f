"""Class orders, task sizes and relabelling: which class belongs to which task.

A class has two numbers: its `original id`, the data set's own label, and its `learning label`, its position
in the class order. Everything behind the data pipeline (head rows, masks, metrics) speaks learning labels.
"""

import dataclasses
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abd_jax.errors import UserError, nearest


def class_order(num_classes: int, trial: int) -> tuple[int, ...]:
  """The benchmark's order of the classes 0..num_classes-1 for `trial`, the seed of Python's own shuffle."""
  order = list(range(num_classes))
  random.Random(trial).shuffle(order)
  return tuple(order)


def parse_class_order(text: str, class_names: Sequence[str], trial: int) -> tuple[int, ...]:
  """The class order, as original ids, that `text` asks for.

  Args:
    text: '' for `class_order(len(class_names), trial)`; 'numpy:1993' for NumPy's legacy shuffle of that seed, as
      ImageNet's is, for every trial; '3,1,4,...' for the order itself; names of classes, each on a line of its own;
      anything else is the path of a text file of ids or of such names. Ids are separated by commas or whitespace.
    class_names: of all classes, by their ids, of which the order must be a permutation.
    trial: seed, used only for ''.

  Raises:
    UserError: the file cannot be read, or it is no such permutation.
  """
  text, where = order_text(text), 'config.class_order'
  if not text:
    return class_order(len(class_names), trial)
  if seed := _SHUFFLE.fullmatch(text):
    return tuple(np.random.RandomState(int(seed[1])).permutation(len(class_names)).tolist())
  if not _IDS.fullmatch(text):
    return _of_names(text.splitlines(), class_names, where)
  order = []
  for word in text.replace(',', ' ').split():
    try:
      order.append(int(word))
    except ValueError:
      raise UserError(f'{where}: {word!r} is not an integer.') from None
    if not 0 <= order[-1] < len(class_names):
      raise UserError(f'{where}: class id {order[-1]} is out of range 0..{len(class_names) - 1}.')
  _check_permutation(order, [f'id {k}' for k in range(len(class_names))], where)
  return tuple(order)


_SHUFFLE, _IDS = re.compile(r'numpy:(\d{1,9})'), re.compile(r'[-+\d,\s]+')


def order_text(text: str) -> str:
  """What stands in the file, if `text` is the path of one: ids between commas, or names, each with a line break.

  Raises UserError if it cannot be read.
  """
  if not text or '\n' in text or _SHUFFLE.fullmatch(text) or _IDS.fullmatch(text):
    return text
  try:
    content = Path(os.path.expanduser(text)).read_text()
  except (OSError, ValueError) as error:  # the latter of text that is none, and of paths that can be none
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise UserError(
      f'config.class_order file {text!r} cannot be read ({reason}); give ids such as 3,1,4 or a text file of ids or '
      'names.'
    ) from None
  if _IDS.fullmatch(content):
    return ','.join(content.replace(',', ' ').split())
  return ''.join(f'{line.strip()}\n' for line in content.splitlines() if line.strip()) or '\n'


def _of_names(lines: Sequence[str], class_names: Sequence[str], where: str) -> tuple[int, ...]:
  ids, order = {name: k for k, name in enumerate(class_names)}, []
  for name in filter(None, map(str.strip, lines)):
    if name not in ids:
      raise UserError(f"{where}: '{name}' is no class of the data.{nearest(name, class_names)}")
    order.append(ids[name])
  _check_permutation(order, [f"'{name}'" for name in class_names], where)
  return tuple(order)


def _check_permutation(order: Sequence[int], words: Sequence[str], where: str) -> None:
  """words: what to call each class."""
  seen = set()
  for class_id in order:
    if class_id in seen:
      raise UserError(f'{where}: class {words[class_id]} is listed twice.')
    seen.add(class_id)
  if missing := sorted(set(range(len(words))) - seen):
    raise UserError(f'{where}: class {words[missing[0]]} is missing ({len(order)} of {len(words)} given).')


def split(
  num_classes: int,
  num_tasks: int,
  first_task_classes: int = 0,
  task_sizes: Sequence[int] = (),
  uneven: bool = False,
) -> tuple[int, ...]:
  """The number of classes of each task.

  Args:
    num_classes: classes of the data set.
    num_tasks: number of tasks, where `task_sizes` does not say it.
    first_task_classes: if positive, the first task has this many classes; the others share the rest equally.
    task_sizes: if not empty, the answer itself. It may sum to less than `num_classes`: the classes left over
      are then never learnt.
    uneven: whether the first of equal tasks may have one class more, where classes are left over.

  Raises:
    UserError: the numbers do not fit.
  """
  if task_sizes:
    return _listed_sizes(num_classes, first_task_classes, tuple(task_sizes))
  if num_tasks < 1:
    raise UserError(f'config.tasks={num_tasks} must be at least 1.')
  if not first_task_classes:
    if uneven and num_classes > num_tasks:
      least, more = divmod(num_classes, num_tasks)
      return (least + 1,) * more + (least,) * (num_tasks - more)
    if num_classes % num_tasks:
      raise UserError(
        f'{num_classes} classes do not split into {num_tasks} equal tasks; '
        f'set config.tasks to {_nearest_divisors(num_classes, num_tasks)}, or list config.task_sizes.'
      )
    return (num_classes // num_tasks,) * num_tasks

  later_classes, later_tasks = num_classes - first_task_classes, num_tasks - 1
  if first_task_classes < 0 or later_classes < later_tasks:
    raise UserError(
      f'config.first_task_classes={first_task_classes} does not fit {num_classes} classes in {num_tasks} tasks; '
      f'set it to 1..{num_classes - later_tasks}.'
    )
  if later_tasks == 0 and later_classes:
    raise UserError(
      f'config.first_task_classes={first_task_classes} with config.tasks=1 leaves {later_classes} of {num_classes} '
      'classes; set config.tasks to 2 or more, or list config.task_sizes.'
    )
  if later_tasks and later_classes % later_tasks:
    remedy = _nearest_divisors(later_classes, later_tasks, add=1)
    raise UserError(
      f'the {later_classes} classes after config.first_task_classes={first_task_classes} do not split into '
      f'{later_tasks} equal tasks; set config.tasks to {remedy}, or list config.task_sizes.'
    )
  return (first_task_classes,) + (later_classes // max(later_tasks, 1),) * later_tasks


def _listed_sizes(num_classes: int, first_task_classes: int, task_sizes: tuple[int, ...]) -> tuple[int, ...]:
  if first_task_classes:
    raise UserError(
      'config.task_sizes and config.first_task_classes exclude each other; set config.first_task_classes to 0.'
    )
  if min(task_sizes) < 1:
    raise UserError(f'config.task_sizes has a task of {min(task_sizes)} classes; every task needs at least 1.')
  if sum(task_sizes) > num_classes:
    raise UserError(f'config.task_sizes sums to {sum(task_sizes)}, more than the {num_classes} classes there are.')
  return task_sizes


def _nearest_divisors(number: int, wish: int, add: int = 0) -> str:
  """'5 or 10': the divisors of `number` next below and above `wish`, each plus `add`."""
  divisors = [d for d in range(1, number + 1) if number % d == 0]
  near = [d for d in divisors if d < wish][-1:] + [d for d in divisors if d > wish][:1]
  return ' or '.join(str(d + add) for d in near)


@dataclasses.dataclass(frozen=True)
class Tasks:
  """A class order cut into tasks.

  Attributes:
    order: original class ids in learning order.
    sizes: number of classes of each task; may sum to less than `len(order)`.
  """

  order: tuple[int, ...]
  sizes: tuple[int, ...]

  @property
  def num_tasks(self) -> int:
    return len(self.sizes)

  @property
  def num_classes(self) -> int:
    """Width of the head: all classes of the data set, also those never learnt."""
    return len(self.order)

  @property
  def task_of_class(self) -> np.ndarray:
    """int32[c]: the 0-based task of each learning label; `num_tasks` for a class that is never learnt."""
    unlearnt = self.num_classes - sum(self.sizes)
    return np.repeat(np.arange(self.num_tasks + 1, dtype=np.int32), (*self.sizes, unlearnt))

  def original_ids(self, task: int) -> tuple[int, ...]:
    """The original ids of one task's classes, in learning order.

    Raises:
      IndexError: `task` is not in 0..num_tasks-1.
    """
    if not 0 <= task < self.num_tasks:
      raise IndexError(f'task {task} is not in 0..{self.num_tasks - 1}')
    start = sum(self.sizes[:task])
    return self.order[start : start + self.sizes[task]]

  def learning_labels(self, original: np.ndarray) -> np.ndarray:
    """Original ids int[...] -> int32[...] of the same shape: each id's position in `order`."""
    position = np.empty(self.num_classes, np.int32)
    position[list(self.order)] = np.arange(self.num_classes)
    return position[original]
