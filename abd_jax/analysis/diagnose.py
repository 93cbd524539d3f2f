"""The paper's diagnosis of a run: what its frozen models make of real and of dreamed images, task by task."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax import __version__
from abd_jax.analysis import distances as distances_lib
from abd_jax.analysis import dreams as dreams_lib
from abd_jax.analysis.dreams import SHOWN, RealImages, evenly, fraction, picture
from abd_jax.data.records import Source
from abd_jax.errors import UserError
from abd_jax.files import is_intact, read_json, sealed, write_atomically
from abd_jax.protocol import metrics
from abd_jax.run.extend import stream_of_run
from abd_jax.run.load import LoadedModel, load_model

SCHEMA = 4
DREAMS = 1000  # of each task's model
COMPARED = 1000  # real images of each kind, at most
PLANE_POINTS = 200  # of each kind, in the picture by t-SNE
MOST_BYTES = 2**29  # raw images read of each split: the diagnosis holds them several times over


Dreams = tuple[np.ndarray, np.ndarray]  # f32[n, h, w, c] normalised images, f32[n, classes] the model's probabilities


def diagnose(
  workdir: str | Path, data_dir: str = '', tell: Callable[[str], None] = lambda text: None
) -> tuple[dict, dict[str, np.ndarray]]:
  """(diagnosis.json, the arrays of images.npz) of a run, finished or not; docs/report.md documents both.

  Reads the files in `diagnosis/` if they are whole and of the same frozen models, else writes them.

  Args:
    workdir: of the run.
    data_dir: where its prepared data lie now; '' for where the run found them.
    tell: called with a line when it begins, and if the files cannot be written.

  Raises:
    UserError: no frozen models, no data, or a damaged file.
  """
  folder = Path(workdir).absolute()
  manifests = sorted((folder / 'teachers').glob('*.json'))
  stamp = {'schema_version': SCHEMA, 'models': {file.stem: read_json(file).get('files') for file in manifests}}
  if kept := _kept(folder / 'diagnosis', stamp):
    return kept
  newest = load_model(folder)
  tell(f'{folder.name}: looking at its frozen models')
  real = read_images(folder, newest.task, data_dir)
  models = [*(load_model(folder, task) for task in range(newest.task)), newest]
  dreams = [model.dream_normalised(DREAMS) if model.can_dream else None for model in models]
  result, pictures = examine(models, dreams, real)
  result = sealed(stamp | {'abd_jax': __version__} | result)
  try:
    _keep(folder / 'diagnosis', result, pictures)
  except OSError as error:  # the folder of another user
    tell(f'{folder.name}: cannot write diagnosis/ there ({error.strerror or error}); the diagnosis is not kept')
  return result, pictures


def _kept(folder: Path, stamp: dict[str, Any]) -> tuple[dict, dict[str, np.ndarray]] | None:
  """What `_keep` wrote; None if it is not there, damaged, or without this stamp."""
  try:
    result = read_json(folder / 'diagnosis.json')
    if not is_intact(result) or any(result.get(key) != value for key, value in stamp.items()):
      return None
    with np.load(folder / 'images.npz', allow_pickle=False) as arrays:
      return result, dict(arrays)
  except Exception:  # zipfile, zlib and NumPy raise many kinds for a damaged archive
    return None


def _keep(folder: Path, result: dict, pictures: dict[str, np.ndarray]) -> None:
  folder.mkdir(exist_ok=True)
  packed = io.BytesIO()
  np.savez_compressed(packed, allow_pickle=False, **pictures)
  write_atomically(folder / 'images.npz', packed.getvalue())
  write_atomically(folder / 'diagnosis.json', json.dumps(result) + '\n')


def read_images(workdir: Path, upto: int, data_dir: str = '') -> RealImages:
  """The images of tasks 0..upto of the run in `workdir`, cropped, scaled and split as the run had them.

  Of a split larger than MOST_BYTES every k-th image. Nothing is downloaded or prepared. data_dir: as in `diagnose`.
  Raises UserError if the data are not there, or if the run extends one of other data.
  """
  stream = stream_of_run(workdir, data_dir)
  if not len(stream.labels(0)):
    raise UserError(f'{workdir.name} extends a run on other data, whose training images it cannot read.')
  known = [original for task in range(upto + 1) for original in stream.tasks.original_ids(task)]

  def part(split: Source) -> tuple[np.ndarray, np.ndarray]:
    every = max(1, -(-len(split) * int(np.prod(split.view.shape)) // MOST_BYTES))
    split = split.take(np.arange(0, len(split), every))
    return split.decode()[0], stream.tasks.learning_labels(split.labels)

  splits = stream.dataset.train(known), stream.dataset.test(known)
  return RealImages(*part(splits[0]), *part(splits[1]))


def examine(
  models: Sequence[LoadedModel], dreams: Sequence[Dreams | None], real: RealImages
) -> tuple[dict, dict[str, np.ndarray]]:
  """(what diagnosis.json holds, the arrays of images.npz).

  models, dreams: the model after each task, and what it dreams if it does. real: images of all their tasks.
  """
  compared = [compare(*several, real) for several in zip(models[:-1], models[1:], dreams[:-1], strict=True)]
  quality = [dreams_lib.quality(model, *those, real) for model, those in zip(models, dreams, strict=True) if those]
  last, carried = models[-1], models[max(len(models) - 2, 0)]  # the last task's model is carried to no other task
  first = lambda label: real.test[real.test_labels == label][:SHOWN]  # not the best
  pictures = {f'real_{label}': picture(fraction(first(label), last)) for label in range(len(last.class_names))}
  for _, of_dreams in quality:
    pictures |= of_dreams
  return {
    'class_names': list(last.class_names),
    'task_sizes': list(last.tasks.sizes[: last.task + 1]),
    'distances': [distances for distances, _, _ in compared],
    'cka': [cka for _, cka, _ in compared],
    'plane': plane(compared[0][2]) if compared else None,
    'probe': probe(last, real),
    'carried': [drift(model, real) for model in models[1:] if model.class_means is not None],
    'dreams': [entry for entry, _ in quality],
    'kept_bytes': carried.nbytes() | {'images': last.memory_images * (real.test[0].nbytes + 4)},
    'kept_images': last.memory_images,
  }, pictures


def compare(
  before: LoadedModel, after: LoadedModel, dreams: Dreams | None, real: RealImages
) -> tuple[dict, dict, dict[str, np.ndarray]]:
  """Compares old, new and dreamed images as the model `after` a task sees them.

  Test images of earlier tasks are old ones, those of this task new ones: at most COMPARED of each. The dreams are of
  the model `before`; `after` was trained on them in place of old images. Returns (entry of `distances`, entry of `cka`,
  kind of image -> f32[n, d] features that the head sees). A number is None without dreams, for too few images, and, of
  CKA, where features do not vary.
  """
  task, images = after.task_of_class[real.test_labels], {}
  for kind, chosen in (('old', task < after.task), ('new', task == after.task)):
    rows = np.flatnonzero(chosen)
    rows = rows[np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).astype(int)]
    images[kind] = after.normalise(real.test[rows])
  if dreams:
    images['dreamed'] = dreams[0]
  features = {kind: after.layers(those) for kind, those in images.items()}
  old, old_before = features['old'], before.layers(images['old'])
  far = lambda distance, layer: {
    kind: distance(old[layer], features[kind][layer]) if kind in features else None for kind in ('new', 'dreamed')
  }
  layers = {
    layer: {
      'mid': far(distances_lib.mid, layer),
      'mmd2': far(distances_lib.mmd2, layer),
      'dead': int(distances_lib.dead(values).sum()) if len(values) >= 2 else None,
      'features': values.shape[1],
    }
    for layer, values in old.items()
  }
  return (
    {'task': after.task, 'images': {kind: len(those) for kind, those in images.items()}, 'layers': layers},
    {'task': after.task, 'layers': {layer: distances_lib.cka(old_before[layer], old[layer]) for layer in old}},
    {kind: list(of.values())[-1] for kind, of in features.items()},
  )


def plane(features: dict[str, np.ndarray]) -> dict | None:
  """t-SNE of f[n, d] features of each kind of image: points [x, y] (Figure C). None for fewer than three."""
  sets = {kind: evenly(those, PLANE_POINTS) for kind, those in features.items() if len(those)}
  if sum(map(len, sets.values())) < 3:
    return None
  placed = distances_lib.tsne(list(sets.values()))
  return {'task': 1, **{kind: np.round(points, 2).tolist() for kind, points in zip(sets, placed, strict=True)}}


def drift(model: LoadedModel, real: RealImages) -> dict:
  """How far the kept mean of each earlier class lies from that of its training images' features.

  In units of the class's deviation, the root of the trace of its covariance. None for a class that has none.
  """
  features, labels = training_features(model, real)
  assert model.class_means is not None
  apart = []
  for c in np.flatnonzero(model.task_of_class < model.task):
    mine = features[labels == c].astype(np.float64)
    deviation = np.sqrt(np.sum(np.var(mine, axis=0)))
    distance = np.linalg.norm(model.class_means[c] - np.mean(mine, axis=0))
    apart.append(float(distance / deviation) if deviation else None)
  return {'task': model.task, 'by_class': apart}


def training_features(model: LoadedModel, real: RealImages) -> tuple[np.ndarray, np.ndarray]:
  """(features f32[n, d], labels i32[n]) of evenly spaced training images."""
  most = dreams_lib.FEATURE_IMAGES
  return model.features(evenly(real.train, most)), evenly(real.train_labels, most)


def probe(model: LoadedModel, real: RealImages) -> dict:
  """Test accuracy of a linear probe on a model's features, beside that of its own head: by task, and over all.

  The probe is trained on training images of all tasks: what it finds and the head does not is still in the features.
  None for a task without test images, and for a probe of one class.
  """
  reader = distances_lib.linear_probe(*training_features(model, real))
  names, tasks = np.asarray(model.class_names), model.task + 1
  of_task = model.task_of_class[real.test_labels]
  shares = lambda hit: {'all': float(hit.mean()), 'by_task': metrics.accuracy_row(hit, of_task, tasks)}
  return {
    'head': shares(model.predict(real.test)[0] == names[real.test_labels]),
    'probe': shares(reader.predict(model.features(real.test)) == real.test_labels)
    if reader is not None
    else {'all': None, 'by_task': [None] * tasks},
  }
