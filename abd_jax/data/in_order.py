"""Records on their way into a TFDS copy, in the order in which they come."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class InOrder:
  """What TFDS's Shuffler is, for a builder that keeps its order.

  That one holds up to a GiB of records in memory and writes what is more with TensorFlow. Here they wait in one file
  without a name, so memory does not grow with them and nothing of it outlives the process.
  """

  def __init__(self, dirpath: os.PathLike | str, hash_salt: object, disable_shuffling: bool, ignore_duplicates: bool):
    assert disable_shuffling
    os.makedirs(dirpath, exist_ok=True)
    self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115  (as long as this)
    self._sizes: list[int] = []

  @property
  def size(self) -> int:
    return sum(self._sizes)

  @property
  def num_examples(self) -> int:
    return len(self._sizes)

  @property
  def bucket_lengths(self) -> list[int]:
    return [len(self._sizes)]

  def add(self, key: int, data: bytes) -> None:
    assert key == len(self._sizes), key
    self._file.write(data)
    self._sizes.append(len(data))

  def __iter__(self) -> Iterator[tuple[int, bytes]]:
    self._file.seek(0)
    for key, size in enumerate(self._sizes):
      yield key, self._file.read(size)


@contextmanager
def kept_in_order() -> Iterator[None]:
  """Has TFDS write records in the order of their keys, 0, 1, 2 and so on, however many they are."""
  from tensorflow_datasets.core import shuffle

  usual, shuffle.Shuffler = shuffle.Shuffler, InOrder
  try:
    yield
  finally:
    shuffle.Shuffler = usual
