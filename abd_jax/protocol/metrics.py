"""The accuracy matrix and the numbers computed from it.

`matrix[i][j]` is the accuracy (a fraction) on the test images of task j after learning task i, j <= i; the prediction
is any of the classes seen so far. `counts[j]` is the number of test images of task j. None is an unknown value: an
extended run may lack the test images of earlier tasks.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Row = Sequence[float | None]
Matrix = Sequence[Row]


BINS = 15  # of the calibration error, as in Guo et al. (2017)


class Evaluation(NamedTuple):
  """A model on labelled test images. Accuracies are None where there are no images."""

  accuracy: list[float | None]  # on each task, predicting among all classes seen
  top5_accuracy: list[float | None]
  task_aware_accuracy: list[float | None]  # on each task, predicting among the classes of that task
  class_accuracy: list[float | None]
  class_top5_accuracy: list[float | None]
  confusion: np.ndarray  # i64[c, c]: how many images of each true class (row) were taken for each (column)
  hits: np.ndarray  # bool[n]: which images were classified rightly

  @property
  def seen(self) -> float | None:
    """Accuracy over all classes seen; None if the test images of a task are missing."""
    return None if None in self.accuracy else float(np.mean(self.hits))


def evaluate(logits: np.ndarray, labels: np.ndarray, task_of_class: np.ndarray) -> Evaluation:
  """The numbers of a model's logits f[n, c] for images with labels i[n]. task_of_class: i[c]; all of them are seen.

  Of classes with equal logits the first is predicted.
  """
  classes, of_task = np.arange(len(task_of_class)), task_of_class[labels]
  own = np.take_along_axis(logits, labels[:, None], axis=1)
  ahead = ~((logits < own) | ((logits == own) & (classes >= labels[:, None])))  # of the true class; NaN always is
  hits, hits_in_5 = ~ahead.any(1), ahead.sum(1) < 5
  task_aware = ~(ahead & (task_of_class == of_task[:, None])).any(1)
  tasks, count = 1 + int(task_of_class.max()), len(classes)
  return Evaluation(
    accuracy_row(hits, of_task, tasks),
    accuracy_row(hits_in_5, of_task, tasks),
    accuracy_row(task_aware, of_task, tasks),
    accuracy_row(hits, labels, count),
    accuracy_row(hits_in_5, labels, count),
    np.bincount(labels * count + logits.argmax(1), minlength=count**2).reshape(count, count),
    hits,
  )


def accuracy_row(hits: np.ndarray, groups: np.ndarray, count: int) -> list[float | None]:
  """The share of hits bool[n] in each of the groups 0..count-1, tasks or classes, given as i32[n]; None of none."""
  return [float(np.mean(hits[groups == j])) if np.any(groups == j) else None for j in range(count)]


def calibration_error(logits: np.ndarray, hits: np.ndarray) -> float:
  """ECE (Guo et al., 2017): how far accuracy and mean confidence lie apart in BINS equal parts of [0, 1], as a mean.

  logits: f[n, c], n at least 1; the confidence is the largest softmax probability. hits: bool[n]. Bins hold their upper
  ends.
  """
  logits = np.asarray(logits, np.float64)
  confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
  of_bin = np.digitize(confidence, np.arange(1, BINS) / BINS, right=True)
  return float(np.abs(np.bincount(of_bin, hits - confidence)).sum() / len(hits))


def by_task(class_accuracy: Row, labels: np.ndarray, task_of_class: np.ndarray) -> list[float | None]:
  """A row of the matrix from the accuracy of each class. labels: i32[n], of the test images, as learning labels."""
  classes = np.arange(len(class_accuracy))
  counts, tasks = np.bincount(labels, minlength=len(task_of_class))[classes], task_of_class[classes]
  of_task = lambda j: weighted([class_accuracy[c] for c in classes[tasks == j]], counts[tasks == j].tolist())
  return [of_task(j) for j in range(tasks.max() + 1)]


def weighted(row: Row, counts: Sequence[int]) -> float | None:
  """The mean weighted by numbers of test images; None without test images."""
  pairs = [(value, count) for value, count in zip(row, counts, strict=False) if value is not None and count]
  if not pairs:
    return None
  values, weights = zip(*pairs, strict=True)
  return float(np.average(values, weights=weights))


def _over_tasks(row: Row, counts: Sequence[int]) -> float | None:
  """Accuracy over the test images of all tasks of a row; None if one is unknown, or there is no task."""
  return None if None in row else weighted(row, counts)


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


def thin(labels: np.ndarray, features: np.ndarray) -> str:
  """Why statistics of a task's features f[n, d] of classes i[n] rest on little; '' if they do not."""
  count, width = features.shape
  single, constant = int(np.sum(np.bincount(labels) == 1)), int(np.sum(np.ptp(features, axis=0) == 0))
  whys = [
    f'{count} images for {width} features' * (count <= width),
    f'{single} classes of one image' * (single > 0),
    f'{constant} constant features' * (constant > 0),
  ]
  return ', '.join(filter(None, whys)) and f'class covariances are thin: {", ".join(filter(None, whys))}'


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
