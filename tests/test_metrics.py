"""abd_jax.metrics, worked by hand."""

import numpy as np
import pytest

from abd_jax import metrics

# Rows: after task 1, 2, 3. Columns: on the test images of task 1, 2, 3, of which there are 10, 30 and 60.
MATRIX = [[0.8], [0.9, 0.4], [0.5, 0.6, 1.0]]
COUNTS = [10, 30, 60]


def test_seen_accuracy_weighs_each_task_by_its_test_images():
  # 8/10; (9 + 12)/40; (5 + 18 + 60)/100
  np.testing.assert_allclose(metrics.seen_accuracy(MATRIX, COUNTS), [0.8, 0.525, 0.83], atol=1e-12)


def test_final_accuracy_is_that_over_all_classes_after_the_last_task():
  assert metrics.final_accuracy(MATRIX, COUNTS) == pytest.approx(0.83, abs=1e-12)


def test_average_accuracy_is_the_mean_over_tasks_of_seen_accuracy():
  assert metrics.average_accuracy(MATRIX, COUNTS) == pytest.approx((0.8 + 0.525 + 0.83) / 3, abs=1e-12)


def test_forgetting_is_measured_from_the_best_accuracy_before_the_end():
  # (max(0.8, 0.9) - 0.5 + 0.4 - 0.6) / 2: the last row is no candidate for the best, so it can be negative.
  assert metrics.forgetting(MATRIX) == pytest.approx(0.1, abs=1e-12)


def test_backward_transfer_is_measured_from_the_accuracy_just_after_learning():
  # (0.5 - 0.8 + 0.6 - 0.4) / 2
  assert metrics.backward_transfer(MATRIX) == pytest.approx(-0.05, abs=1e-12)


def test_one_task_neither_forgets_nor_transfers():
  assert metrics.forgetting([[0.7]]) is None
  assert metrics.backward_transfer([[0.7]]) is None
  assert metrics.average_accuracy([[0.7]], [5]) == metrics.final_accuracy([[0.7]], [5]) == pytest.approx(0.7)


def test_summary_has_the_matrix_and_each_number_under_its_own_key():
  summary = metrics.summary(MATRIX, COUNTS)
  assert summary['accuracy_matrix'] == MATRIX
  numbers = {name: getattr(metrics, name)(MATRIX, COUNTS) for name in ('final_accuracy', 'average_accuracy')}
  numbers |= {name: getattr(metrics, name)(MATRIX) for name in ('forgetting', 'backward_transfer')}
  assert summary == {'accuracy_matrix': MATRIX, 'seen_accuracy': metrics.seen_accuracy(MATRIX, COUNTS)} | numbers


def test_accuracy_row_counts_hits_task_by_task():
  task_of_class = np.array([0, 0, 1, 2, 2], np.int32)
  labels = np.array([0, 1, 1, 2, 2, 3, 4, 4])
  predictions = np.array([0, 1, 0, 2, 4, 3, 3, 1])
  row = metrics.accuracy_row(predictions, labels, task_of_class, 3)
  np.testing.assert_allclose(row, [2 / 3, 1 / 2, 1 / 3], atol=1e-12)
  assert all(type(value) is float for value in row)  # json takes no numpy scalars
