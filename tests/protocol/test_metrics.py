"""abd_jax.protocol.metrics, worked by hand."""

import numpy as np
import pytest

from abd_jax.protocol import metrics

# Rows: after task 1, 2, 3. Columns: on the test images of task 1, 2, 3, of which there are 10, 30 and 60.
MATRIX = [[0.8], [0.9, 0.4], [0.5, 0.6, 1.0]]
COUNTS = [10, 30, 60]


def test_every_number_of_a_summary():
  summary = metrics.summary(MATRIX, COUNTS)
  assert summary.pop('accuracy_matrix') == MATRIX
  assert summary['old_accuracy'].pop(0) is None
  expected = {
    'seen_accuracy': [0.8, 0.525, 0.83],  # 8/10; (9 + 12)/40; (5 + 18 + 60)/100
    'final_accuracy': 0.83,
    'average_accuracy': (0.8 + 0.525 + 0.83) / 3,
    'forgetting': 0.1,  # (max(0.8, 0.9) - 0.5 + 0.4 - 0.6) / 2: the last row is no candidate for the best
    'backward_transfer': -0.05,  # (0.5 - 0.8 + 0.6 - 0.4) / 2
    'new_accuracy': [0.8, 0.4, 1.0],
    'old_accuracy': [0.9, 23 / 40],  # 9/10; (5 + 18)/40
  }
  assert summary.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(summary[name], value, atol=1e-12, err_msg=name)


def test_one_task_neither_forgets_nor_transfers():
  assert metrics.forgetting([[0.7]]) is None
  assert metrics.backward_transfer([[0.7]]) is None
  assert metrics.average_accuracy([[0.7]], [5]) == metrics.final_accuracy([[0.7]], [5]) == pytest.approx(0.7)
  assert metrics.new_accuracy([[0.7]]) == [0.7] and metrics.old_accuracy([[0.7]], [5]) == [None]


def test_what_is_known_of_some_tasks_does_not_stand_for_all():
  matrix = [[0.8], [0.9, 0.4], [None, None, 1.0]]  # the third task was learnt where the first two's tests are gone
  np.testing.assert_allclose(metrics.seen_accuracy(matrix, COUNTS)[:2], [0.8, 0.525], atol=1e-12)
  assert metrics.seen_accuracy(matrix, COUNTS)[2] is metrics.final_accuracy(matrix, COUNTS) is None
  assert metrics.average_accuracy(matrix, COUNTS) is metrics.old_accuracy(matrix, COUNTS)[2] is None
  assert metrics.forgetting(matrix) is metrics.backward_transfer(matrix) is None
  half = [*matrix[:2], [None, 0.3, 1.0]]
  assert metrics.forgetting(half) is metrics.backward_transfer(half) is None
  assert metrics.new_accuracy(matrix) == [0.8, 0.4, 1.0]


# One evaluation, against loops over images and against scikit-learn.

RNG = np.random.default_rng(0)
SEEN_TASKS = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)  # of each class


def test_an_evaluation_is_what_scikit_learn_and_a_loop_find():
  from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score

  labels = RNG.choice([0, 1, 2, 3, 4, 6], 400).astype(np.int32)  # the sixth class has no images
  logits = RNG.normal(size=(400, 7)).astype(np.float32)
  logits[np.arange(400), labels] += 1
  found = metrics.evaluate(logits, labels, SEEN_TASKS)
  predicted, of_task = logits.argmax(1), SEEN_TASKS[labels]
  inside = [
    max(np.flatnonzero(task == SEEN_TASKS), key=row.__getitem__) for row, task in zip(logits, of_task, strict=True)
  ]
  for task in range(3):
    mine = of_task == task
    assert found.accuracy[task] == accuracy_score(labels[mine], predicted[mine])
    assert found.task_aware_accuracy[task] == accuracy_score(labels[mine], np.array(inside)[mine])
    top5 = top_k_accuracy_score(labels[mine], logits[mine], k=5, labels=range(7))
    assert found.top5_accuracy[task] == top5
  assert 0 < found.accuracy[0] < found.task_aware_accuracy[0] < found.top5_accuracy[0] < 1
  np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, predicted, labels=range(7)))
  shares = np.diag(found.confusion) / np.maximum(found.confusion.sum(1), 1)
  assert found.class_accuracy[5] is found.class_top5_accuracy[5] is None
  np.testing.assert_allclose([found.class_accuracy[c] for c in set(labels)], shares[[*set(labels)]], atol=1e-12)
  assert found.seen == accuracy_score(labels, predicted) == found.hits.mean()


def test_of_equal_logits_the_first_class_is_predicted_and_none_of_nan():
  logits = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [np.nan] * 3])
  assert metrics.evaluate(logits, np.array([0, 1, 2, 0]), np.array([0, 0, 1])).hits.tolist() == [1, 0, 0, 0]
  assert metrics.evaluate(logits, np.array([0, 1, 2, 2]), np.array([0, 0, 1])).task_aware_accuracy == [0.5, 0.5]


def test_calibration_error_is_that_of_a_loop_over_bins():
  logits = RNG.normal(size=(500, 4)) * 2
  labels = np.where(RNG.random(500) < 0.6, logits.argmax(1), RNG.integers(0, 4, 500))
  probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  top, hits = probability.max(1), logits.argmax(1) == labels
  expected = 0.0
  for k in range(15):
    mine = (top > k / 15) & (top <= (k + 1) / 15)
    if mine.any():
      expected += mine.mean() * abs(hits[mine].mean() - top[mine].mean())
  assert metrics.calibration_error(logits, hits) == pytest.approx(expected, abs=1e-12) and expected > 0.05
  assert metrics.calibration_error(np.zeros((4, 2)), np.array([True, False, True, False])) == 0
  assert metrics.calibration_error(np.array([[2000.0, 0]]), np.array([False])) == 1


# From classes to tasks: what a single model gives, the upper bound's for one.

TASK_OF_CLASS = np.array([0, 0, 1, 2, 2], np.int32)
LABELS = np.repeat(np.arange(5), [1, 3, 4, 2, 6])  # test images of each class


def test_rows_of_tasks_from_images_and_from_classes():
  hits = np.array([True, True, False, True, False, False, True, True])
  groups = np.array([0, 0, 0, 1, 1, 3, 2, 3], np.int32)
  rows = metrics.accuracy_row(hits, groups, 3), metrics.by_task([1, 1 / 3, 0.25, 0.5, 1 / 6], LABELS, TASK_OF_CLASS)
  np.testing.assert_allclose(rows[0], [2 / 3, 1 / 2, 1], atol=1e-12)  # the fourth group is not asked for
  np.testing.assert_allclose(rows[1], [2 / 4, 1 / 4, 2 / 8], atol=1e-12)  # weighed by their test images
  assert all(type(value) is float for row in rows for value in row)  # json takes no numpy scalars
  # The classes of the first tasks alone give a shorter row.
  np.testing.assert_allclose(metrics.by_task([0.0, 1.0, 0.25], LABELS, TASK_OF_CLASS), [3 / 4, 1 / 4], atol=1e-12)


# Omega.


def test_omega_is_the_mean_share_of_each_tasks_own_upper_bound():
  seen = metrics.seen_accuracy(MATRIX, COUNTS)  # 0.8, 0.525, 0.83
  upper = metrics.seen_accuracy([[1.0], [0.9, 0.7], [0.5, 0.8, 0.9]], COUNTS)
  np.testing.assert_allclose(upper, [1.0, 0.75, 0.83], atol=1e-12)  # (9 + 21)/40; (5 + 24 + 54)/100
  # 0.8/1, 0.525/0.75 = 0.7, 0.83/0.83
  assert metrics.omega(seen, upper) == pytest.approx((0.8 + 0.7 + 1.0) / 3, abs=1e-12)
  np.testing.assert_allclose(metrics.omega_curve(seen, upper), [0.8, 0.75, 2.5 / 3], atol=1e-12)
  for bound in ([0.9] * 2, [0.9] * 4, [0.9, None, 0.9]):
    with pytest.raises(ValueError):
      metrics.omega(seen, bound)


@pytest.mark.parametrize(('tasks', 'published'), [(5, 0.489), (10, 0.321), (20, 0.197)])
def test_omega_of_such_a_model_is_the_published_one_of_base(tasks, published):
  """Under an upper bound that falls evenly to the published 69.9 %; the paper's own double sum would miss by far."""
  matrix = [[0.0] * i + [0.87] for i in range(tasks)]
  seen = metrics.seen_accuracy(matrix, [100] * tasks)
  assert metrics.omega(seen, np.linspace(0.87, 0.699, tasks)) == pytest.approx(published, abs=0.015)
