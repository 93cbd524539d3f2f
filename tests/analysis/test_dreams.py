"""abd_jax.analysis.dreams: the judge, the variety and the privacy figure on images made for it."""

import numpy as np
import pytest

from abd_jax.analysis.dreams import diversity, in_deviations, judge, privacy


def squares(seed, n, side=8):
  """(f[n, side, side, 1], i[n]): a bright quarter whose place is the label, in noise."""
  rng = np.random.default_rng(seed)
  images, labels = 0.3 * rng.random((n, side, side, 1)), rng.integers(0, 4, n)
  half = side // 2
  for image, label in zip(images, labels, strict=True):
    top, left = label // 2 * half, label % 2 * half
    image[top : top + half, left : left + half] += 0.7
  return images, labels


@pytest.mark.parametrize('side', [8, 50])
def test_the_judge_learns_and_is_not_fooled_by_noise(side):
  classifier = judge(*squares(0, 100, side))
  images, labels = squares(1, 80, side)
  assert np.mean(classifier.predict(images) == labels) == 1
  assert np.mean(classifier.predict(np.random.default_rng(2).random(images.shape)) == labels) < 0.6


def test_diversity_is_the_share_of_the_variance_within_classes():
  rng = np.random.default_rng(0)
  labels = np.arange(400) % 2
  real = rng.standard_normal((400, 3)) + 100 * labels[:, None]
  dreamed = 0.5 * rng.standard_normal((400, 3)) - 100 * labels[:, None]
  assert diversity(dreamed, labels, real, labels) == pytest.approx(0.25, rel=0.2)
  assert diversity(np.repeat(dreamed[:2], 200, 0), np.repeat([0, 1], 200), real, labels) == pytest.approx(0, abs=1e-12)
  assert np.isnan(diversity(dreamed[:1], labels[:1], real, labels))
  assert np.isnan(diversity(dreamed, labels, np.zeros_like(real), labels))


def test_privacy_tells_copies_from_images_of_the_same_kind():
  train, test, others = (squares(k, 300)[0] for k in range(3))
  fresh = privacy(others, train, test)
  assert fresh.suspicious < 0.05 and 0.8 < np.median(fresh.dreamed) / np.median(fresh.unseen) < 1.2
  assert 0.4 < fresh.closer < 0.6
  copied = privacy(train[[7, 3]] + 1e-3, train, test)
  assert copied.closer == 1 and privacy(test[:9], train, test).closer == 0
  assert copied.suspicious == 1 and list(copied.nearest) == [7, 3]
  np.testing.assert_allclose(copied.dreamed, 1e-3, rtol=1e-2)  # root mean square of the pixels' difference


def test_features_are_measured_in_deviations_and_those_that_do_not_vary_left_out():
  reference = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]])
  scaled, other = in_deviations(reference, np.array([[4.0, 6.0, -3.0]]))
  np.testing.assert_array_equal(scaled, [[0, 1], [2, 3]])
  np.testing.assert_array_equal(other, [[4, -3]])
  assert [one.shape for one in in_deviations(np.ones((2, 3)), np.zeros((4, 3)))] == [(2, 3), (4, 3)]
