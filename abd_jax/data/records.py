"""The records of a split on disk: labels read at once and kept beside them, images decoded when asked for."""

import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abd_jax.data import images as images_lib
from abd_jax.data.prepare import check_count
from abd_jax.data.threads import pool
from abd_jax.errors import UserError

# Records are read in blocks: a split's encoded images may not fit in memory at once.
_BLOCK = 1024
_PER_THREAD = 16  # images that a thread decodes in one go


class View(NamedTuple):
  """How a stored image becomes the network's.

  Attributes:
    stored: (h, w, c) on disk; h and w are None where sizes vary.
    shape: (h, w, c) of the network's.
    crop: 'padded' for images of one size, taken as they are; 'resized' for a part of them, resized: a random one in
      training, the centre in testing.
  """

  stored: tuple[int | None, int | None, int]
  shape: tuple[int, int, int]
  crop: str

  def of(self, stored: bytes | np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """uint8[h, w, c] of an encoded image, or of a tensor. draws: of a random crop. Raises BadImage."""
    if isinstance(stored, np.ndarray):
      image = _from_tensor(stored, self.stored)
      if self.crop == 'padded':
        return images_lib.pixels(image)
    else:
      image = images_lib.decode(stored, self.stored)
    return self.cut(image, draws)

  def cut(self, image: Any, draws: np.ndarray | None) -> np.ndarray:
    """The same of a Pillow image."""
    if self.crop == 'resized':
      box = images_lib.centre_box(image.width, image.height)
      if draws is not None:
        box = images_lib.random_box(image.width, image.height, draws)
      image = images_lib.resize(image, self.shape[:2], box)
    return images_lib.pixels(image)


def _from_tensor(array: np.ndarray, shape: Sequence[int | None]) -> Any:
  if array.ndim != 3 or any(side not in (None, there) for side, there in zip(shape, array.shape, strict=True)):
    raise images_lib.BadImage(f'is of shape {array.shape}, not {tuple(shape)} as its features say')
  return images_lib.from_array(array)


@dataclass(frozen=True)
class Split:
  """Some images of a split on disk.

  Attributes:
    where: the data set's folder and the split's name, for messages.
    source: random access to the records (a tfds data source), images left encoded.
    rows: int64[n], positions in `source`.
    labels: int32[n], original ids.
    view: how they are decoded.
  """

  where: str
  source: Any
  rows: np.ndarray
  labels: np.ndarray
  view: View

  def __len__(self) -> int:
    return len(self.rows)

  def take(self, mask: np.ndarray) -> 'Split':
    """The images where `mask` bool[n] holds, or of these places int[m]."""
    return replace(self, rows=self.rows[mask], labels=self.labels[mask])

  def of_classes(self, original_ids: Collection[int]) -> 'Split':
    return self.take(np.isin(self.labels, list(original_ids)))

  def __getitem__(self, part: slice) -> np.ndarray:
    """uint8[m, h, w, c], decoded now: so it can stand where an array of images is read in batches."""
    return self.images(np.arange(len(self.rows))[part])

  def decode(self) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, h, w, c], int32[n]). Raises UserError for a record that cannot be decoded."""
    return self.images(np.arange(len(self.rows))), self.labels.copy()

  def images(self, places: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """uint8[m, h, w, c] of int[m] places in `rows`. draws: float64[m, images.DRAWS] of random crops."""
    found = np.empty((len(places), *self.view.shape), np.uint8)
    fill = lambda part: self.fill(found[part], places[part], None if draws is None else draws[part])
    list(pool().map(fill, in_parts(len(places))))
    return found

  def fill(self, found: np.ndarray | list[np.ndarray], places: np.ndarray, draws: np.ndarray | None) -> None:
    """Decodes into m arrays uint8[h, w, c], in this thread."""
    for k, (row, record) in enumerate(read(self.source, self.rows[places])):
      try:
        found[k][...] = self.view.of(record['image'], None if draws is None else draws[k])
      except images_lib.BadImage as error:
        raise bad_record(self.where, row, f'its image {error}') from None


def in_parts(count: int) -> list[slice]:
  """Slices of `count` images, each for one thread."""
  return [slice(start, start + _PER_THREAD) for start in range(0, count, _PER_THREAD)]


def bad_record(where: str, row: int, what: str) -> UserError:
  return UserError(f'{where}, record {row}: {what}. Prepare that data set anew without it.')


def read(source: Any, rows: np.ndarray) -> Iterator[tuple[int, Mapping[str, Any]]]:
  """(row, record) of each of int64[n] rows."""
  for start in range(0, len(rows), _BLOCK):
    block = rows[start : start + _BLOCK].tolist()
    yield from zip(block, source.__getitems__(block), strict=True)


def open_split(builder: Any, split: str, view: View, num_classes: int | None = None) -> Split:
  """All images of one split of a prepared tfds builder; without `num_classes` any label from 0 on will do.

  Raises:
    UserError: the files hold fewer images than they should, or a record that cannot be used.
  """
  import tensorflow_datasets as tfds

  check_count(builder, split)
  is_image = isinstance(builder.info.features['image'], tfds.features.Image)
  source: Any = _Encoded(builder, split) if is_image else builder.as_data_source(split)
  where = f'{builder.data_path}, split {split}'
  labels = _labels(builder, split, lambda: _scan(source, where, view))
  if len(wrong := np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))):
    last = f'0..{num_classes - 1}' if num_classes else '0 and above'
    raise bad_record(where, int(wrong[0]), f'its label is {labels[wrong[0]]}, not in {last}')
  return Split(where, source, np.arange(len(labels)), labels, view)


class _Encoded:
  """Records with their images left encoded, of which only these two features are looked at: that is faster."""

  def __init__(self, builder: Any, split: str):
    from tensorflow_datasets.core.decode import DeserializeMethod
    from tensorflow_datasets.proto import tf_example_pb2 as example_lib

    self._raw = builder.as_data_source(split, deserialize_method=DeserializeMethod.RAW_BYTES)
    messages: Any = example_lib
    self._parse = messages.Example.FromString

  def __len__(self) -> int:
    return len(self._raw)

  def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
    features = [self._parse(record).features.feature for record in self._raw.__getitems__(rows)]
    return [{'image': one['image'].bytes_list.value[0], 'label': one['label'].int64_list.value[0]} for one in features]


def _scan(source: Any, where: str, view: View) -> np.ndarray:
  """int32[n]: the labels of all records, each of which is looked at, its image's header too. Raises UserError."""
  labels, row = np.empty(len(source), np.int32), -1
  try:
    for row, record in read(source, np.arange(len(source))):
      if isinstance(record['image'], bytes):
        images_lib.check_stored(record['image'], view.stored)
      else:
        _from_tensor(record['image'], view.stored)
      labels[row] = record['label']
  except images_lib.BadImage as error:
    raise bad_record(where, row, f'its image {error}') from None
  except Exception as error:  # tfds and array_record raise many kinds for a record that is not as its features say
    reason = ' '.join(str(error).split())[:80]
    raise bad_record(where, row + 1, f'it, or one soon after it, cannot be read ({reason})') from None
  return labels


def _labels(builder: Any, split: str, scan: Callable[[], np.ndarray]) -> np.ndarray:
  """The labels of a split, from the file beside it that the first reader of this very copy left."""
  folder = Path(builder.data_path)
  file, stamp = folder / f'abd_jax_labels_{split}.npz', _stamp(builder, split)
  try:
    with np.load(file, allow_pickle=False) as saved:
      if str(saved['stamp']) == stamp:
        return saved['labels'].astype(np.int32)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    pass  # there is none, or it is not whole
  labels = scan()
  try:
    temporary = file.with_suffix(f'.{os.getpid()}.npz')
    np.savez(temporary, labels=labels, stamp=np.asarray(stamp))
    os.replace(temporary, file)
  except OSError:
    pass  # a folder that may only be read: it is scanned each time
  return labels


def _stamp(builder: Any, split: str) -> str:
  """What tells this copy of a split from another or from a changed one: its files with their sizes and times."""
  files = [Path(path) for path in builder.info.splits[split].filepaths]
  features = Path(builder.data_path) / 'features.json'
  facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in (*files, features)]
  return json.dumps(facts)
