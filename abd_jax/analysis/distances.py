"""How far apart two sets of features are: MID (Eq. 10), unbiased MMD^2 (Gretton et al., 2012), and unbiased linear CKA.

The paper leaves open: MID divides by the population's standard deviation (ddof 0) and leaves out features that do not
vary in the reference, which `dead` finds. The Gaussian kernel of MMD^2, exp(-d^2 / (2 s^2)), takes as s the median
distance between different images of both sets together; if that is 0, between images that differ.

The distances take features f[n, d] of n images and give None for too few images. Beside them: what a linear probe reads
off the features, and the features on a plane (Figure C).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

PERPLEXITY = 30.0  # of t-SNE, the default of scikit-learn; the paper names no settings


def dead(reference: np.ndarray) -> np.ndarray:
  """bool[d]: the features of f[n, d] that are constant, up to rounding."""
  reference = np.asarray(reference, np.float64)
  return np.ptp(reference, axis=0) <= 1e-6 * np.maximum(np.abs(reference).max(0), 1e-30)


def mid(reference: np.ndarray, other: np.ndarray) -> float | None:
  """Mean Image Distance, Eq. 10: || (mean of reference - mean of other) / std of reference ||_2.

  reference: f[n, d], n at least 2; other: f[m, d], m at least 1.
  """
  if len(reference) < 2 or not len(other):
    return None
  reference, other = np.asarray(reference, np.float64), np.asarray(other, np.float64)
  alive = ~dead(reference)
  difference = (reference.mean(0) - other.mean(0))[alive]
  return float(np.linalg.norm(difference / reference.std(0)[alive]))


def mmd2(a: np.ndarray, b: np.ndarray) -> float | None:
  """The unbiased estimate of MMD^2 between f[n, d] and f[m, d], n and m at least 2. It can be below 0."""
  from scipy.spatial.distance import pdist, squareform

  if min(len(a), len(b)) < 2:
    return None
  distances, n = pdist(np.concatenate([a, b]).astype(np.float64)), len(a)
  if not distances.any():  # all images have the same features
    return 0.0
  bandwidth = np.median(distances) or np.median(distances[distances > 0])
  kernel = squareform(np.exp(-(distances**2) / (2 * bandwidth**2)))  # with zeros for an image and itself
  within = lambda own: own.sum() / (len(own) * (len(own) - 1))
  return float(within(kernel[:n, :n]) + within(kernel[n:, n:]) - 2 * kernel[:n, n:].mean())


def cka(a: np.ndarray, b: np.ndarray) -> float | None:
  """Linear CKA (Kornblith et al., 2019) between f[n, d] and f[n, e] of the same n images in the same order, n >= 4.

  1 for features equal up to rotation and scale; 0 on average for unrelated ones, as HSIC is the unbiased estimate of
  Song et al. (2012): the usual one is far above 0 where images are not many more than features. None if either set
  does not vary.
  """
  if len(a) < 4:
    return None
  a, b = _centred(a), _centred(b)
  own = np.sum(a * a) * np.sum(b * b)
  return float(np.sum(a * b) / np.sqrt(own)) if own > 0 else None


def _centred(features: np.ndarray) -> np.ndarray:
  """f[n, n]: the Gram matrix, centred so that two such matrices' product sums up to n (n - 3) times unbiased HSIC."""
  features, n = features - np.mean(features, 0, np.float64), len(features)
  gram = features @ features.T
  np.fill_diagonal(gram, 0)
  rows = gram.sum(0) / (n - 2)
  gram = gram - rows - rows[:, None] + rows.sum() / (n - 1)
  np.fill_diagonal(gram, 0)
  return gram


def linear_probe(features: np.ndarray, labels: np.ndarray) -> Any:
  """A classifier with `predict(f[m, d]) -> i[m]`: logistic regression on standardised features f[n, d], labels i[n].

  scikit-learn's, with its default L2 penalty (C = 1). None if all labels are of one class.
  """
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  if len(np.unique(labels)) < 2:
    return None
  return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features, labels)


def tsne(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
  """f32[n, 2] for each of the sets f[n, d], d at least 2: at least three points in all, embedded together."""
  from sklearn.manifold import TSNE

  points = np.concatenate(sets).astype(np.float32)
  placed = np.zeros((len(points), 2), np.float32)
  if np.ptp(points, axis=0).max() > 0:  # scikit-learn divides by their spread
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(points)
  return np.split(placed, np.cumsum([len(one) for one in sets])[:-1])
