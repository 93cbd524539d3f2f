"""abd_jax.analysis on made images and features: distances, probe, t-SNE, judge, variety and the privacy figures."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from abd_jax.analysis.distances import cka, dead, linear_probe, mid, mmd2, tsne
from abd_jax.analysis.dreams import diversity, in_deviations, judge, privacy


def gaussian(seed, n, mean, std=1.0):
  return np.asarray(mean) + std * np.random.default_rng(seed).standard_normal((n, len(mean)))


def test_mid_is_the_shift_in_units_of_the_reference():
  reference = np.array([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, standard deviations 1 and 10
  other = np.array([[4.0, 60.0]])  # one image: (1 - 4) / 1 = -3, (20 - 60) / 10 = -4
  assert mid(reference, other) == 5.0
  reference, other = gaussian(0, 100_000, [0] * 8, 2.0), gaussian(1, 100_000, [3] * 8, 5.0)
  assert mid(reference, other) == pytest.approx(8**0.5 * 3 / 2, rel=0.02)
  assert mid(other, reference) == pytest.approx(8**0.5 * 3 / 5, rel=0.02)  # not symmetric


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
  dimensions, std, shift = 3, 1.5, 2.0
  a, b = gaussian(0, 1500, [0] * dimensions, std), gaussian(1, 1000, [shift] * dimensions, std)
  bandwidth = np.median(pdist(np.concatenate([a, b])))
  wide = bandwidth**2 + 2 * std**2
  expected = 2 * (bandwidth**2 / wide) ** (dimensions / 2) * (1 - np.exp(-dimensions * shift**2 / (2 * wide)))
  assert mmd2(a, b) == pytest.approx(expected, rel=0.05)
  np.testing.assert_allclose(mmd2(1e3 * a + 7e4, 1e3 * b + 7e4), mmd2(a, b), rtol=1e-6)  # of no unit


def test_mmd_is_unbiased():
  estimates = [mmd2(gaussian(2 * k, 10, [0] * 4), gaussian(2 * k + 1, 15, [0] * 4)) for k in range(400)]
  assert min(estimates) < 0 < max(estimates)
  assert abs(np.mean(estimates)) < 3 * np.std(estimates) / 20


def test_mmd_with_dead_features_and_copies():
  a, b = gaussian(0, 20, [0, 0]), gaussian(1, 20, [1, 1])
  dead_too = lambda features: np.column_stack([features, np.zeros((len(features), 3))])
  assert mmd2(dead_too(a), dead_too(b)) == pytest.approx(mmd2(a, b))
  assert mmd2(np.ones((5, 3)), np.ones((4, 3))) == 0
  # Most pairs are copies of each other: the median distance would be 0, so that of images that differ counts.
  copies = np.zeros((20, 2))
  assert mmd2(copies, np.concatenate([copies, np.ones((1, 2))])) < 0.2
  assert mmd2(copies, np.ones((20, 2))) == pytest.approx(2 * (1 - np.exp(-0.5)))


@pytest.mark.parametrize(('distance', 'counts'), [(mid, (1, 5)), (mid, (5, 0)), (mmd2, (5, 1)), (cka, (3, 3))])
def test_too_few_images_give_nothing(distance, counts):
  assert distance(*(gaussian(k, count, [0, 0]) for k, count in enumerate(counts))) is None


def test_cka_of_turned_scaled_and_unrelated_features():
  features = gaussian(0, 60, [1] * 64)
  turn, _ = np.linalg.qr(gaussian(1, 64, [0] * 64))
  assert cka(features, 3 * features @ turn + 5) == pytest.approx(1)
  unrelated = [cka(features, gaussian(k, 60, [0] * 64)) for k in range(2, 12)]
  assert abs(np.mean(unrelated)) < 0.05  # the biased estimate would give about 0.5
  half = np.column_stack([features[:, :32], gaussian(20, 60, [1] * 32)])
  assert 0.3 < cka(features, half) < 0.7
  assert cka(features, np.ones((60, 3))) is None


def test_tsne_keeps_apart_what_is_apart():
  far, near = tsne([gaussian(0, 30, [0] * 5), gaussian(1, 40, [50] * 5)])
  assert far.shape == (30, 2) and near.shape == (40, 2)
  spread = max(far.std(0).max(), near.std(0).max())
  assert np.linalg.norm(far.mean(0) - near.mean(0)) > 3 * spread
  assert (tsne([np.zeros((3, 2)), np.zeros((1, 2))])[0] == 0).all()


def test_a_probe_reads_what_is_linear_and_not_what_is_gone():
  features, labels = gaussian(0, 400, [0] * 4), np.arange(400) % 2
  assert 0.3 < np.mean(linear_probe(features, labels).predict(features[::2]) == labels[::2]) < 0.75
  features[:, 2] += 6 * labels
  features[:, 3] = 7  # dead
  assert np.mean(linear_probe(features, labels).predict(features) == labels) > 0.98


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
  assert diversity(dreamed[:1], labels[:1], real, labels) is None
  assert diversity(dreamed, labels, np.zeros_like(real), labels) is None


def test_privacy_tells_copies_from_images_of_the_same_kind():
  train, test, others = (squares(k, 300)[0] for k in range(3))
  fresh, _, _ = privacy(others, train, test)
  assert fresh['suspicious'] < 0.05 and 0.4 < fresh['closer'] < 0.6
  assert 0.8 < fresh['nearest_dreamed'][2] / fresh['nearest_unseen'][2] < 1.2
  copied, distance, nearest = privacy(train[[7, 3]] + 1e-3, train, test)
  assert copied['closer'] == copied['suspicious'] == 1 and list(nearest) == [7, 3]
  assert privacy(test[:9], train, test)[0]['closer'] == 0
  np.testing.assert_allclose(distance, 1e-3, rtol=1e-2)  # root mean square of the pixels' difference


def test_features_are_measured_in_deviations_and_those_that_do_not_vary_left_out():
  reference = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]])
  scaled, other = in_deviations(reference, reference, np.array([[4.0, 6.0, -3.0]]))
  np.testing.assert_array_equal(scaled, [[0, 1], [2, 3]])
  np.testing.assert_array_equal(other, [[4, -3]])
  assert [one.shape for one in in_deviations(np.ones((2, 3)), np.zeros((4, 3)))] == [(4, 3)]
