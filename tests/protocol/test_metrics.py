"""abd_jax.protocol.metrics, worked by hand."""

import numpy as np
import pytest

from abd_jax.protocol import metrics

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


def test_what_is_known_of_some_tasks_does_not_stand_for_all():
  matrix = [[0.8], [0.9, 0.4], [None, None, 1.0]]  # the third task was learnt where the first two's tests are gone
  np.testing.assert_allclose(metrics.seen_accuracy(matrix, COUNTS)[:2], [0.8, 0.525], atol=1e-12)
  assert metrics.seen_accuracy(matrix, COUNTS)[2] is metrics.final_accuracy(matrix, COUNTS) is None
  assert metrics.average_accuracy(matrix, COUNTS) is metrics.old_accuracy(matrix, COUNTS)[2] is None
  assert metrics.forgetting(matrix) is metrics.backward_transfer(matrix) is None
  half = [*matrix[:2], [None, 0.3, 1.0]]
  assert metrics.forgetting(half) is metrics.backward_transfer(half) is None
  assert metrics.new_accuracy(matrix) == [0.8, 0.4, 1.0]


def test_summary_has_the_matrix_and_each_number_under_its_own_key():
  summary = metrics.summary(MATRIX, COUNTS)
  assert summary['accuracy_matrix'] == MATRIX
  weighted = ('seen_accuracy', 'final_accuracy', 'average_accuracy', 'old_accuracy')
  numbers = {name: getattr(metrics, name)(MATRIX, COUNTS) for name in weighted}
  numbers |= {name: getattr(metrics, name)(MATRIX) for name in ('forgetting', 'backward_transfer', 'new_accuracy')}
  assert summary == {'accuracy_matrix': MATRIX} | numbers


def test_accuracy_row_counts_hits_group_by_group():
  hits = np.array([True, True, False, True, False, False, True, True])
  groups = np.array([0, 0, 0, 1, 1, 3, 2, 3], np.int32)
  row = metrics.accuracy_row(hits, groups, 3)
  np.testing.assert_allclose(row, [2 / 3, 1 / 2, 1], atol=1e-12)  # the fourth group is not asked for
  assert all(type(value) is float for value in row)  # json takes no numpy scalars


# New and old tasks apart.


def test_new_accuracy_is_that_on_the_newest_task():
  assert metrics.new_accuracy(MATRIX) == [0.8, 0.4, 1.0]
  assert metrics.new_accuracy([[0.7]]) == [0.7]


def test_old_accuracy_weighs_the_earlier_tasks_by_their_test_images():
  first, *rest = metrics.old_accuracy(MATRIX, COUNTS)
  assert first is None
  np.testing.assert_allclose(rest, [0.9, 23 / 40], atol=1e-12)  # 9/10; (5 + 18)/40
  assert metrics.old_accuracy([[0.7]], [5]) == [None]


# From classes to tasks: what a single model gives, the upper bound's for one.

TASK_OF_CLASS = np.array([0, 0, 1, 2, 2], np.int32)
LABELS = np.repeat(np.arange(5), [1, 3, 4, 2, 6])  # test images of each class


def test_by_task_weighs_classes_by_their_test_images():
  row = metrics.by_task([1.0, 1 / 3, 0.25, 0.5, 1 / 6], LABELS, TASK_OF_CLASS)
  np.testing.assert_allclose(row, [2 / 4, 1 / 4, 2 / 8], atol=1e-12)
  assert all(type(value) is float for value in row)


def test_by_task_of_the_first_tasks_classes_alone_gives_a_shorter_row():
  np.testing.assert_allclose(metrics.by_task([0.0, 1.0, 0.25], LABELS, TASK_OF_CLASS), [3 / 4, 1 / 4], atol=1e-12)
  assert metrics.by_task([0.0, 1.0], LABELS, TASK_OF_CLASS) == [0.75]


def test_by_task_agrees_with_the_row_counted_image_by_image():
  hits = np.random.default_rng(0).random(len(LABELS)) < 0.5
  classes = metrics.accuracy_row(hits, LABELS, 5)
  row = metrics.accuracy_row(hits, TASK_OF_CLASS[LABELS], 3)
  np.testing.assert_allclose(metrics.by_task(classes, LABELS, TASK_OF_CLASS), row, atol=1e-12)


# Omega.


def test_omega_is_the_mean_share_of_each_tasks_own_upper_bound():
  seen = metrics.seen_accuracy(MATRIX, COUNTS)  # 0.8, 0.525, 0.83
  upper = metrics.seen_accuracy([[1.0], [0.9, 0.7], [0.5, 0.8, 0.9]], COUNTS)
  np.testing.assert_allclose(upper, [1.0, 0.75, 0.83], atol=1e-12)  # (9 + 21)/40; (5 + 24 + 54)/100
  # 0.8/1, 0.525/0.75 = 0.7, 0.83/0.83
  assert metrics.omega(seen, upper) == pytest.approx((0.8 + 0.7 + 1.0) / 3, abs=1e-12)
  np.testing.assert_allclose(metrics.omega_curve(seen, upper), [0.8, 0.75, 2.5 / 3], atol=1e-12)


def test_omega_of_a_model_that_knows_the_newest_task_alone():
  """Base: with equal tasks it is right on an i-th of the images, so that Omega is about a harmonic sum over N."""
  matrix = [[0.0] * i + [0.9] for i in range(4)]
  seen = metrics.seen_accuracy(matrix, [50] * 4)
  np.testing.assert_allclose(seen, [0.9, 0.45, 0.3, 0.225], atol=1e-12)
  assert metrics.omega(seen, [0.9] * 4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=1e-12)
  # 0.9/0.9, 0.45/0.75 = 3/5, 0.3/0.6 = 1/2, 0.225/0.5 = 9/20: a falling bound raises the later shares.
  assert metrics.omega(seen, [0.9, 0.75, 0.6, 0.5]) == pytest.approx((1 + 0.6 + 0.5 + 0.45) / 4, abs=1e-12)


@pytest.mark.parametrize(('tasks', 'published'), [(5, 0.489), (10, 0.321), (20, 0.197)])
def test_omega_of_such_a_model_is_the_published_one_of_base(tasks, published):
  """Under an upper bound that falls evenly to the published 69.9 %; the paper's own double sum would miss by far."""
  matrix = [[0.0] * i + [0.87] for i in range(tasks)]
  seen = metrics.seen_accuracy(matrix, [100] * tasks)
  assert metrics.omega(seen, np.linspace(0.87, 0.699, tasks)) == pytest.approx(published, abs=0.015)


@pytest.mark.parametrize('seen', [[0.5], [0.5, 0.4, 0.3, 0.2]])
def test_omega_curve_ends_in_omega_and_begins_with_the_first_share(seen):
  upper = [0.8, 0.7, 0.6, 0.5][: len(seen)]
  curve = metrics.omega_curve(seen, upper)
  assert len(curve) == len(seen)
  assert curve[-1] == metrics.omega(seen, upper) and curve[0] == pytest.approx(0.625, abs=1e-12)
  for k in range(1, len(seen) + 1):
    assert metrics.omega(seen[:k], upper[:k]) == pytest.approx(curve[k - 1], abs=1e-12)
  assert all(type(value) is float for value in curve)


@pytest.mark.parametrize('count', [2, 4])
def test_omega_refuses_an_upper_bound_of_other_tasks(count):
  for function in (metrics.omega, metrics.omega_curve):
    with pytest.raises(ValueError):
      function([0.8, 0.7, 0.6], [0.9] * count)
