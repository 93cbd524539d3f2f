"""Reads prepared data sets, one task at a time, without TensorFlow.

Labels are read at once, images are decoded only when a task asks for them. A data set that is not on disk yet
is prepared by its builder in `abd_jax.data.builders`.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.data.options import DEFAULT, Options
from abd_jax.data.prepare import Place, find_or_prepare
from abd_jax.data.records import Split, View, open_split
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks

_FOLD_SEED = 0


class Dataset:
  """A data set on disk; made by `open_dataset`.

  Attributes:
    name: as in `open_dataset`.
    class_names: name of each original class id.
    num_classes: number of classes.
    image_shape: (h, w, c).
    on_read: called with a dict that tells which images were just decoded, whenever some are.
    untold: what nobody was told of yet: a run measures images before it has a log.
  """

  def __init__(self, name: str, builder: Any, folds: int, fold: int, view: View):
    self.name, self.view = name, view
    self.class_names = _class_names(builder, view)
    self.num_classes = len(self.class_names)
    self.image_shape: tuple[int, int, int] = view.shape
    self.untold: list[dict] = []
    self.on_read: Callable[[dict], None] = self.untold.append
    self._builder, self._folds, self._fold = builder, folds, fold
    self._test_split = _test_split(builder)

  @functools.cached_property
  def _train_and_test(self) -> tuple[Split, Split]:
    train = open_split(self._builder, 'train', self.view, self.num_classes)
    if not self._folds:
      return train, open_split(self._builder, self._test_split, self.view, self.num_classes)
    held_out = _deal(train.labels, self._folds) == self._fold
    return train.take(~held_out), train.take(held_out)

  def fingerprint(self) -> str:
    """What tells these images from others under the same name: a digest of classes, all labels and the files' bytes."""
    digest, files = hashlib.sha256(repr((self.class_names, self.view)).encode()), self._builder.info.metadata or {}
    for split in self._train_and_test:
      digest.update(split.labels.tobytes())
    for split in ('train', 'test'):  # known of photographs
      digest.update(str(files.get(f'{split}_digest', '')).encode())
    return digest.hexdigest()[:16]

  def train(self, original_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Training images of these classes, in the order on disk: (uint8[n, h, w, c], int32[n] original ids)."""
    return self.train_split(original_ids).decode()

  def test(self, original_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same of the test images or, with folds, of the held-out ones."""
    return self.test_split(original_ids).decode()

  def train_split(self, original_ids: Collection[int]) -> Split:
    """What `train` decodes, still encoded: for those who decode some of it at a time."""
    return self._opened('training', self._train_and_test[0], original_ids)

  def test_split(self, original_ids: Collection[int]) -> Split:
    """The same of what `test` decodes."""
    return self._opened('testing', self._train_and_test[1], original_ids)

  def _opened(self, purpose: str, part: Split, original_ids: Collection[int]) -> Split:
    part = part.of_classes(original_ids)
    split = self._test_split if purpose == 'testing' and not self._folds else 'train'
    folds = {'folds': self._folds, 'held_out': self._fold} if self._folds else {}
    self.on_read({'for': purpose, 'split': split, **folds, 'classes': sorted(original_ids), 'images': len(part.rows)})
    return part

  def train_labels(self, original_ids: Collection[int]) -> np.ndarray:
    """The labels that `train` gives; decodes no image."""
    return self._train_and_test[0].of_classes(original_ids).labels

  def test_labels(self, original_ids: Collection[int]) -> np.ndarray:
    """The labels that `test` gives; decodes no image."""
    return self._train_and_test[1].of_classes(original_ids).labels


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
  options: Options = DEFAULT,
) -> Dataset:
  """Opens a data set, preparing it first if need be and `prepare` says so.

  Args:
    name: a folder of `data_dir` that holds a prepared array_record copy (the newest version in it is
      taken), or a builder of ours.
    data_dir: where prepared data sets live, or the files to prepare one from; '' for tfds's own default.
    folds: if positive, `test` gives one of this many stratified parts of the training split and `train` the
      others; the official test split is never opened. For choosing settings.
    fold: which part is held out, 0..folds-1.
    download: whether what is neither prepared nor in `data_dir`/downloads may be fetched from the network.
    prepared: where copies are written; '' for `data_dir`, or beside it for a folder of photographs.
    options: what becomes of images.

  Raises:
    UserError: unknown name, unusable folder, failed download, incomplete or unsuitable files, or no such fold.
  """
  if folds == 1 or folds < 0 or fold not in range(max(folds, 1)):
    raise UserError(f'fold={fold} with folds={folds}: folds must be 0 or at least 2, and fold in 0..folds-1.')
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import constants

  root = Path(os.path.expanduser(data_dir or constants.DATA_DIR)).absolute()
  copies = Path(os.path.expanduser(prepared)).absolute() if prepared else root
  if name == 'image_folder':
    if not data_dir:
      raise UserError('--config.data.dir is missing: the folder of photographs, as in --config.data.dir=PHOTOS.')
    copies = copies if prepared else root.with_name(f'{root.name}.prepared')
  folder = find_or_prepare(name, Place(root, copies, download, prepare), options)
  try:
    builder = tfds.builder_from_directory(folder)
    checked = _check_suitable(builder)
  except UserError:
    raise
  except Exception as error:  # tfds raises many kinds for a description that is missing, cut or empty
    reason = ' '.join(str(error).split())[:80]
    raise UserError(f'the description of the data in {folder} cannot be read ({reason}); delete that folder.') from None
  return Dataset(name, builder, folds, fold, _view(builder, checked, options))


def open_configured(data: Any, prepare: bool = True) -> Dataset:
  """The data set that config.data, `data`, describes. Raises UserError as `open_dataset` does."""
  options = Options(*(data[name] for name in Options._fields))
  where = dict(folds=data.folds, fold=data.fold, download=data.download, prepared=data.prepared, prepare=prepare)
  return open_dataset(data.name, data.dir, **where, options=options)


def _check_suitable(builder: Any) -> tuple[int | None, int | None, int]:
  """(h, w, c) of the images as stored, h and w None where they vary. Raises UserError for what we cannot read."""
  info, where = builder.info, builder.data_path
  if info.file_format.value != 'array_record':
    raise UserError(
      f"{where} is stored as {info.file_format.value}, which needs TensorFlow; prepare it with tfds's "
      "file_format='array_record', or choose another data_dir."
    )
  if missing := {'train', _test_split(builder)} - set(info.splits) or {'image', 'label'} - set(info.features):
    raise UserError(f'{where} has no {min(missing)!r}; needed: splits train, test and features image, label.')
  image, label = info.features['image'], info.features['label']
  shape = tuple(image.shape or ())
  if len(shape) != 3 or shape[-1] not in (1, 3):
    raise UserError(f'{where} holds images of shape {shape}; needed: (height, width, channels) with 1 or 3 channels.')
  if np.dtype(image.np_dtype) != np.uint8:
    raise UserError(f'{where} holds images of {np.dtype(image.np_dtype)}; needed: uint8, 8 bits a channel.')
  if label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
    raise UserError(f'{where} has labels that are not one whole number an image; prepare it with ClassLabel.')
  return shape


def _test_split(builder: Any) -> str:
  """The split to test on: 'test', or what other data sets call it."""
  return next((name for name in ('test', 'validation', 'val') if name in builder.info.splits), 'test')


def _class_names(builder: Any, view: View) -> tuple[str, ...]:
  """One name for each label; its number where the data set gives none."""
  label = builder.info.features['label']
  names = getattr(label, 'names', None)
  count = getattr(label, 'num_classes', None) or 1 + int(open_split(builder, 'train', view).labels.max(initial=-1))
  if not names or None in names:
    return tuple(str(k) for k in range(count))
  return tuple(names)


def _view(builder: Any, stored: tuple[int | None, int | None, int], options: Options) -> View:
  """How its images become the network's. Raises UserError if the options do not say."""
  size = options.size or int((builder.info.metadata or {}).get('size', 0))
  if options.crop == 'resized':
    if not size:
      raise UserError('config.data.crop=resized needs config.data.size, the side of the square to cut out, in pixels.')
    return View(stored, (size, size, stored[2]), options.crop)
  height, width, channels = stored
  if height is None or width is None:
    raise UserError(
      f'{builder.data_path} holds images of varying size; cut squares out of them with '
      '--config.data.crop=resized --config.data.size=64, or prepare a copy with all images of one size.'
    )
  if options.size and (height, width) != (size, size):
    raise UserError(
      f'{builder.data_path} holds {height}x{width} images, config.data.size asks for {size}x{size}; leave it at 0, or '
      'set --config.data.crop=resized.'
    )
  return View(stored, (height, width, channels), options.crop)


class TaskStream:
  """Gives out training data task by task, and keeps the method's promise: no way back to an earlier task."""

  def __init__(self, dataset: Dataset, tasks: Tasks):
    """Streams `dataset` in the order of `tasks`.

    Raises:
      ValueError: the two differ in their number of classes.
    """
    if tasks.num_classes != dataset.num_classes:
      raise ValueError(f'tasks order {tasks.num_classes} classes, {dataset.name} has {dataset.num_classes}')
    self.dataset, self.tasks = dataset, tasks
    self._latest = 0

  def on_read(self, tell: Callable[[dict], None]) -> None:
    """Has `tell` called with a dict that says which images were decoded, for those so far and whenever some are."""
    while self.dataset.untold:
      tell(self.dataset.untold.pop(0))
    self.dataset.on_read = tell

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(h, w, c)."""
    return self.dataset.image_shape

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes in learning order."""
    return tuple(self.dataset.class_names[original] for original in self.tasks.order)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of training images of each task."""
    return tuple(len(self.labels(t)) for t in range(self.tasks.num_tasks))

  def labels(self, t: int) -> np.ndarray:
    """The learning labels int32[n] that `task(t)` gives; decodes no image."""
    return self.tasks.learning_labels(self.dataset.train_labels(self.tasks.original_ids(t)))

  def task(self, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Training data of task t: (uint8[n, h, w, c], int32[n] learning labels). Not kept here.

    Raises:
      RuntimeError: a later task was given before.
      IndexError: no such task.
    """
    return self.task_split(t).decode()

  def task_split(self, t: int) -> Split:
    """The same still encoded, with learning labels."""
    original_ids = self.tasks.original_ids(t)
    if t < self._latest:
      raise RuntimeError(f'task {t} is over: task {self._latest} has been given')
    self._latest = t
    split = self.dataset.train_split(original_ids)
    return replace(split, labels=self.tasks.learning_labels(split.labels))

  def test(self, upto: int) -> tuple[np.ndarray, np.ndarray]:
    """Test data of tasks 0..upto, sorted by task: (uint8[n, h, w, c], int32[n] learning labels).

    Raises:
      IndexError: no such task.
    """
    return self.test_split(upto).decode()

  def test_split(self, upto: int) -> Split:
    """The same still encoded, with learning labels."""
    split = self.dataset.test_split(self._known(upto))
    labels, order = self._by_task(split.labels)
    return replace(split, rows=split.rows[order], labels=labels)

  def test_labels(self, upto: int) -> np.ndarray:
    """The learning labels int32[n] that `test(upto)` gives; decodes no image."""
    return self._by_task(self.dataset.test_labels(self._known(upto)))[0]

  def _known(self, upto: int) -> tuple[int, ...]:
    """Original ids of the classes of tasks 0..upto."""
    self.tasks.original_ids(upto)
    return self.tasks.order[: sum(self.tasks.sizes[: upto + 1])]

  def _by_task(self, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(learning labels sorted by task, where each was)."""
    labels = self.tasks.learning_labels(original)
    order = np.argsort(self.tasks.task_of_class[labels], kind='stable')
    return labels[order], order
