"""The accuracy matrix and the numbers computed from it.

`matrix[i][j]` is the accuracy (a fraction) on the test images of task j after learning task i, j <= i; the prediction
is any of the classes seen so far. `counts[j]` is the number of test images of task j. None is an unknown value: an
extended run may lack the test images of earlier tasks.
"""

from collections.abc import Iterable, Sequence

import numpy as np

Row = Sequence[float | None]
Matrix = Sequence[Row]


def accuracy_row(hits: np.ndarray, groups: np.ndarray, count: int) -> list[float | None]:
  """The share of hits bool[n] in each of the groups 0..count-1, tasks or classes, given as i32[n]; None of none."""
  return [float(np.mean(hits[groups == j])) if np.any(groups == j) else None for j in range(count)]


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """i64[classes, classes]: how many images of each true class (row) were taken for each (column)."""
  return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def by_task(class_accuracy: Row, labels: np.ndarray, task_of_class: np.ndarray) -> list[float | None]:
  """A row of the matrix from the accuracy of each class. labels: i32[n], of the test images, as learning labels."""
  classes = np.arange(len(class_accuracy))
  counts, tasks = np.bincount(labels, minlength=len(task_of_class))[classes], task_of_class[classes]
  of_task = lambda j: _weighted([class_accuracy[c] for c in classes[tasks == j]], counts[tasks == j].tolist())
  return [of_task(j) for j in range(tasks.max() + 1)]


def _weighted(row: Row, counts: Sequence[int]) -> float | None:
  """The mean weighted by numbers of test images; None without test images."""
  pairs = [(value, count) for value, count in zip(row, counts, strict=False) if value is not None and count]
  if not pairs:
    return None
  values, weights = zip(*pairs, strict=True)
  return float(np.average(values, weights=weights))


def _over_tasks(row: Row, counts: Sequence[int]) -> float | None:
  """Accuracy over the test images of all tasks of a row; None if one is unknown, or there is no task."""
  return None if None in row else _weighted(row, counts)


def _mean(values: Iterable[float | None]) -> float | None:
  """The mean; None if one value is unknown, or there is none."""
  values = list(values)
  there = [value for value in values if value is not None]
  return float(np.mean(there)) if there and len(there) == len(values) else None


def _difference(a: float | None, b: float | None) -> float | None:
  return None if a is None or b is None else a - b


def seen_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
  """Accuracy over all test images of the tasks seen so far, after each task; None if one task's is unknown."""
  return [_over_tasks(row, counts) for row in matrix]


def final_accuracy(matrix: Matrix, counts: Sequence[int]) -> float | None:
  """A_N: accuracy over all classes after the last task."""
  return seen_accuracy(matrix, counts)[-1]


def average_accuracy(matrix: Matrix, counts: Sequence[int]) -> float | None:
  """Average incremental accuracy: the mean over tasks of `seen_accuracy`."""
  return _mean(seen_accuracy(matrix, counts))


def forgetting(matrix: Matrix) -> float | None:
  """Mean over the earlier tasks of their best accuracy before the last task, minus that after it; None for one task."""
  last = len(matrix) - 1
  if last == 0:
    return None
  best = lambda j: max((matrix[i][j] for i in range(j, last) if matrix[i][j] is not None), default=None)
  return _mean(_difference(best(j), matrix[last][j]) for j in range(last))


def backward_transfer(matrix: Matrix) -> float | None:
  """Mean over the earlier tasks of their last accuracy minus that just after learning them; None for one task."""
  last = len(matrix) - 1
  if last == 0:
    return None
  return _mean(_difference(matrix[last][j], matrix[j][j]) for j in range(last))


def new_accuracy(matrix: Matrix) -> list[float | None]:
  """Accuracy on the newest task, after each task."""
  return [row[-1] for row in matrix]


def old_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
  """Accuracy over all earlier tasks, after each task; None after the first."""
  return [None] + [_over_tasks(row[:-1], counts) for row in matrix[1:]]


def omega(seen: Row, upper_bound: Row) -> float:
  """Omega: the mean over tasks of `seen_accuracy`, each divided by that of the upper bound.

  upper_bound: `seen_accuracy` of models trained on the data of all tasks so far. This reading of the paper's Eq. 17
  agrees with its tables: each ratio has its own upper bound, and all weigh the same.
  """
  return omega_curve(seen, upper_bound)[-1]


def omega_curve(seen: Row, upper_bound: Row) -> list[float]:
  """Omega up to each task (Figure A). Raises ValueError if a value is unknown, or the numbers of tasks differ."""
  if None in (*seen, *upper_bound):
    raise ValueError('a task without test images has no Omega')
  ratios = [a / b for a, b in zip(seen, upper_bound, strict=True) if a is not None and b is not None]
  return (np.cumsum(ratios) / np.arange(1, len(ratios) + 1)).tolist()


def summary(matrix: Matrix, counts: Sequence[int]) -> dict:
  """The entries of results.json with these keys."""
  return {
    'accuracy_matrix': [list(row) for row in matrix],
    'seen_accuracy': seen_accuracy(matrix, counts),
    'final_accuracy': final_accuracy(matrix, counts),
    'average_accuracy': average_accuracy(matrix, counts),
    'forgetting': forgetting(matrix),
    'backward_transfer': backward_transfer(matrix),
    'new_accuracy': new_accuracy(matrix),
    'old_accuracy': old_accuracy(matrix, counts),
  }


# Collapse of the student or the generator.

JUDGED = 100  # steps of a phase; with fewer, neither chance nor a dull generator means anything
_TESTED = 20  # images; with fewer, an accuracy means nothing
_SAME = 1 / 255  # of the range of pixels: no eye sees the difference


def dead(dreams: np.ndarray, labels: np.ndarray, classes: int) -> str:
  """Why dreams f[n, h, w, c] in [0, 1] with labels i[n] cannot stand in for old images; '' if they may."""
  if np.ptp(dreams, axis=0).max() < _SAME:
    return f'the generator is dead, its {len(dreams)} images are all the same'
  if classes > 1 and len(set(labels.tolist())) == 1:
    return f'the generator is dead, its {len(dreams)} images are all of one class'
  return ''


def at_chance(hits: np.ndarray, new: np.ndarray, classes: int) -> str:
  """Why a student has learnt nothing; '' if it has learnt something.

  It must guess both on all classes seen and on the newest task. A method that forgets all but the newest classes has
  not collapsed. hits: bool[n] of the test images; new: bool[n], those of the newest task.
  """
  if classes == 1 or min(len(hits), new.sum()) < _TESTED:
    return ''
  chance = 1 / classes
  margin = lambda count: 2 * np.sqrt(chance * (1 - chance) / count)
  if all(some.mean() <= chance + margin(len(some)) for some in (hits, hits[new])):
    return f'the student is at chance, {100 * hits.mean():.1f} % of {classes} classes'
  return ''
