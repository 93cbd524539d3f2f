"""What dreams are worth: what another classifier sees in them, how varied they are, how near to private images."""

from typing import Any, NamedTuple

import numpy as np

from abd_jax.analysis.distances import dead
from abd_jax.run.load import LoadedModel

JUDGE_SIDE = 16  # pixels that the judge sees of a larger image
JUDGE_IMAGES = 4000  # that it learns from
FEATURE_IMAGES = 20_000  # training images whose features are computed, at most
SHOWN = 6  # dreams and real images of each class that are kept for pictures
PAIRS = 8  # dreams shown beside the training image nearest to them


class RealImages(NamedTuple):
  """Raw images u8[n, h, w, c] and learning labels i32[n] of the classes that a run has learnt."""

  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray


def quality(
  model: LoadedModel, dreams: np.ndarray, probabilities: np.ndarray, real: RealImages
) -> tuple[dict, dict[str, np.ndarray]]:
  """What dreams f32[n, h, w, c], normalised, of a model are worth beside real images of the classes it has learnt.

  probabilities: f32[n, classes], by the model. real: images of these and perhaps later classes. Returns (entry of
  `dreams` in diagnosis.json, name -> u8[n, h, w, c]: the first dreams of each class, and those nearest to training
  images with these).
  """
  classes, labels, pixels = len(model.class_names), probabilities.argmax(1), model.denormalise(dreams)
  train_raw, train_labels = (rows[real.train_labels < classes] for rows in (real.train, real.train_labels))
  test_raw, test_labels = (rows[real.test_labels < classes] for rows in (real.test, real.test_labels))
  train, test = fraction(train_raw, model), fraction(test_raw, model)
  classifier = judge(train, train_labels)
  agreement = lambda images, those: None if classifier is None else float(np.mean(classifier.predict(images) == those))
  features = lambda images: list(model.layers(images).values())[-1]
  of_dreams, of_test = features(dreams), features(model.normalise(test_raw))
  of_train = features(model.normalise(evenly(train_raw, FEATURE_IMAGES)))
  by_pixels, distance, nearest = privacy(pixels, train, test)
  by_features, _, _ = privacy(*in_deviations(of_train, of_dreams, of_train, of_test))
  first, confidence = np.argsort(distance)[:PAIRS], probabilities.max(1)
  per_class = [confidence[labels == label] for label in range(classes)]
  pictures = {f'dreamed_{model.task}_{label}': pixels[labels == label][:SHOWN] for label in range(classes)}
  pictures[f'nearest_dreamed_{model.task}'] = pixels[first]
  pictures[f'nearest_real_{model.task}'] = train[nearest[first]]
  return {
    'task': model.task,
    'dreams': len(labels),
    'agreement': agreement(pixels, labels),
    'judge_accuracy': agreement(test, test_labels),
    'chance': 1 / classes,
    'confidence': float(confidence.mean()),
    'class_confidence': [float(one.mean()) if len(one) else None for one in per_class],
    'histogram': [len(one) for one in per_class],
    'diversity': diversity(of_dreams, labels, of_test, test_labels),
    **by_pixels,
    'features': by_features,
    'pair_distances': distance[first].tolist(),
  }, {name: picture(images) for name, images in pictures.items()}


def fraction(images: np.ndarray, model: LoadedModel) -> np.ndarray:
  """f32: raw images as values in [0, 1]."""
  return (images / model.white).astype(np.float32)


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
  """Every k-th row, at most `most`."""
  return rows[:: -(-len(rows) // most)]


def picture(pixels: np.ndarray) -> np.ndarray:
  """u8 of values in [0, 1]."""
  return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def judge(images: np.ndarray, labels: np.ndarray) -> Any:
  """A classifier of images f[n, h, w, c] that shares nothing with the network: `predict(f[m, h, w, c]) -> i[m]`.

  scikit-learn's support vector machine with a Gaussian kernel on the pixels, larger images averaged down to about
  16x16, on at most 4,000 images. None if all images are of one class.
  """
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import FunctionTransformer
  from sklearn.svm import SVC

  rows = np.random.default_rng(0).permutation(len(images))[:JUDGE_IMAGES]
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


def diversity(
  dreamed: np.ndarray, dreamed_labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> float | None:
  """Variance of features f[n, d] within a class: that of dreams as a share of that of real images.

  The mean over classes with two dreams and two real images; None without such a class, or if real images do not vary.
  """
  ratios = []
  for label in np.unique(real_labels):
    ours, theirs = dreamed[dreamed_labels == label], real[real_labels == label]
    if min(len(ours), len(theirs)) >= 2 and theirs.var(0).sum() > 0:
      ratios.append(ours.var(0).sum() / theirs.var(0).sum())
  return float(np.mean(ratios)) if ratios else None


def privacy(dreamed: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
  """How near dreams are to training images: root-mean-square difference of pixels in [0, 1], or of features.

  Args:
    dreamed: of a model of the images `train`; like the others pixels f[n, h, w, c] or features f[n, d].
    train: training images.
    test: other images of the same kind, which nobody copied.

  Returns:
    (summary for JSON, f[n] distance of each dream to the nearest training image, i[n] its row). The summary has the
    minimum, the quartiles and the maximum of distances to the nearest training image, of dreams and of test images;
    `suspicious`, the share of dreams nearer to a training image than 99 % of test images are, expected about 0.01; and
    `closer`, the share of dreams nearer to a training image than to any of as many test images; ties count half.
  """
  from sklearn.metrics import pairwise_distances_argmin_min

  dreamed, train, test = (np.reshape(images, (len(images), -1)).astype(np.float32) for images in (dreamed, train, test))

  def nearest(images: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, distances = pairwise_distances_argmin_min(images, among)
    return distances / among.shape[1] ** 0.5, rows

  (distance, rows), unseen = nearest(dreamed, train), nearest(test, train)[0]
  rng, count = np.random.default_rng(0), min(len(train), len(test))
  drawn = [images[rng.permutation(len(images))[:count]] for images in (train, test)]
  to_train, to_test = (nearest(dreamed, images)[0] for images in drawn)
  quantiles = lambda values: np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
  summary = {
    'nearest_dreamed': quantiles(distance),
    'nearest_unseen': quantiles(unseen),
    'suspicious': float(np.mean(distance < np.quantile(unseen, 0.01))),
    'closer': float(np.mean(to_train < to_test) + np.mean(to_train == to_test) / 2),
  }
  return summary, distance, rows


def in_deviations(reference: np.ndarray, *sets: np.ndarray) -> list[np.ndarray]:
  """Each set of features f[n, d] in units of the reference's standard deviations, without features that do not vary.

  If no feature varies, there is no unit and all stay as they are.
  """
  alive = ~dead(reference)
  if not alive.any():
    return list(sets)
  return [features[:, alive] / reference[:, alive].std(0) for features in sets]
