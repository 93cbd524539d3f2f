"""abd_jax.analysis: distances on distributions of known answers, dead features, one image."""

import numpy as np
import pytest

from abd_jax.analysis.distances import cka, dead, median_distance, mid, mmd2
from abd_jax.analysis.embedding import tsne
from abd_jax.analysis.probe import linear_probe


def gaussian(seed, n, mean, std=1.0):
  return np.asarray(mean) + std * np.random.default_rng(seed).standard_normal((n, len(mean)))


def test_mid_by_hand():
  reference = np.array([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, standard deviations 1 and 10
  other = np.array([[4.0, 60.0]])  # one image: (1 - 4) / 1 = -3, (20 - 60) / 10 = -4
  assert mid(reference, other) == 5.0


def test_mid_of_gaussians_is_the_shift_in_units_of_the_reference():
  reference, other = gaussian(0, 100_000, [0] * 8, 2.0), gaussian(1, 100_000, [3] * 8, 5.0)
  assert mid(reference, other) == pytest.approx(8**0.5 * 3 / 2, rel=0.02)
  assert mid(other, reference) == pytest.approx(8**0.5 * 3 / 5, rel=0.02)  # not symmetric
  assert mid(reference, reference) == 0
  np.testing.assert_allclose(mid(1e3 * reference, 1e3 * other), mid(reference, other))


def test_dead_features_are_left_out_of_mid():
  reference, other = gaussian(0, 50, [0, 0]), gaussian(1, 50, [1, 1])
  expected = mid(reference, other)
  constant = lambda features, value: np.column_stack([features, np.full(len(features), value, np.float32)])
  for value in (0.0, 0.1, 1e8):
    assert list(dead(constant(reference, value))) == [False, False, True]
    assert mid(constant(reference, value), constant(other, value + 5)) == expected
  assert mid(np.zeros((5, 3)), np.ones((5, 3))) == 0 and dead(np.zeros((5, 3))).all()
  assert not dead(np.array([[1e-9], [2e-9]])).any()  # small is not dead


def test_mmd_of_gaussians_is_what_the_integral_says():
  dimensions, std, shift, bandwidth = 3, 1.5, 2.0, 2.0
  a, b = gaussian(0, 3000, [0] * dimensions, std), gaussian(1, 2000, [shift] * dimensions, std)
  wide = bandwidth**2 + 2 * std**2
  expected = 2 * (bandwidth**2 / wide) ** (dimensions / 2) * (1 - np.exp(-dimensions * shift**2 / (2 * wide)))
  assert mmd2(a, b, bandwidth) == pytest.approx(expected, rel=0.05)


def test_mmd_is_unbiased():
  estimates = [mmd2(gaussian(2 * k, 10, [0] * 4), gaussian(2 * k + 1, 15, [0] * 4), 2.0) for k in range(400)]
  assert min(estimates) < 0 < max(estimates)
  assert abs(np.mean(estimates)) < 3 * np.std(estimates) / 20


def test_mmd_takes_the_median_distance_unless_told():
  a, b = gaussian(0, 40, [0] * 4), gaussian(1, 30, [2] * 4)
  points = np.concatenate([a, b])
  pairs = [np.linalg.norm(points[i] - points[j]) for i in range(70) for j in range(i)]
  assert median_distance(points) == pytest.approx(np.median(pairs))
  assert mmd2(a, b) == pytest.approx(mmd2(a, b, float(np.median(pairs))))
  np.testing.assert_allclose(mmd2(1e3 * a + 7e4, 1e3 * b + 7e4), mmd2(a, b), rtol=1e-6)  # of no unit


def test_mmd_with_dead_features_and_copies():
  a, b = gaussian(0, 20, [0, 0]), gaussian(1, 20, [1, 1])
  dead_too = lambda features: np.column_stack([features, np.zeros((len(features), 3))])
  assert mmd2(dead_too(a), dead_too(b)) == pytest.approx(mmd2(a, b))
  assert mmd2(np.ones((5, 3)), np.ones((4, 3))) == 0
  # Most pairs are copies of each other: the median distance would be 0.
  copies = np.zeros((20, 2))
  assert median_distance(np.concatenate([copies, np.full((1, 2), 3.0)])) == pytest.approx(18**0.5)
  assert mmd2(copies, np.concatenate([copies, np.ones((1, 2))])) < 0.2
  assert mmd2(copies, np.ones((20, 2))) == pytest.approx(2 * (1 - np.exp(-0.5)))


@pytest.mark.parametrize(('distance', 'counts'), [(mid, (1, 5)), (mid, (5, 0)), (mmd2, (5, 1)), (cka, (3, 3))])
def test_too_few_images_give_nan(distance, counts):
  assert np.isnan(distance(*(gaussian(k, count, [0, 0]) for k, count in enumerate(counts))))


def test_cka_of_turned_scaled_and_unrelated_features():
  features = gaussian(0, 60, [1] * 64)
  turn, _ = np.linalg.qr(gaussian(1, 64, [0] * 64))
  assert cka(features, 3 * features @ turn + 5) == pytest.approx(1)
  unrelated = [cka(features, gaussian(k, 60, [0] * 64)) for k in range(2, 12)]
  assert abs(np.mean(unrelated)) < 0.05  # the biased estimate would give about 0.5
  half = np.column_stack([features[:, :32], gaussian(20, 60, [1] * 32)])
  assert 0.3 < cka(features, half) < 0.7
  assert np.isnan(cka(features, np.ones((60, 3))))


def test_tsne_keeps_apart_what_is_apart():
  far, near = tsne([gaussian(0, 30, [0] * 5), gaussian(1, 40, [50] * 5)])
  assert far.shape == (30, 2) and near.shape == (40, 2)
  spread = max(far.std(0).max(), near.std(0).max())
  assert np.linalg.norm(far.mean(0) - near.mean(0)) > 3 * spread
  again = tsne([gaussian(0, 30, [0] * 5), gaussian(1, 40, [50] * 5)])
  np.testing.assert_array_equal(again[0], far)


def test_tsne_of_hardly_anything():
  assert np.isfinite(tsne([np.zeros((3, 2)), np.ones((1, 2))])[1]).all()
  assert (tsne([np.zeros((3, 2)), np.zeros((1, 2))])[0] == 0).all()


def test_a_probe_reads_what_is_linear_and_not_what_is_gone():
  features, labels = gaussian(0, 400, [0] * 4), np.arange(400) % 2
  assert 0.3 < np.mean(linear_probe(features, labels).predict(features[::2]) == labels[::2]) < 0.75
  features[:, 2] += 6 * labels
  features[:, 3] = 7  # dead
  assert np.mean(linear_probe(features, labels).predict(features) == labels) > 0.98
