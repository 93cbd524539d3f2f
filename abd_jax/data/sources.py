"""Opens data sets and gives out their images task by task, without TensorFlow.

Labels are read at once; images are decoded only when a task asks for them. A data set that is not on disk yet is
prepared by its builder in `abd_jax.data.builders`.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.data.folders import own_images
from abd_jax.data.images import View
from abd_jax.data.prepare import Options, Place, find_or_prepare
from abd_jax.data.records import Source, open_split
from abd_jax.errors import UserError, reason
from abd_jax.protocol.tasks import Tasks

_FOLD_SEED = 0


@dataclass
class Dataset:
  """A data set on disk; made by `open_dataset`.

  Attributes:
    name: as in `open_dataset`.
    class_names: name of each original class id.
    training, testing: all images, with original ids as labels.
    value_range: the raw values of deep images that became 0 and 255, as in `images.plain`; () without such images.
    fingerprint: a digest of classes, all labels and the files' bytes: other images under this name have another one.
    folds: {} or {'folds': how many, 'held_out': which}, for the log of reads.
    unlogged: reads before there was a log: a run measures images before it has one.
    on_read: called with a dict that describes the images whenever some are given out.
  """

  name: str
  class_names: tuple[str, ...]
  training: Source
  testing: Source
  fingerprint: str
  value_range: tuple[float, ...] = ()
  folds: dict[str, int] = field(default_factory=dict)
  unlogged: list[dict] = field(default_factory=list)
  on_read: Callable[[dict], None] = field(init=False)

  def __post_init__(self):
    self.on_read = self.unlogged.append

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(h, w, c)."""
    return self.training.view.shape

  def train(self, original_ids: Collection[int]) -> Source:
    """The training images of these classes, in the order on disk. Logs the read."""
    return self._read('training', self.training, original_ids)

  def test(self, original_ids: Collection[int]) -> Source:
    """The same of the test images or, with folds, of the held-out ones."""
    return self._read('testing', self.testing, original_ids)

  def _read(self, purpose: str, source: Source, original_ids: Collection[int]) -> Source:
    part = source.of_classes(original_ids)
    what = {'for': purpose, 'split': source.split, **self.folds}
    self.on_read(what | {'classes': sorted(original_ids), 'images': len(part)})
    return part


def extended(names: tuple[str, ...], old: 'TaskStream | None', new: Dataset) -> Dataset:
  """The classes `names` that a model has learnt, in learning order, and behind them all classes of `new`.

  The learnt classes have no training images. They have test images only if `old`, their own stream, is given and stores
  images as `new` does.
  """
  training, testing = (replace(one, labels=one.labels + len(names)) for one in (new.training, new.testing))
  if old is not None and old.dataset.testing.view == new.testing.view:
    testing = old.test(old.tasks.num_tasks - 1, log=False).then(testing)
  return replace(new, class_names=names + new.class_names, training=training, testing=testing)


def _deal(labels: np.ndarray, folds: int) -> np.ndarray:
  """int[n]: the fold of each image. Folds differ by at most one image, in each class and in all."""
  rng = np.random.default_rng(_FOLD_SEED)
  shuffled = np.concatenate([rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)])
  fold_of = np.empty(len(labels), int)
  fold_of[shuffled] = np.arange(len(labels)) % folds
  return fold_of


def open_dataset(
  name: str,
  data_dir: str,
  *,
  folds: int = 0,
  fold: int = 0,
  download: bool = True,
  prepared: str = '',
  prepare: bool = True,
  options: Options | None = None,
) -> Dataset:
  """Opens a data set; prepares it first if there is no copy and `prepare` allows it.

  Args:
    name: a folder of `data_dir` that holds a prepared array_record copy (its newest version is taken), or a builder of
      ours.
    data_dir: where prepared data sets live, or the files to prepare one from; '' for TFDS's own default.
    folds: if positive, `test` gives one of this many stratified parts of the training split and `train` the others;
      the official test split is never opened. For choosing settings.
    fold: which part is held out, 0..folds-1.
    download: whether the network may be used for what is neither prepared nor in `data_dir`/downloads.
    prepared: where copies are written; '' for `data_dir`, or beside it for a folder of photographs.
    options: how images are stored and cut; None: the defaults.

  Raises:
    UserError: unknown name, unusable folder, failed download, incomplete or unsuitable files, or no such fold.
  """
  options = options or Options()
  if folds == 1 or folds < 0 or fold not in range(max(folds, 1)):
    raise UserError(f'fold={fold} with folds={folds}: folds must be 0 or at least 2, and fold in 0..folds-1.')
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import constants

  if own_images(name) and not data_dir:
    raise UserError('--config.data.dir is missing: the folder of photographs, as in --config.data.dir=PHOTOS.')
  absolute = lambda path: Path(os.path.abspath(os.path.expanduser(path)))
  root = absolute(data_dir or constants.DATA_DIR)
  copies = absolute(prepared or (f'{root}.prepared' if own_images(name) else root))
  if own_images(name) and root in (copies, *copies.parents):
    raise UserError(f'--config.data.prepared={prepared} lies within the photographs. Choose a folder outside {root}.')
  folder = find_or_prepare(name, Place(root, copies, download, prepare), options)
  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # tfds raises many kinds for a description that is missing, cut or empty
    raise UserError(
      f'the description of the data in {folder} cannot be read ({reason(error, 80)}); copy it anew, or delete it.'
    ) from None
  return _open(name, builder, options, {'folds': folds, 'held_out': fold} if folds else {})


def _open(name: str, builder: Any, options: Options, folds: dict[str, int]) -> Dataset:
  test_split = next((split for split in ('test', 'validation', 'val') if split in builder.info.splits), 'test')
  view, label = _view(builder, test_split, options), builder.info.features['label']
  training = open_split(builder, 'train', view, getattr(label, 'num_classes', None))
  count = getattr(label, 'num_classes', None) or 1 + int(training.labels.max(initial=-1))
  if folds:
    held_out = _deal(training.labels, folds['folds']) == folds['held_out']
    training, testing = training.take(~held_out), training.take(held_out)
  else:
    testing = open_split(builder, test_split, view, count)
  names = getattr(label, 'names', None)
  class_names = tuple(str(k) for k in range(count)) if not names or None in names else tuple(names)
  digest, files = hashlib.sha256(repr((class_names, view)).encode()), builder.info.metadata or {}
  for source in (training, testing):
    digest.update(source.labels.tobytes())
  for split in ('train', 'test'):  # written for photographs, by builders/_files.py
    digest.update(str(files.get(f'{split}_digest', '')).encode())
  value_range = tuple(files.get('value_range') or ())
  digest.update(str(value_range or '').encode())
  fingerprint = digest.hexdigest()[:16]
  return Dataset(name, class_names, training, testing, fingerprint, value_range or tuple(options.value_range), folds)


def open_configured(data: Any, prepare: bool = True) -> Dataset:
  """The data set that config.data, `data`, describes. Raises UserError as `open_dataset` does."""
  options = Options(*(data[name] for name in Options._fields))
  where = dict(folds=data.folds, fold=data.fold, download=data.download, prepared=data.prepared, prepare=prepare)
  return open_dataset(data.name, data.dir, **where, options=options)


def _view(builder: Any, test_split: str, options: Options) -> View:
  """How its images become the network's. Raises UserError if we cannot read them, or the options do not say."""
  info, where = builder.info, builder.data_path
  if info.file_format.value != 'array_record':
    raise UserError(f"{where}: expected file_format='array_record', got '{info.file_format.value}', which needs "
                    'TensorFlow. Prepare it anew with tfds.')  # fmt: skip
  if missing := {'train', test_split} - set(info.splits) or {'image', 'label'} - set(info.features):
    raise UserError(f'{where} has no {min(missing)!r}; needed: splits train, test and features image, label.')
  image, label = info.features['image'], info.features['label']
  stored: Any = tuple(image.shape or ())
  dtype = np.dtype(image.np_dtype)
  if len(stored) != 3 or stored[-1] not in (1, 3) or dtype != np.uint8:
    raise UserError(f'{where}: expected images uint8[height, width, 1 or 3], got {dtype} of shape {stored}.')
  if label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
    raise UserError(f'{where}: expected one integer label an image. Prepare it with ClassLabel.')
  height, width, channels = stored
  if options.crop == 'resized':
    size = options.size or int((info.metadata or {}).get('size', 0))
    if not size:
      raise UserError('config.data.crop=resized needs config.data.size, the side of the square to cut out, in pixels.')
    height, width = size, size
  elif height is None or width is None:
    raise UserError(f'{where} holds images of varying size; crop squares with --config.data.crop=resized '
                    '--config.data.size=64, or prepare a copy with all images of one size.')  # fmt: skip
  elif options.size and (height, width) != (options.size, options.size):
    raise UserError(f'{where} holds {height}x{width} images, but config.data.size={options.size}; leave it at 0, or '
                    'set --config.data.crop=resized.')  # fmt: skip
  return View(stored, (height, width, channels), options.crop)


class TaskStream:
  """Gives out training images task by task, and keeps the method's promise: no way back to an earlier task."""

  def __init__(self, dataset: Dataset, tasks: Tasks):
    """Streams `dataset` in the order of `tasks`, which orders all of its classes."""
    self.dataset, self.tasks = dataset, tasks
    self.image_shape = dataset.image_shape  # h, w, c
    self.class_names = tuple(dataset.class_names[original] for original in tasks.order)  # in learning order
    self._latest = 0

  def on_read(self, log: Callable[[dict], None]) -> None:
    """Has `log` called with a dict for each read, past and future."""
    while self.dataset.unlogged:
      log(self.dataset.unlogged.pop(0))
    self.dataset.on_read = log

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of training images of each task."""
    return tuple(len(self.labels(t)) for t in range(self.tasks.num_tasks))

  def labels(self, t: int) -> np.ndarray:
    """The learning labels int32[n] of `task(t)`. No image is read."""
    return self.tasks.learning_labels(self.dataset.training.of_classes(self.tasks.original_ids(t)).labels)

  def task(self, t: int) -> Source:
    """The training images of task t, with learning labels. Not kept here.

    Raises RuntimeError if a later task was given before, IndexError for no such task.
    """
    original_ids = self.tasks.original_ids(t)
    if t < self._latest:
      raise RuntimeError(f'task {t} is over: task {self._latest} has been given')
    self._latest = t
    source = self.dataset.train(original_ids)
    return replace(source, labels=self.tasks.learning_labels(source.labels))

  def test(self, upto: int, log: bool = True) -> Source:
    """The test images of tasks 0..upto, sorted by task, with learning labels. Raises IndexError: no such task.

    log: False for a stream that logs the read itself.
    """
    self.tasks.original_ids(upto)
    learnt = self.tasks.order[: sum(self.tasks.sizes[: upto + 1])]
    source = self.dataset.test(learnt) if log else self.dataset.testing.of_classes(learnt)
    labels = self.tasks.learning_labels(source.labels)
    order = np.argsort(self.tasks.task_of_class[labels], kind='stable')
    return replace(source, rows=source.rows[order], labels=labels[order])

  def test_labels(self, upto: int) -> np.ndarray:
    """The learning labels int32[n] of `test(upto)`. No image is read."""
    return self.test(upto, log=False).labels
