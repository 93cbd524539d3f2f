"""What dreams are worth: judged by another classifier, by their variety, by how near they come to private images."""

from typing import Any, NamedTuple

import numpy as np

from abd_jax.analysis.distances import dead

JUDGE_SIDE = 16  # pixels that the judge sees of a larger image
JUDGE_IMAGES = 4000  # that it learns from


def judge(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Any:
  """A classifier of images f[n, h, w, c] that shares nothing with the network: `predict(f[m, h, w, c]) -> i[m]`.

  scikit-learn's support vector machine with a Gaussian kernel on the pixels, larger images averaged down to about
  16x16, on at most 4,000 images. None where those are of one class: there is nothing to tell apart.
  """
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import FunctionTransformer
  from sklearn.svm import SVC

  rows = np.random.default_rng(seed).permutation(len(images))[:JUDGE_IMAGES]
  if len(np.unique(labels[rows])) < 2:
    return None
  machine = make_pipeline(FunctionTransformer(_small), SVC(C=10.0, gamma='scale'))
  return machine.fit(images[rows], labels[rows])


def _small(images: np.ndarray) -> np.ndarray:
  """f[n, d]: pixels averaged over squares, so that no side is longer than 16 by much."""
  n, height, width, channels = images.shape
  by = max(1, min(height, width) // JUDGE_SIDE)
  cut = images[:, : height // by * by, : width // by * by]
  return cut.reshape(n, height // by, by, width // by, by, channels).mean((2, 4)).reshape(n, -1)


def diversity(dreamed: np.ndarray, dreamed_labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray) -> float:
  """Variance of features f[n, d] within a class: that of dreams as a share of that of real images.

  The mean over the classes with two of each; nan if there is none, or real images do not vary.
  """
  ratios = []
  for label in np.unique(real_labels):
    ours, theirs = dreamed[dreamed_labels == label], real[real_labels == label]
    if min(len(ours), len(theirs)) >= 2 and theirs.var(0).sum() > 0:
      ratios.append(ours.var(0).sum() / theirs.var(0).sum())
  return float(np.mean(ratios)) if ratios else float('nan')


class Privacy(NamedTuple):
  """How near dreams are to training images, in root-mean-square difference of pixels in [0, 1], or of features.

  Attributes:
    dreamed: f[n], each dream's distance to the training image nearest to it.
    unseen: f[m], the same of test images: how near an image comes that nobody copied.
    nearest: i[n], the row of the training image nearest to each dream.
    closer: the share of dreams nearer to a training image than to any test image, among as many of each; a dream that
      leans to neither counts half, so 0.5 is to be expected.
  """

  dreamed: np.ndarray
  unseen: np.ndarray
  nearest: np.ndarray
  closer: float

  @property
  def suspicious(self) -> float:
    """The share of dreams nearer to a training image than 99 % of test images are; about 0.01 is to be expected."""
    return float(np.mean(self.dreamed < np.quantile(self.unseen, 0.01)))


def privacy(dreamed: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0) -> Privacy:
  """The figure for dreams of a model of the images `train`, `test` being others of the same kind.

  All are pixels f[n, h, w, c] or features f[n, d]. seed: of which of the more numerous images are left out of `closer`.
  """
  dreamed, train, test = (np.reshape(images, (len(images), -1)).astype(np.float32) for images in (dreamed, train, test))
  ours, nearest = _nearest(dreamed, train)
  rng, count = np.random.default_rng(seed), min(len(train), len(test))
  drawn = [images[rng.permutation(len(images))[:count]] for images in (train, test)]
  to_train, to_test = (_nearest(dreamed, images)[0] for images in drawn)
  closer = np.mean(to_train < to_test) + np.mean(to_train == to_test) / 2
  return Privacy(ours, _nearest(test, train)[0], nearest, float(closer))


def _nearest(images: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(f[n] root-mean-square distance of each of f[n, d] to the nearest of f[m, d], i[n] its row)."""
  from sklearn.neighbors import NearestNeighbors

  distance, row = NearestNeighbors(n_neighbors=1, algorithm='brute').fit(among).kneighbors(images)
  return distance[:, 0] / among.shape[1] ** 0.5, row[:, 0]


def in_deviations(reference: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """Each set of features f[n, d] in units of the reference's standard deviations, without features that do not vary.

  Where none of them varies there is no unit, and all stay as they are.
  """
  alive = ~dead(reference)
  if not alive.any():
    return [reference, *others]
  return [features[:, alive] / reference[:, alive].std(0) for features in (reference, *others)]
