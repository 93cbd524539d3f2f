"""Features on a plane, by scikit-learn's t-SNE (Figure C; the paper names no settings)."""

from collections.abc import Sequence

import numpy as np

PERPLEXITY = 30.0


def tsne(sets: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
  """f32[n, 2] for each of the sets f[n, d], three points at least, embedded together. Few lower the perplexity."""
  from sklearn.manifold import TSNE

  points = np.concatenate(sets).astype(np.float32)
  if np.ptp(points, axis=0).max() == 0:  # scikit-learn would divide by their spread
    placed = np.zeros((len(points), 2), np.float32)
  else:
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    start = 'pca' if points.shape[1] > 1 else 'random'
    placed = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(points)
  return np.split(placed, np.cumsum([len(one) for one in sets])[:-1])
