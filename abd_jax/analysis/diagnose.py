"""The paper's diagnosis of a run: what its frozen models make of real and of dreamed images, task by task."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abd_jax import __version__
from abd_jax.analysis import distances as distances_lib
from abd_jax.analysis import dreams as dreams_lib
from abd_jax.analysis.dreams import Dreams, RealImages, evenly, picture
from abd_jax.analysis.embedding import tsne
from abd_jax.analysis.probe import linear_probe
from abd_jax.config import restored
from abd_jax.data.records import Source
from abd_jax.errors import UserError
from abd_jax.files import is_intact, read_json, sealed, write_atomically
from abd_jax.protocol import metrics
from abd_jax.run.extend import open_stream, read_base
from abd_jax.run.load import LoadedModel, load_model
from abd_jax.run.workdir import resolve

SCHEMA = 3
DREAMS = 1000  # of each task's model
COMPARED = 1000  # real images of each kind, at most
PLANE_POINTS = 200  # of each kind, in the picture by t-SNE
SHOWN = 6  # dreams and real images of each class that are kept for pictures
MOST_BYTES = 2**29  # raw images read of each split: the diagnosis holds them several times over


class Subject(NamedTuple):
  """What is diagnosed: the model after each task, its dreams if it dreams, and real images of all tasks."""

  models: list[LoadedModel]
  dreams: list[Dreams | None]
  real: RealImages

  def test_of(self, first: int, last: int) -> np.ndarray:
    """Raw test images of the 0-based tasks first..last, at most COMPARED, drawn evenly."""
    task = self.models[-1].task_of_class[self.real.test_labels]
    rows = np.flatnonzero((first <= task) & (task <= last))
    rows = rows[np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).astype(int)]
    return self.real.test[rows]


def diagnose(
  workdir: str | Path, data_dir: str = '', tell: Callable[[str], None] = lambda text: None
) -> tuple[dict, dict[str, np.ndarray]]:
  """(diagnosis.json, the arrays of images.npz) of a run, finished or not; docs/report.md documents both.

  Reads the files in `diagnosis/` if they are of the same frozen models, else writes them.

  Args:
    workdir: of the run.
    data_dir: where its prepared data lie now; '' for where the run found them.
    tell: called with a line when it begins, and if the files cannot be written.

  Raises:
    UserError: no frozen models, no data, or a damaged file.
  """
  folder = Path(workdir).absolute()
  file, stamp = folder / 'diagnosis' / 'diagnosis.json', _stamp(folder)
  if file.exists():
    found = read_json(file)
    if is_intact(found) and (found.get('schema_version'), found.get('models')) == (SCHEMA, stamp):
      return found, _read_pictures(file.with_name('images.npz'))
  newest = load_model(folder)
  tell(f'{folder.name}: looking at its frozen models')
  real = read_images(folder, newest.task, data_dir)
  models = [*(load_model(folder, task) for task in range(newest.task)), newest]
  result, pictures = examine(Subject(models, [dreams_of(model) for model in models], real))
  result = sealed({'schema_version': SCHEMA, 'abd_jax': __version__, 'models': stamp} | result)
  try:
    file.parent.mkdir(exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **pictures)
    write_atomically(file.with_name('images.npz'), packed.getvalue())
    write_atomically(file, json.dumps(result) + '\n')
  except OSError as error:  # the folder of another user
    tell(f'{folder.name}: cannot write {file.parent} ({error.strerror or error}); the diagnosis is not kept')
  return result, pictures


def _stamp(folder: Path) -> dict[str, Any]:
  """Frozen model -> the checksums of its files."""
  return {file.stem: read_json(file).get('files') for file in sorted((folder / 'teachers').glob('*.json'))}


def _read_pictures(file: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged archive
    raise UserError(f'{file} is damaged: delete the folder {file.parent.name} there to have it made anew.') from error


def dreams_of(model: LoadedModel) -> Dreams | None:
  if not model.can_dream:
    return None
  images, probabilities = model.dream_normalised(DREAMS)
  return Dreams(images, probabilities, model.denormalise(images))


def read_images(workdir: Path, upto: int, data_dir: str = '') -> RealImages:
  """The images of tasks 0..upto of the run in `workdir`, cropped, scaled and split as the run had them.

  Of a split larger than MOST_BYTES every k-th image. Nothing is downloaded or prepared. data_dir: as in `diagnose`.
  Raises UserError if the data are not there, or if the run extends one of other data.
  """
  config = resolve(restored(read_json(workdir / 'config.json'))).unlock()
  config.data.dir = data_dir or config.data.dir
  stream = open_stream(config.lock(), read_base(config.extends) if config.extends else None, prepare=False)
  if not len(stream.labels(0)):
    raise UserError(f'{workdir.name} extends a run on other data, whose training images it cannot read.')
  known = [original for task in range(upto + 1) for original in stream.tasks.original_ids(task)]

  def part(split: Source) -> tuple[np.ndarray, np.ndarray]:
    every = max(1, -(-len(split) * int(np.prod(split.view.shape)) // MOST_BYTES))
    split = split.take(np.arange(0, len(split), every))
    return split.decode()[0], stream.tasks.learning_labels(split.labels)

  splits = stream.dataset.train(known), stream.dataset.test(known)
  return RealImages(*part(splits[0]), *part(splits[1]), config.data.max_value)


def examine(subject: Subject) -> tuple[dict, dict[str, np.ndarray]]:
  """(what diagnosis.json holds, the arrays of images.npz)."""
  models, real = subject.models, subject.real
  later = range(1, len(models))
  dreaming = [(model, dreams) for model, dreams in zip(models, subject.dreams, strict=True) if dreams]
  quality = [dreams_lib.quality(model, dreams, real.of_classes(len(model.class_names))) for model, dreams in dreaming]
  pictures = _pictures(subject)
  for _, pairs in quality:
    pictures |= pairs
  last, carried = models[-1], models[max(len(models) - 2, 0)]  # the last task's model is carried to no other task
  return {
    'class_names': list(last.class_names),
    'task_sizes': list(last.tasks.sizes[: last.task + 1]),
    'distances': [distances(subject, task) for task in later],
    'cka': [alignment(subject, task) for task in later],
    'plane': plane(subject, 1) if later else None,
    'probe': probe(last, real),
    'dreams': [entry for entry, _ in quality],
    'kept_bytes': carried.nbytes() | {'images': last.memory_images * (real.test[0].nbytes + 4)},
    'kept_images': last.memory_images,
  }, pictures


def features_of(subject: Subject, task: int) -> dict[str, dict[str, np.ndarray]]:
  """Kind of image -> layer -> f32[n, d], by the model after 0-based `task`, at least 1.

  'old': test images of all earlier tasks. 'new': of this task. 'dreamed': what it was trained on in place of the old.
  """
  model, dreams = subject.models[task], subject.dreams[task - 1]
  images = {'old': subject.test_of(0, task - 1), 'new': subject.test_of(task, task)}
  features = {kind: model.layers(model.normalise(those)) for kind, those in images.items()}
  return features | ({'dreamed': model.layers(dreams.images)} if dreams else {})


def _number(value: float) -> float | None:
  return None if np.isnan(value) else value


def distances(subject: Subject, task: int) -> dict:
  """MID and MMD^2 from old real images to new real and to dreamed ones, layer by layer.

  None without dreams, or if there are too few images.
  """
  features = features_of(subject, task)

  def far(distance: Callable[..., float], name: str) -> dict[str, float | None]:
    old, known = features['old'][name], ('new', 'dreamed')
    return {kind: _number(distance(old, features[kind][name])) if kind in features else None for kind in known}

  layers = {
    name: {
      'mid': far(distances_lib.mid, name),
      'mmd2': far(distances_lib.mmd2, name),
      'dead': int(distances_lib.dead(old).sum()) if len(old) >= 2 else None,
      'features': old.shape[1],
    }
    for name, old in features['old'].items()
  }
  counts = {kind: len(next(iter(of.values()))) for kind, of in features.items()}
  return {'task': task, 'images': counts, 'layers': layers}


def alignment(subject: Subject, task: int) -> dict:
  """CKA of the features of old test images before and after learning 0-based `task`, layer by layer.

  None for fewer than four images, and where features do not vary.
  """
  images = subject.test_of(0, task - 1)
  before, after = (model.layers(model.normalise(images)) for model in subject.models[task - 1 : task + 1])
  return {'task': task, 'layers': {name: _number(distances_lib.cka(before[name], after[name])) for name in before}}


def plane(subject: Subject, task: int) -> dict | None:
  """t-SNE of the features after 0-based `task`: points [x, y] of old real, new real and dreamed images (Figure C).

  None for fewer than three.
  """
  final = {kind: list(layers.values())[-1] for kind, layers in features_of(subject, task).items()}
  sets = {kind: evenly(features, PLANE_POINTS) for kind, features in final.items() if len(features)}
  if sum(map(len, sets.values())) < 3:
    return None
  placed = tsne(list(sets.values()))
  return {'task': task, **{kind: np.round(points, 2).tolist() for kind, points in zip(sets, placed, strict=True)}}


def probe(model: LoadedModel, real: RealImages) -> dict:
  """Accuracy on test images of a linear probe on a model's features, beside that of its own head.

  The probe is trained on all training images of all tasks: what it finds and the head does not is still in the
  features. By task, and over all; None for a task without test images, and for a probe of one class.
  """
  most = dreams_lib.FEATURE_IMAGES
  reader = linear_probe(model.features(evenly(real.train, most)), evenly(real.train_labels, most))
  names, tasks = np.asarray(model.class_names), model.task + 1
  of_task = model.task_of_class[real.test_labels]
  shares = lambda hit: {'all': float(hit.mean()), 'by_task': metrics.accuracy_row(hit, of_task, tasks)}
  return {
    'head': shares(model.predict(real.test)[0] == names[real.test_labels]),
    'probe': shares(reader.predict(model.features(real.test)) == real.test_labels)
    if reader is not None
    else {'all': None, 'by_task': [None] * tasks},
  }


def _pictures(subject: Subject) -> dict[str, np.ndarray]:
  """For each class u8 images, `real_<class>` and `dreamed_<task>_<class>`: the first of each, not the best."""
  found, real = {}, subject.real
  for label in range(len(subject.models[-1].class_names)):
    found[f'real_{label}'] = picture(real.fraction(real.test[real.test_labels == label][:SHOWN]))
    for task, dreams in enumerate(subject.dreams):
      if dreams and label < dreams.probabilities.shape[1]:
        found[f'dreamed_{task}_{label}'] = picture(dreams.pixels[dreams.labels == label][:SHOWN])
  return found
