"""What dreams are worth: what another classifier sees in them, how varied they are, how near to private images."""

from typing import Any, NamedTuple

import numpy as np

from abd_jax.analysis.distances import dead
from abd_jax.run.load import LoadedModel

JUDGE_SIDE = 16  # pixels that the judge sees of a larger image
JUDGE_IMAGES = 4000  # that it learns from
FEATURE_IMAGES = 20_000  # training images whose features are computed, at most
PAIRS = 8  # dreams shown beside the training image nearest to them


class Dreams(NamedTuple):
  """What a model dreams."""

  images: np.ndarray  # f32[n, h, w, c], normalised
  probabilities: np.ndarray  # f32[n, classes], by the model
  pixels: np.ndarray  # f32[n, h, w, c] in [0, 1]

  @property
  def labels(self) -> np.ndarray:
    """i[n]: the class that the model sees in each."""
    return self.probabilities.argmax(1)


class RealImages(NamedTuple):
  """Raw images u8[n, h, w, c] and learning labels i32[n] of the classes that a run has learnt."""

  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray
  white: float  # the raw value of white

  def fraction(self, images: np.ndarray) -> np.ndarray:
    """f32: raw images as values in [0, 1]."""
    return (images / self.white).astype(np.float32)

  def of_classes(self, classes: int) -> 'RealImages':
    """Those of the first `classes` learning labels."""
    trained, tested = self.train_labels < classes, self.test_labels < classes
    train, test = (self.train[trained], self.train_labels[trained]), (self.test[tested], self.test_labels[tested])
    return RealImages(*train, *test, self.white)


def quality(model: LoadedModel, dreams: Dreams, real: RealImages) -> tuple[dict, dict[str, np.ndarray]]:
  """(an entry of `dreams` in diagnosis.json, pictures u8 of the dreams nearest to training images).

  real: of the classes that the model has learnt.
  """
  labels, train, test = dreams.labels, real.fraction(real.train), real.fraction(real.test)
  classifier = judge(train, real.train_labels)
  agreement = lambda images, those: None if classifier is None else float(np.mean(classifier.predict(images) == those))
  features = lambda images: list(model.layers(images).values())[-1]
  of_dreams, of_test = features(dreams.images), features(model.normalise(real.test))
  of_train = features(model.normalise(evenly(real.train, FEATURE_IMAGES)))
  near = privacy(dreams.pixels, train, test)
  scaled_train, scaled_dreams, scaled_test = in_deviations(of_train, of_dreams, of_test)
  variety = diversity(of_dreams, labels, of_test, real.test_labels)
  first = np.argsort(near.dreamed)[:PAIRS]
  confidence = dreams.probabilities.max(1)
  per_class = [confidence[labels == label] for label in range(dreams.probabilities.shape[1])]
  return {
    'task': model.task,
    'dreams': len(labels),
    'agreement': agreement(dreams.pixels, labels),
    'judge_accuracy': agreement(test, real.test_labels),
    'chance': 1 / len(model.class_names),
    'confidence': float(confidence.mean()),
    'class_confidence': [float(one.mean()) if len(one) else None for one in per_class],
    'histogram': np.bincount(labels, minlength=len(model.class_names)).tolist(),
    'diversity': None if np.isnan(variety) else variety,
    **near.summary(),
    'features': privacy(scaled_dreams, scaled_train, scaled_test).summary(),
    'pair_distances': near.dreamed[first].tolist(),
  }, {
    f'nearest_dreamed_{model.task}': picture(dreams.pixels[first]),
    f'nearest_real_{model.task}': picture(train[near.nearest[first]]),
  }


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
  """Every k-th row, at most `most`."""
  return rows[:: -(-len(rows) // most)]


def picture(pixels: np.ndarray) -> np.ndarray:
  """u8 of values in [0, 1]."""
  return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def judge(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Any:
  """A classifier of images f[n, h, w, c] that shares nothing with the network: `predict(f[m, h, w, c]) -> i[m]`.

  scikit-learn's support vector machine with a Gaussian kernel on the pixels, larger images averaged down to about
  16x16, on at most 4,000 images. None if all images are of one class.
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
  """How near dreams are to training images: root-mean-square difference of pixels in [0, 1], or of features."""

  dreamed: np.ndarray  # f[n], the distance of each dream to the nearest training image
  unseen: np.ndarray  # f[m], the same of test images, which nobody copied
  nearest: np.ndarray  # i[n], the row of the training image nearest to each dream
  closer: float  # the share of dreams nearer to a training image than to any of as many test images; ties count half

  @property
  def suspicious(self) -> float:
    """The share of dreams nearer to a training image than 99 % of test images are; about 0.01 is to be expected."""
    return float(np.mean(self.dreamed < np.quantile(self.unseen, 0.01)))

  def summary(self) -> dict[str, Any]:
    """For JSON; of distances the minimum, the quartiles and the maximum."""
    quantiles = lambda values: np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {
      'nearest_dreamed': quantiles(self.dreamed),
      'nearest_unseen': quantiles(self.unseen),
      'suspicious': self.suspicious,
      'closer': self.closer,
    }


def privacy(dreamed: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0) -> Privacy:
  """Of dreams of a model of the images `train`; `test`: other images of the same kind.

  All are pixels f[n, h, w, c] or features f[n, d]. seed: draws as many training images as test images for `closer`.
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

  If no feature varies, there is no unit and all stay as they are.
  """
  alive = ~dead(reference)
  if not alive.any():
    return [reference, *others]
  return [features[:, alive] / reference[:, alive].std(0) for features in (reference, *others)]
