"""The images of one split on disk: labels are read at once and kept beside them, images are decoded when asked for."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.data import images as images_lib
from abd_jax.data.images import View
from abd_jax.data.prepare import arriving, check_count
from abd_jax.errors import UserError, reason

_BLOCK = 1024  # records read at once: the encoded images of a split may not fit in memory
_PER_THREAD = 16  # images that a thread decodes in one go

# Places on disk -> their records: mappings with `image` (encoded, or uint8[h, w, c]) and `label`.
Read = Callable[[list[int]], list[Mapping[str, Any]]]
# (m arrays uint8[h, w, c] to fill, int[m] places, float64[m, images.DRAWS] of random crops or None)
Fill = Callable[[Any, np.ndarray, np.ndarray | None], None]


@dataclass(frozen=True)
class Source:
  """Some images of a split on disk.

  Attributes:
    where: the folder and the split, for messages.
    split: its name.
    read: gives records by their places.
    rows: int64[n], the places of these images.
    labels: int32[n], original class ids unless said otherwise.
    view: how an image is decoded.
  """

  where: str
  split: str
  read: Read
  rows: np.ndarray
  labels: np.ndarray
  view: View

  def __len__(self) -> int:
    return len(self.rows)

  def take(self, mask: np.ndarray) -> 'Source':
    """The images where `mask` bool[n] holds, or those at the places int[m]."""
    return replace(self, rows=self.rows[mask], labels=self.labels[mask])

  def of_classes(self, ids: Collection[int]) -> 'Source':
    return self.take(np.isin(self.labels, list(ids)))

  def then(self, other: 'Source') -> 'Source':
    """These images, and behind them those of `other`, which has the same view."""
    first = 1 + int(self.rows.max(initial=-1))

    def read(rows: list[int]) -> list[Mapping[str, Any]]:
      return [self.read([row])[0] if row < first else other.read([row - first])[0] for row in rows]

    rows, labels = np.concatenate([self.rows, other.rows + first]), np.concatenate([self.labels, other.labels])
    return replace(self, where=f'{self.where} and {other.where}', read=read, rows=rows, labels=labels)

  def __getitem__(self, part: slice) -> np.ndarray:
    """uint8[m, h, w, c], decoded now, so that a Source can stand where an array is read in batches."""
    return self.images(np.arange(len(self))[part])

  def decode(self) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, h, w, c], int32[n] labels). Raises UserError for a record that cannot be decoded."""
    return self[:], self.labels.copy()

  def images(self, places: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """uint8[m, h, w, c] of int[m] places in `rows`. draws: float64[m, images.DRAWS] of random crops."""
    return in_threads(self.fill, self.view.shape, places, draws)

  def fill(self, images: Sequence[np.ndarray] | np.ndarray, places: np.ndarray, draws: np.ndarray | None) -> None:
    """Decodes into m arrays uint8[h, w, c], in this thread."""
    rows = self.rows[places].tolist()
    for k, record in enumerate(self.read(rows)):
      try:
        images[k][...] = self.view.of(record['image'], None if draws is None else draws[k])
      except images_lib.BadImage as error:
        raise bad_record(self.where, rows[k], f'its image {error}') from None


def start(fill: Fill, images: np.ndarray, places: np.ndarray, draws: np.ndarray | None) -> list[Future]:
  """Has threads `fill` uint8[m, h, w, c] images; they are whole when all futures are done."""
  parts = [slice(k, k + _PER_THREAD) for k in range(0, len(places), _PER_THREAD)]
  return [
    images_lib.threads().submit(fill, images[part], places[part], None if draws is None else draws[part])
    for part in parts
  ]


def in_threads(fill: Fill, shape: Sequence[int], places: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
  """uint8[m, *shape] as `fill` makes them."""
  images = np.empty((len(places), *shape), np.uint8)
  for part in start(fill, images, places, draws):
    part.result()
  return images


def bad_record(where: str, row: int, what: str) -> UserError:
  return UserError(f'{where}, record {row}: {what}. Prepare that data set anew without it.')


def open_split(builder: Any, split: str, view: View, num_classes: int | None = None) -> Source:
  """All images of one split of a prepared tfds builder; without `num_classes` any label from 0 on will do.

  Raises UserError if the files hold fewer images than they should, or a record that cannot be used.
  """
  check_count(builder, split)
  where, read = f'{builder.data_path}, split {split}', _reader(builder, split)
  count = builder.info.splits[split].num_examples
  labels = _labels(builder, split, lambda: _scan(read, count, where))
  if len(wrong := np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))):
    last = f'0..{num_classes - 1}' if num_classes else '0 and above'
    raise bad_record(where, int(wrong[0]), f'its label is {labels[wrong[0]]}, not in {last}')
  return Source(where, split, read, np.arange(count), labels, view)


def _reader(builder: Any, split: str) -> Read:
  """Random access to the records. Images that TFDS stores encoded stay encoded; other features are not parsed."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.decode import DeserializeMethod
  from tensorflow_datasets.proto import tf_example_pb2

  if not isinstance(builder.info.features['image'], tfds.features.Image):
    return builder.as_data_source(split).__getitems__
  raw = builder.as_data_source(split, deserialize_method=DeserializeMethod.RAW_BYTES)
  messages: Any = tf_example_pb2

  def read(rows: list[int]) -> list[Mapping[str, Any]]:
    features = [messages.Example.FromString(record).features.feature for record in raw.__getitems__(rows)]
    return [{'image': one['image'].bytes_list.value[0], 'label': one['label'].int64_list.value[0]} for one in features]

  return read


def _scan(read: Read, count: int, where: str) -> np.ndarray:
  """int32[count]: the labels of all records. Raises UserError."""
  labels = np.empty(count, np.int32)
  for first in range(0, count, _BLOCK):
    rows = range(first, min(first + _BLOCK, count))
    try:
      labels[rows.start : rows.stop] = [record['label'] for record in read(list(rows))]
    except Exception as error:  # tfds and array_record raise many kinds for a record that is not as its features say
      raise bad_record(where, first, f'it, or one soon after it, cannot be read ({reason(error, 80)})') from None
  return labels


def _labels(builder: Any, split: str, scan: Callable[[], np.ndarray]) -> np.ndarray:
  """The labels of a split, from the file that the first reader of this very copy left beside it.

  Its name has the names, sizes and times of the split's files: they change when the copy does.
  """
  folder = Path(builder.data_path)
  files = [Path(path) for path in builder.info.splits[split].filepaths] + [folder / 'features.json']
  stamp = repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
  saved = folder / f'abd_jax_labels_{split}_{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npz'
  # There is no such file, or it is damaged: NumPy and zipfile, which compares checksums, raise many kinds of errors.
  with suppress(Exception), np.load(saved, allow_pickle=False) as arrays:
    return arrays['labels']
  labels = scan()
  with suppress(OSError), arriving(saved) as part:  # a folder that may only be read is scanned each time
    np.savez(part, labels=labels)
  return labels
