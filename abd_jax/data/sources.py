"""Reads prepared data sets, one task at a time, without TensorFlow.

Labels are read at once, images are decoded only when a task asks for them. A data set that is not on disk yet
is prepared by its builder in `abd_jax.data.builders`.
"""

import functools
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abd_jax.data.prepare import check_count, find, prepare
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks

# Records are read in blocks: a split's encoded images may not fit in memory at once.
_BLOCK = 1024
_FOLD_SEED = 0


class _Part(NamedTuple):
  """Some images of a split on disk.

  Attributes:
    source: random access to the records of the split (a tfds data source), images left encoded.
    rows: int64[n], positions in `source`.
    labels: int32[n], original ids.
    image_shape: (h, w, c).
  """

  source: Any
  rows: np.ndarray
  labels: np.ndarray
  image_shape: tuple[int, int, int]

  def take(self, mask: np.ndarray) -> '_Part':
    """The images where `mask` bool[n] holds."""
    return self._replace(rows=self.rows[mask], labels=self.labels[mask])

  def of_classes(self, original_ids: Collection[int]) -> '_Part':
    return self.take(np.isin(self.labels, list(original_ids)))

  def decode(self) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, h, w, c], int32[n])."""
    from PIL import Image

    mode = 'L' if self.image_shape[-1] == 1 else 'RGB'
    images = np.empty((len(self.rows), *self.image_shape), np.uint8)
    for i, record in enumerate(_records(self.source, self.rows)):
      images[i] = np.asarray(Image.open(io.BytesIO(record['image'])).convert(mode)).reshape(self.image_shape)
    return images, self.labels.copy()


def _records(source: Any, rows: np.ndarray) -> Iterator[Mapping[str, Any]]:
  for start in range(0, len(rows), _BLOCK):
    yield from source.__getitems__(rows[start : start + _BLOCK].tolist())


def _open_split(builder: Any, split: str) -> _Part:
  """All images of one split of a prepared tfds builder.

  Raises:
    UserError: the files hold fewer images than they should.
  """
  import tensorflow_datasets as tfds

  check_count(builder, split)
  source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
  rows = np.arange(len(source))
  labels = np.fromiter((record['label'] for record in _records(source, rows)), np.int32, len(rows))
  return _Part(source, rows, labels, builder.info.features['image'].shape)


class Dataset:
  """A data set on disk; made by `open_dataset`.

  Attributes:
    name: as in `open_dataset`.
    class_names: name of each original class id.
    num_classes: number of classes.
    image_shape: (h, w, c).
    on_read: called with a dict that tells which images were just decoded, whenever some are.
  """

  def __init__(self, name: str, builder: Any, folds: int, fold: int):
    features = builder.info.features
    self.name = name
    self.class_names: tuple[str, ...] = tuple(features['label'].names)
    self.num_classes = len(self.class_names)
    self.image_shape: tuple[int, int, int] = features['image'].shape
    self.on_read: Callable[[dict], None] = lambda record: None
    self._builder, self._folds, self._fold = builder, folds, fold

  @functools.cached_property
  def _train_and_test(self) -> tuple[_Part, _Part]:
    train = _open_split(self._builder, 'train')
    if not self._folds:
      return train, _open_split(self._builder, 'test')
    held_out = _deal(train.labels, self._folds) == self._fold
    return train.take(~held_out), train.take(held_out)

  def train(self, original_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Training images of these classes, in the order on disk: (uint8[n, h, w, c], int32[n] original ids)."""
    return self._decode('training', self._train_and_test[0], original_ids)

  def test(self, original_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same of the test images or, with folds, of the held-out ones."""
    return self._decode('testing', self._train_and_test[1], original_ids)

  def _decode(self, purpose: str, part: _Part, original_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = part.of_classes(original_ids).decode()
    split = 'test' if purpose == 'testing' and not self._folds else 'train'
    folds = {'folds': self._folds, 'held_out': self._fold} if self._folds else {}
    self.on_read({'for': purpose, 'split': split, **folds, 'classes': sorted(original_ids), 'images': len(labels)})
    return images, labels

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


def open_dataset(name: str, data_dir: str, *, folds: int = 0, fold: int = 0, download: bool = True) -> Dataset:
  """Opens a data set, preparing it first if need be.

  Args:
    name: a folder of `data_dir` that holds a prepared array_record copy (the newest version in it is
      taken), or a builder of ours.
    data_dir: where prepared data sets live; '' for tfds's own default.
    folds: if positive, `test` gives one of this many stratified parts of the training split and `train` the
      others; the official test split is never opened. For choosing settings.
    fold: which part is held out, 0..folds-1.
    download: whether what is neither prepared nor in `data_dir`/downloads may be fetched from the network.

  Raises:
    UserError: unknown name, unusable folder, failed download, incomplete or unsuitable files, or no such fold.
  """
  if folds == 1 or folds < 0 or fold not in range(max(folds, 1)):
    raise UserError(f'fold={fold} with folds={folds}: folds must be 0 or at least 2, and fold in 0..folds-1.')
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import constants

  root = Path(data_dir or constants.DATA_DIR).expanduser().absolute()
  folder = find(root / name) or prepare(name, root, download)
  builder = tfds.builder_from_directory(folder)
  _check_suitable(builder)
  return Dataset(name, builder, folds, fold)


def _check_suitable(builder: Any) -> None:
  info, where = builder.info, builder.data_path
  if info.file_format.value != 'array_record':
    raise UserError(
      f"{where} is stored as {info.file_format.value}, which needs TensorFlow; prepare it with tfds's "
      "file_format='array_record', or choose another data_dir."
    )
  if missing := {'train', 'test'} - set(info.splits) or {'image', 'label'} - set(info.features):
    raise UserError(f'{where} has no {min(missing)!r}; needed: splits train, test and features image, label.')
  if None in info.features['image'].shape:
    raise UserError(f'{where} holds images of varying size; prepare a copy with all images of one size.')


class TaskStream:
  """Gives out training data task by task, and keeps the method's promise: no way back to an earlier task."""

  def __init__(self, dataset: Dataset, tasks: Tasks):
    """Streams `dataset` in the order of `tasks`.

    Raises:
      ValueError: the two differ in their number of classes.
    """
    if tasks.num_classes != dataset.num_classes:
      raise ValueError(f'tasks order {tasks.num_classes} classes, {dataset.name} has {dataset.num_classes}')
    self._dataset, self.tasks = dataset, tasks
    self._latest = 0

  def on_read(self, tell: Callable[[dict], None]) -> None:
    """Has `tell` called with a dict that says which images were decoded, whenever some are."""
    self._dataset.on_read = tell

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(h, w, c)."""
    return self._dataset.image_shape

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes in learning order."""
    return tuple(self._dataset.class_names[original] for original in self.tasks.order)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of training images of each task."""
    return tuple(len(self.labels(t)) for t in range(self.tasks.num_tasks))

  def labels(self, t: int) -> np.ndarray:
    """The learning labels int32[n] that `task(t)` gives; decodes no image."""
    return self.tasks.learning_labels(self._dataset.train_labels(self.tasks.original_ids(t)))

  def task(self, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Training data of task t: (uint8[n, h, w, c], int32[n] learning labels). Not kept here.

    Raises:
      RuntimeError: a later task was given before.
      IndexError: no such task.
    """
    original_ids = self.tasks.original_ids(t)
    if t < self._latest:
      raise RuntimeError(f'task {t} is over: task {self._latest} has been given')
    self._latest = t
    images, labels = self._dataset.train(original_ids)
    return images, self.tasks.learning_labels(labels)

  def test(self, upto: int) -> tuple[np.ndarray, np.ndarray]:
    """Test data of tasks 0..upto, sorted by task: (uint8[n, h, w, c], int32[n] learning labels).

    Raises:
      IndexError: no such task.
    """
    images, labels = self._dataset.test(self._known(upto))
    labels, order = self._by_task(labels)
    return images[order], labels

  def test_labels(self, upto: int) -> np.ndarray:
    """The learning labels int32[n] that `test(upto)` gives; decodes no image."""
    return self._by_task(self._dataset.test_labels(self._known(upto)))[0]

  def _known(self, upto: int) -> tuple[int, ...]:
    """Original ids of the classes of tasks 0..upto."""
    self.tasks.original_ids(upto)
    return self.tasks.order[: sum(self.tasks.sizes[: upto + 1])]

  def _by_task(self, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(learning labels sorted by task, where each was)."""
    labels = self.tasks.learning_labels(original)
    order = np.argsort(self.tasks.task_of_class[labels], kind='stable')
    return labels[order], order
