"""Class orders, task sizes and relabelling: which class belongs to which task.

A class has two numbers: its `original id`, the data set's own label, and its `learning label`, its position in the
class order. After the data pipeline (head rows, masks, metrics) classes are learning labels.
"""

import dataclasses
import os
import random
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abd_jax.errors import UserError, nearest


def class_order(num_classes: int, trial: int) -> tuple[int, ...]:
  """The benchmark's order of the classes 0..num_classes-1 for `trial`, the seed of Python's own shuffle."""
  order = list(range(num_classes))
  random.Random(trial).shuffle(order)
  return tuple(order)


_FORMS = (
  "ids such as 3,1,4, names such as cat,dog, a text file of either, or NumPy's shuffle such as numpy:1993; ids: or "
  'names: in front where numbers are names too'
)


def parse_class_order(text: str, class_names: Sequence[str], trial: int) -> tuple[int, ...]:
  """The class order, as original ids, that `text` describes.

  Args:
    text: '' for `class_order(len(class_names), trial)`; 'numpy:1993' for NumPy's legacy shuffle with that seed, as
      ImageNet's is, for every trial; ids between commas or whitespace; names of classes, between commas or one a line;
      or the path of a text file of ids or names. 'ids:' or 'names:' may stand in front. Otherwise words are names if
      one is no number, or if they are numbers that are names but not all ids.
    class_names: of all classes, by their ids. The order must be a permutation of them.
    trial: seed, used only for ''.

  Raises:
    UserError: the file cannot be read, its content is no such permutation, or numbers may be ids or names.
  """
  text = order_text(text)
  if not text:
    return class_order(len(class_names), trial)
  if seed := _SHUFFLE.fullmatch(text):
    return tuple(np.random.RandomState(int(seed[1])).permutation(len(class_names)).tolist())
  kind, body = _ORDER.findall(text)[0]
  words, names = _words(body), [unicodedata.normalize('NFC', name) for name in class_names]
  ids = [word.lstrip('0') or '0' for word in words]
  numbers = [str(k) for k in range(len(names))]
  kind = kind or ('ids:' if _NUMBERS.fullmatch(body) and _mean_ids(words, ids, names) else 'names:')
  words, known = (ids, numbers) if kind == 'ids:' else (words, names)
  place = {name: k for k, name in enumerate(known)}
  for k, word in enumerate(words):
    if word not in place:
      expected = f'an id from 0 to {len(names) - 1}' if kind == 'ids:' else 'the name of a class'
      raise UserError(f"config.class_order: expected {expected}, got '{word}'.{nearest(word, class_names)}")
    if word in words[:k]:
      raise UserError(f"config.class_order: class '{word}' is listed twice.")
  if missing := [name for name in known if name not in set(words)]:
    raise UserError(f"config.class_order: class '{missing[0]}' is missing ({len(words)} of {len(names)} given).")
  return tuple(place[word] for word in words)


_SHUFFLE, _NUMBERS = re.compile(r'numpy:(\d{1,9})'), re.compile(r'[-+\d,\s]+')
_ORDER = re.compile(r'(ids:|names:)?(.*)', re.DOTALL)


def _mean_ids(words: list[str], ids: list[str], names: list[str]) -> bool:
  """Whether numbers are ids rather than names. Raises UserError if they may be either, and name different classes."""
  if sorted(ids) != sorted(map(str, range(len(names)))):
    return not set(words) & set(names)
  if other := [word for word, number in zip(words, ids, strict=True) if word in names and names[int(number)] != word]:
    raise UserError(
      f"config.class_order: '{other[0]}' is the name of one class and the id of another. Put ids: or names: in front."
    )
  return True


def _words(body: str) -> list[str]:
  if _NUMBERS.fullmatch(body):
    return body.replace(',', ' ').split()
  words = body.splitlines() if '\n' in body else body.split(',')
  return [unicodedata.normalize('NFC', word.strip()) for word in words if word.strip()]


def order_text(text: str) -> str:
  """The content of the file, if `text` is the path of one, as ids between commas or as one name a line.

  Raises UserError if it cannot be read.
  """
  kind, body = _ORDER.findall(text)[0]
  if not text or '\n' in body or _SHUFFLE.fullmatch(text) or _NUMBERS.fullmatch(body):
    return text
  file = os.path.expanduser(body)
  if ',' in body and not os.path.isfile(file):
    return text
  try:
    content = Path(file).read_text(encoding='utf-8-sig').strip()
  except (OSError, ValueError) as error:  # ValueError: not a text file, or not even a path
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise UserError(f'config.class_order: {body!r} cannot be read ({reason}); expected {_FORMS}.') from None
  words = _words(content)
  return kind + (','.join(words) if _NUMBERS.fullmatch(content) else ''.join(f'{word}\n' for word in words) or '\n')


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
    num_tasks: number of tasks, unless `task_sizes` is given.
    first_task_classes: if positive, the first task has this many classes; the others share the rest equally.
    task_sizes: if not empty, the answer itself. If it sums to less than `num_classes`, the other classes are never
      learnt.
    uneven: whether the first of otherwise equal tasks may have one class more.

  Raises:
    UserError: the numbers do not fit.
  """
  if task_sizes:
    return _listed_sizes(num_classes, first_task_classes, tuple(task_sizes))
  if num_tasks < 1:
    raise UserError(f'config.tasks: expected at least 1, got {num_tasks}.')
  first = first_task_classes
  classes, tasks = num_classes - first, num_tasks - bool(first)  # those of equal tasks
  if first and (first < 0 or classes < tasks):
    raise UserError(
      f'config.first_task_classes={first} does not fit {num_classes} classes in {num_tasks} tasks; set it to '
      f'1..{num_classes - tasks}.'
    )
  if not tasks and classes:
    raise UserError(
      f'config.first_task_classes={first} with config.tasks=1 leaves {classes} of {num_classes} classes; set '
      'config.tasks to 2 or more, or list config.task_sizes.'
    )
  if uneven and classes > tasks:
    least, more = divmod(classes, tasks)
    return (first,) * bool(first) + (least + 1,) * more + (least,) * (tasks - more)
  if tasks and classes % tasks:
    after = f' after config.first_task_classes={first}' if first else ''
    divisors = [d for d in range(1, classes + 1) if classes % d == 0]
    near = [d for d in divisors if d < tasks][-1:] + [d for d in divisors if d > tasks][:1]
    raise UserError(
      f'the {classes} classes{after} do not split into {tasks} equal tasks; set config.tasks to '
      f'{" or ".join(str(d + bool(first)) for d in near)}, or list config.task_sizes.'
    )
  return (first,) * bool(first) + (classes // max(tasks, 1),) * tasks


def _listed_sizes(num_classes: int, first_task_classes: int, task_sizes: tuple[int, ...]) -> tuple[int, ...]:
  if first_task_classes:
    raise UserError('config.task_sizes and config.first_task_classes exclude each other; leave one of them out.')
  if min(task_sizes) < 1:
    raise UserError(f'config.task_sizes: expected at least 1 class in every task, got {min(task_sizes)}.')
  if sum(task_sizes) > num_classes:
    raise UserError(f'config.task_sizes: expected a sum of at most {num_classes} classes, got {sum(task_sizes)}.')
  return task_sizes


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
    """The original ids of one 0-based task's classes, in learning order. Raises IndexError if there is no such task."""
    if not 0 <= task < self.num_tasks:
      raise IndexError(f'expected a task in 0..{self.num_tasks - 1}, got {task}')
    start = sum(self.sizes[:task])
    return self.order[start : start + self.sizes[task]]

  def learning_labels(self, original: np.ndarray) -> np.ndarray:
    """Original ids int[...] -> int32[...] of the same shape: each id's position in `order`."""
    position = np.empty(self.num_classes, np.int32)
    position[list(self.order)] = np.arange(self.num_classes)
    return position[original]
