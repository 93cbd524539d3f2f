"""What an array store of a checkpoint holds, read off its own index (OCDBT) rather than from what stands beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abd_jax.errors import UserError

INDEX = 'manifest.ocdbt'


class Array(NamedTuple):
  """An array on disk, by what its store says of it."""

  shape: tuple[int, ...]
  dtype: str

  @property
  def size(self) -> int:
    """How many numbers."""
    return int(np.prod(self.shape, dtype=np.int64))

  @property
  def nbytes(self) -> int:
    return self.size * int(np.dtype(self.dtype).itemsize)


class Store(NamedTuple):
  """One folder of arrays.

  Attributes:
    arrays: dotted name -> array.
    files: paths below the folder that its index refers to, the index files among them.
    others: keys of the index that are not of an array.
  """

  arrays: dict[str, Array]
  files: set[str]
  others: list[str]


def read_store(folder: Path) -> Store:
  """What `folder`, which orbax wrote, holds. Raises UserError if its index cannot be read."""
  arrays, files, keys = {}, set(), set()
  try:
    for index in sorted(folder.glob(f'**/{INDEX}')):  # one over all, and one of each process that wrote
      files.add(index.relative_to(folder).as_posix())
      for kind, found, value in _entries(index.parent):
        if kind == 'file':
          files.add((index.parent / found).relative_to(folder).as_posix())
          continue
        keys.add(found)
        if found.endswith('/.zarray'):
          facts = json.loads(value)
          arrays[found.removesuffix('/.zarray')] = Array(tuple(facts['shape']), str(np.dtype(facts['dtype'])))
  except Exception as error:  # tensorstore raises what it likes for a damaged index
    reason = ' '.join(str(error).split())[:120] or type(error).__name__
    raise UserError(f'checkpoint {folder} cannot be read ({reason}). Put it back as it was.') from error
  return Store(arrays, files, sorted(key for key in keys if key.rpartition('/')[0] not in arrays))


def _entries(folder: Path) -> Iterator[tuple[str, str, bytes]]:
  """All that an index refers to: ('file', path below `folder`, b'') and ('key', name, value or b'')."""
  import tensorstore

  base: Any = tensorstore.KvStore.open({'driver': 'file', 'path': f'{folder}/'}).result()
  dump = lambda *node: tensorstore.ocdbt.dump(base, *node).result()
  nodes = [dump()]
  while nodes:
    node = nodes.pop()
    for entry in node.get('entries', []):
      if 'key' in entry:
        place = entry.get('location', '')
        if place.startswith('btreenode'):  # its key is where a part of the tree begins
          continue
        value = dump(place) if place and entry['key'].endswith(b'/.zarray') else entry.get('inline_value', b'')
        yield 'key', entry['key'].decode(), value
    for location in _locations(node):
      kind, root, path, *_ = location.split(':')
      yield 'file', root + path, b''
      if kind != 'value':
        nodes.append(dump(location))


def _locations(node: Any) -> Iterator[str]:
  if isinstance(node, dict):
    for name, value in node.items():
      if name == 'location':
        yield value
      else:
        yield from _locations(value)
  elif isinstance(node, list):
    for value in node:
      yield from _locations(value)
