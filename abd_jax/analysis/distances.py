"""How far apart two sets of features are: the paper's MID (Eq. 10) and the unbiased MMD^2 of Gretton et al. (2012).

What the paper leaves open is decided here. MID: the standard deviation is the population's (ddof 0), and a feature
that does not vary in the reference has no unit to measure in, so it is left out; `dead` counts those. MMD^2: a Gaussian
kernel exp(-d^2 / (2 s^2)), s the median distance between different images of both sets together, unless one is given.
"""

import numpy as np


def dead(reference: np.ndarray) -> np.ndarray:
  """bool[d]: the features of f[n, d] that are constant, up to rounding."""
  reference = np.asarray(reference, np.float64)
  size = np.abs(reference).max(0)
  return np.ptp(reference, axis=0) <= 1e-6 * np.maximum(size, 1e-30)


def mid(reference: np.ndarray, other: np.ndarray) -> float:
  """Mean Image Distance, Eq. 10: || (mean of reference - mean of other) / std of reference ||_2.

  reference: f[n, d]; other: f[m, d]. Raises ValueError for a reference of fewer than two images, which has no
  standard deviation, and for an empty other.
  """
  reference, other = _checked(reference, other)
  if len(reference) < 2 or not len(other):
    raise ValueError(f'MID needs two images of reference and one more, not {len(reference)} and {len(other)}')
  alive = ~dead(reference)
  difference = (reference.mean(0) - other.mean(0))[alive]
  return float(np.linalg.norm(difference / reference.std(0)[alive]))


def median_distance(points: np.ndarray) -> float:
  """The median Euclidean distance between different rows of f[n, d]; of those apart, if half of them are not."""
  distances = np.sqrt(_squared_distances(points, points)[np.triu_indices(len(points), 1)])
  apart = distances[distances > 0]
  return float(np.median(distances)) or (float(np.median(apart)) if len(apart) else 0.0)


def mmd2(a: np.ndarray, b: np.ndarray, bandwidth: float | None = None) -> float:
  """The unbiased estimate of MMD^2 between f[n, d] and f[m, d]; 0 on average, and so at times below it, if alike.

  bandwidth: s of the kernel; None for the median distance. Raises ValueError for fewer than two images in either.
  """
  a, b = _checked(a, b)
  if min(len(a), len(b)) < 2:
    raise ValueError(f'MMD^2 needs two images of each, not {len(a)} and {len(b)}')
  bandwidth = median_distance(np.concatenate([a, b])) if bandwidth is None else bandwidth
  if bandwidth == 0:  # all images have the same features
    return 0.0
  kernel = lambda x, y: np.exp(-_squared_distances(x, y) / (2 * bandwidth**2))
  within = lambda x: (kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1))
  return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(f'features must be f[n, d] and f[m, d], not {a.shape} and {b.shape}')
  return a, b


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """f64[n, m]"""
  centre = a.mean(0)  # equal distances, less rounding
  a, b = a - centre, b - centre
  squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
  squared = np.maximum(squared, 0)
  if a.shape == b.shape and np.array_equal(a, b):
    np.fill_diagonal(squared, 0)
  # What rounding alone leaves is no distance.
  return np.where(squared <= 1e-12 * max(squared.max(initial=0.0), (a**2).max(initial=0.0)), 0.0, squared)
