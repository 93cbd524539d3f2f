"""Checksums of what a run keeps, so that damage cannot pass for a result: of arrays, files and records.

XXH3 of 128 bits: it finds any damage, and a save costs no more time that one would notice. It is no signature.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

PyTree = Any


def checksum_of_file(file: Path) -> str:
  """Of its bytes."""
  digest = xxhash.xxh3_128()
  with file.open('rb') as content:
    while block := content.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def checksum_of_arrays(tree: PyTree) -> str:
  """Of every array's path, type, shape and values. They are the same on all devices."""
  digest = xxhash.xxh3_128()
  for path, leaf in jax.tree.leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape} '.encode())
    digest.update(memoryview(array.reshape(-1).view(np.uint8)))  # pyright: ignore[reportArgumentType]
  return digest.hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
  """The record, which JSON can hold, with a checksum of itself."""
  return record | {'checksum': _checksum_of_record(record)}


def is_intact(record: Any) -> bool:
  """Whether a record is as it was sealed."""
  return isinstance(record, dict) and record.get('checksum') == _checksum_of_record(record)


def _checksum_of_record(record: dict[str, Any]) -> str:
  content = {name: value for name, value in record.items() if name != 'checksum'}
  return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
