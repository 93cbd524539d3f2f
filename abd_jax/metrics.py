"""The accuracy matrix and every number read off it; pure numpy.

`matrix[i][j]` is the accuracy (a fraction) on the test images of task j after learning task i, the prediction
being free among all classes seen so far; j <= i. `counts[j]` is the number of test images of task j.
"""

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float]]


def accuracy_row(predictions: np.ndarray, labels: np.ndarray, task_of_class: np.ndarray, num_seen: int) -> list[float]:
  """Accuracy on each of the first `num_seen` tasks; predictions and labels i32[n] in learning order."""
  tasks = task_of_class[labels]
  return [float(np.mean(predictions[tasks == j] == labels[tasks == j])) for j in range(num_seen)]


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


def summary(matrix: Matrix, counts: Sequence[int]) -> dict:
  """All of the above under the keys of results.json."""
  return {
    'accuracy_matrix': [list(row) for row in matrix],
    'seen_accuracy': seen_accuracy(matrix, counts),
    'final_accuracy': final_accuracy(matrix, counts),
    'average_accuracy': average_accuracy(matrix, counts),
    'forgetting': forgetting(matrix),
    'backward_transfer': backward_transfer(matrix),
  }
