"""The accuracy matrix and every number read off it; pure numpy.

`matrix[i][j]` is the accuracy (a fraction) on the test images of task j after learning task i, the prediction
being free among all classes seen so far; j <= i. `counts[j]` is the number of test images of task j.
"""

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float]]


def accuracy_row(hits: np.ndarray, groups: np.ndarray, count: int) -> list[float]:
  """The share of hits bool[n] in each of the groups 0..count-1, tasks or classes, given as i32[n]."""
  return [float(np.mean(hits[groups == j])) for j in range(count)]


def class_row(hits: np.ndarray, labels: np.ndarray, count: int) -> list[float | None]:
  """The same of classes, some of which may have no test image: None."""
  known = np.isin(np.arange(count), labels)
  return [accuracy_row(hits[labels == c], labels[labels == c] - c, 1)[0] if known[c] else None for c in range(count)]


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """i64[classes, classes]: how many images of each true class (row) were taken for each (column)."""
  return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def by_task(class_accuracy: Sequence[float | None], labels: np.ndarray, task_of_class: np.ndarray) -> list[float]:
  """A row of the matrix from the accuracy of each class; labels: of the test images i32[n], in learning order."""
  classes = np.arange(len(class_accuracy))
  counts, tasks = np.bincount(labels, minlength=len(task_of_class))[classes], task_of_class[classes]
  accuracy = np.array([share or 0.0 for share in class_accuracy])  # None weighs nothing
  of_task = lambda j: np.average(accuracy[tasks == j], weights=counts[tasks == j])
  return [float(of_task(j)) for j in range(tasks.max() + 1)]


def seen_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float]:
  """Accuracy over all test images of the tasks seen so far, after each task."""
  return [float(np.average(row, weights=counts[: len(row)])) for row in matrix]


def final_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
  """A_N: accuracy over all classes after the last task."""
  return seen_accuracy(matrix, counts)[-1]


def average_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
  """Average incremental accuracy: the mean over tasks of the accuracy on what has been seen."""
  return float(np.mean(seen_accuracy(matrix, counts)))


def forgetting(matrix: Matrix) -> float | None:
  """Mean over the earlier tasks of their best accuracy before the end minus their last; None for one task."""
  last = len(matrix) - 1
  if last == 0:
    return None
  return float(np.mean([max(matrix[i][j] for i in range(j, last)) - matrix[last][j] for j in range(last)]))


def backward_transfer(matrix: Matrix) -> float | None:
  """Mean over the earlier tasks of their last accuracy minus the one just after learning them; None for one."""
  last = len(matrix) - 1
  if last == 0:
    return None
  return float(np.mean([matrix[last][j] - matrix[j][j] for j in range(last)]))


def new_accuracy(matrix: Matrix) -> list[float]:
  """Accuracy on the newest task, after each task."""
  return [row[-1] for row in matrix]


def old_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
  """Accuracy over all earlier tasks, after each task; None after the first."""
  return [None] + [float(np.average(row[:-1], weights=counts[: len(row) - 1])) for row in matrix[1:]]


def omega(seen: Sequence[float], upper_bound: Sequence[float]) -> float:
  """Omega: the mean over tasks of the accuracy on all classes seen, as a share of the upper bound's there.

  seen: `seen_accuracy` of a run; upper_bound: of a model trained on everything up to each task. It is the reading of
  the paper's Eq. 17 that agrees with its tables: each ratio with its own upper bound, and no further weights.
  """
  return omega_curve(seen, upper_bound)[-1]


def omega_curve(seen: Sequence[float], upper_bound: Sequence[float]) -> list[float]:
  """Omega up to each task (Fig. A). Raises ValueError if the two have not as many tasks."""
  ratios = [a / b for a, b in zip(seen, upper_bound, strict=True)]
  return (np.cumsum(ratios) / np.arange(1, len(ratios) + 1)).tolist()


def summary(matrix: Matrix, counts: Sequence[int]) -> dict:
  """What stands in results.json under these keys."""
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
