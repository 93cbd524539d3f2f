"""Centred kernel alignment: how much of one set of features is the other, turned and scaled."""

import numpy as np


def cka(a: np.ndarray, b: np.ndarray) -> float:
  """Linear CKA (Kornblith et al., 2019) between f[n, d] and f[n, e], features of the same n images in the same order.

  1 for features equal up to rotation and scale; 0 on average for unrelated ones, as HSIC is the unbiased estimate of
  Song et al. (2012): the usual one is far above 0 where images are not many more than features. nan if either set
  does not vary. Raises ValueError for fewer than four images, or other ones.
  """
  if len(a) != len(b) or len(a) < 4:
    raise ValueError(f'CKA needs the same four images or more, not {len(a)} and {len(b)}')
  gram_a, gram_b = _gram(a), _gram(b)
  own = _hsic(gram_a, gram_a) * _hsic(gram_b, gram_b)
  return float(_hsic(gram_a, gram_b) / np.sqrt(own)) if own > 0 else float('nan')


def _gram(features: np.ndarray) -> np.ndarray:
  centred = np.asarray(features, np.float64)
  centred = centred - centred.mean(0)
  gram = centred @ centred.T
  np.fill_diagonal(gram, 0)
  return gram


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
  """The unbiased estimate from two Gram matrices with zero diagonals."""
  n, sums = len(k), k.sum(1) @ m.sum(1)
  return ((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * sums / (n - 2)) / (n * (n - 3))
