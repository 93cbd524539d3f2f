"""What the frozen models of a run make of real and of dreamed images, task by task."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from abd_jax.analysis import dreams as dreams_lib
from abd_jax.analysis.cka import cka
from abd_jax.analysis.distances import dead, mid, mmd2
from abd_jax.analysis.embedding import tsne
from abd_jax.analysis.images import RealImages
from abd_jax.analysis.probe import linear_probe
from abd_jax.protocol import metrics
from abd_jax.run.load import LoadedModel

TRAINED = 20_000  # training images whose features are looked at, at most
COMPARED = 1000  # real images of each kind, at most
PLANE_POINTS = 200  # of each kind, in the picture by t-SNE
SHOWN = 6  # dreams and real images of each class that are kept for pictures
PAIRS = 8  # dreams shown beside the training image nearest to them


class Dreams(NamedTuple):
  """Of the model after a task: f32[n, h, w, c] normalised, its probabilities f32[n, classes], in [0, 1] f32."""

  images: np.ndarray
  probabilities: np.ndarray
  pixels: np.ndarray

  @property
  def labels(self) -> np.ndarray:
    return self.probabilities.argmax(1)


class Subject(NamedTuple):
  """What is looked at: the model after each task, its dreams where there are any, and the real images."""

  models: list[LoadedModel]
  dreams: list[Dreams | None]
  real: RealImages

  def test_of(self, chosen: Callable[[np.ndarray], np.ndarray], most: int = COMPARED) -> tuple[np.ndarray, np.ndarray]:
    """(raw test images, labels) of the tasks that `chosen` (i[n] -> bool[n]) picks, at most so many, drawn evenly."""
    rows = np.flatnonzero(chosen(self.models[-1].task_of_class[self.real.test_labels]))
    rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] if len(rows) else rows
    return self.real.test[rows], self.real.test_labels[rows]

  def fraction(self, images: np.ndarray) -> np.ndarray:
    """f32: raw images as values in [0, 1]."""
    return (images / self.real.white).astype(np.float32)


def examine(subject: Subject) -> tuple[dict, dict[str, np.ndarray]]:
  """(what diagnosis.json holds, the arrays of images.npz). docs/report.md documents both."""
  later = range(1, len(subject.models))
  quality = [dream_quality(subject, task) for task, dreams in enumerate(subject.dreams) if dreams]
  last = subject.models[-1]
  return {
    'class_names': list(last.class_names),
    'task_sizes': list(last.tasks.sizes[: last.task + 1]),
    'distances': [distances(subject, task) for task in later],
    'cka': [alignment(subject, task) for task in later],
    'plane': plane(subject, 1) if later else None,
    'probe': probe(subject),
    'dreams': [one for one, _ in quality],
    'confusion': confusion(subject),
    'kept_bytes': _kept_bytes(last, subject),
    'kept_images': last.memory_images,
  }, {**_pictures(subject), **{key: value for _, pairs in quality for key, value in pairs.items()}}


def features_of(subject: Subject, task: int) -> dict[str, dict[str, np.ndarray]]:
  """Layer -> f32[n, d] of old real, new real and dreamed images, of the model after 0-based `task`, at least 1.

  Old: test images of all earlier tasks; new: of this one; dreamed: what it was trained on in place of the old. Those
  of which there are none are left out.
  """
  model, dreams = subject.models[task], subject.dreams[task - 1]
  images = {'old': subject.test_of(lambda of: of < task)[0], 'new': subject.test_of(lambda of: of == task)[0]}
  features = {kind: model.layers(model.normalise(those)) for kind, those in images.items() if len(those)}
  return features | ({'dreamed': model.layers(dreams.images)} if dreams else {})


def distances(subject: Subject, task: int) -> dict:
  """MID and MMD^2 from old real images to new real and to dreamed ones, layer by layer.

  None without dreams, or where images are too few.
  """
  features = features_of(subject, task)
  counts = {kind: len(next(iter(of.values()))) for kind, of in features.items()}
  varied = counts['old'] >= 2

  def far(distance: Callable[..., float], least: int, name: str) -> dict[str, float | None]:
    known = {kind for kind in counts if varied and counts[kind] >= least}
    old = features['old'][name]
    return {kind: distance(old, features[kind][name]) if kind in known else None for kind in ('new', 'dreamed')}

  layers = {
    name: {
      'mid': far(mid, 1, name),
      'mmd2': far(mmd2, 2, name),
      'dead': int(dead(old).sum()) if varied else None,
      'features': old.shape[1],
    }
    for name, old in features['old'].items()
  }
  return {'task': task, 'images': counts, 'layers': layers}


def alignment(subject: Subject, task: int) -> dict:
  """CKA of the features of old test images before and after learning 0-based `task`, layer by layer.

  None for fewer than four images, and where features do not vary.
  """
  images, _ = subject.test_of(lambda of: of < task)
  before, after = (model.layers(model.normalise(images)) for model in subject.models[task - 1 : task + 1])
  of = lambda name: cka(before[name], after[name]) if len(images) >= 4 else np.nan
  number = lambda value: None if np.isnan(value) else value
  return {'task': task, 'layers': {name: number(of(name)) for name in before}}


def plane(subject: Subject, task: int) -> dict | None:
  """t-SNE of the features after 0-based `task`: points [x, y] of old real, new real and dreamed images (Figure C).

  None for fewer than three.
  """
  features = features_of(subject, task)
  sets = {
    kind: list(of.values())[-1][:: -(-len(list(of.values())[-1]) // PLANE_POINTS)] for kind, of in features.items()
  }
  if sum(map(len, sets.values())) < 3:
    return None
  placed = tsne(list(sets.values()))
  return {'task': task, **{kind: np.round(points, 2).tolist() for kind, points in zip(sets, placed, strict=True)}}


def probe(subject: Subject) -> dict:
  """Accuracy on test images of a linear probe on the last model's features beside that of its own head.

  The probe is trained on all training images of all tasks: what it finds and the head does not is still in the
  features. By task, and over all; None where there are no test images, and of a probe of one class.
  """
  model, real = subject.models[-1], subject.real
  images = _evenly(real.train, TRAINED)
  reader = linear_probe(model.features(images), _evenly(real.train_labels, TRAINED))
  names, tasks = np.asarray(model.class_names), model.task + 1
  of_task = model.task_of_class[real.test_labels]
  shares = lambda hit: {'all': float(hit.mean()), 'by_task': metrics.accuracy_row(hit, of_task, tasks)}
  return {
    'head': shares(model.predict(real.test)[0] == names[real.test_labels]),
    'probe': shares(reader.predict(model.features(real.test)) == real.test_labels)
    if reader is not None
    else {'all': None, 'by_task': [None] * tasks},
  }


def confusion(subject: Subject) -> list[list[int]]:
  """Counts [c][c] of the last model's answers to test images: a row for each true class."""
  model, real = subject.models[-1], subject.real
  predicted = model.predict(real.test)[1].argmax(1)
  return metrics.confusion(real.test_labels, predicted, len(model.class_names)).tolist()


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
  return rows[:: -(-len(rows) // most)]


def dream_quality(subject: Subject, task: int) -> tuple[dict, dict[str, np.ndarray]]:
  """What the dreams after 0-based `task` are worth, and pictures of those nearest to training images."""
  dreams, model, real = subject.dreams[task], subject.models[task], subject.real
  assert dreams is not None
  seen, trained = model.task_of_class[real.test_labels] <= task, model.task_of_class[real.train_labels] <= task
  test, test_labels = real.test[seen], real.test_labels[seen]
  labels, train = dreams.labels, subject.fraction(real.train[trained])
  judge = dreams_lib.judge(train, real.train_labels[trained])  # among the classes that the teacher knows
  agreement = lambda images, those: None if judge is None else float(np.mean(judge.predict(images) == those))
  features = lambda images: list(model.layers(images).values())[-1]
  near = dreams_lib.privacy(dreams.pixels, train, subject.fraction(test))
  ours, theirs = features(dreams.images), features(model.normalise(test))
  learnt = features(model.normalise(_evenly(real.train[trained], TRAINED)))
  learnt, *others = dreams_lib.in_deviations(learnt, ours, theirs)
  near_features = dreams_lib.privacy(others[0], learnt, others[1])
  variety = dreams_lib.diversity(ours, labels, theirs, test_labels)
  first = np.argsort(near.dreamed)[:PAIRS]
  pairs = {
    f'nearest_dreamed_{task}': _bytes(dreams.pixels[first]),
    f'nearest_real_{task}': _bytes(train[near.nearest[first]]),
  }
  return {
    'task': task,
    'dreams': len(labels),
    'agreement': agreement(dreams.pixels, labels),
    'judge_accuracy': agreement(subject.fraction(test), test_labels),
    'chance': 1 / len(model.class_names),
    'confidence': float(dreams.probabilities.max(1).mean()),
    'class_confidence': _class_confidence(dreams),
    'histogram': np.bincount(labels, minlength=len(model.class_names)).tolist(),
    'diversity': None if np.isnan(variety) else variety,
    **_nearness(near),
    'features': _nearness(near_features),
    'pair_distances': near.dreamed[first].tolist(),
  }, pairs


def _nearness(near: dreams_lib.Privacy) -> dict[str, Any]:
  return {
    'nearest_dreamed': _quantiles(near.dreamed),
    'nearest_unseen': _quantiles(near.unseen),
    'suspicious': near.suspicious,
    'closer': near.closer,
  }


def _class_confidence(dreams: Dreams) -> list[float | None]:
  """The mean, over the dreams of each class, of the teacher's probability for it; None where it dreams of none."""
  sure, labels = dreams.probabilities.max(1), dreams.labels
  of = [sure[labels == label] for label in range(dreams.probabilities.shape[1])]
  return [float(one.mean()) if len(one) else None for one in of]


def _quantiles(values: np.ndarray) -> list[float]:
  """The least, the lower quartile, the median, the upper quartile and the most."""
  return np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()


def _kept_bytes(last: LoadedModel, subject: Subject) -> dict[str, int]:
  """Bytes that the method carries from one task to the next: models, and real images if it stores any."""
  carried = subject.models[max(len(subject.models) - 2, 0)].nbytes()  # the last model of all has no task to go to
  return carried | {'images': last.memory_images * (subject.real.test[0].nbytes + 4)}


def _bytes(pixels: np.ndarray) -> np.ndarray:
  """u8 of values in [0, 1]."""
  return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _pictures(subject: Subject) -> dict[str, np.ndarray]:
  """For each class u8 images: `real_<class>` and `dreamed_<task>_<class>`.

  The first of each, not the best.
  """
  found, real = {}, subject.real
  for label in range(len(subject.models[-1].class_names)):
    found[f'real_{label}'] = _bytes(subject.fraction(real.test[real.test_labels == label][:SHOWN]))
    for task, dreams in enumerate(subject.dreams):
      if dreams and label < dreams.probabilities.shape[1]:
        rows = np.flatnonzero(dreams.labels == label)[:SHOWN]
        found[f'dreamed_{task}_{label}'] = _bytes(dreams.pixels[rows])
  return found
