"""Reads and writes JSON files with checksums, so that damage is noticed. Checksums of arrays and files.

Checksums are XXH3 of 128 bits. They detect damage; they are no signature.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

from abd_jax.errors import Damaged, UserError

PyTree = Any
RESULTS_SCHEMA = 1


def checksum_of_file(file: Path) -> str:
  """The checksum of the file's bytes."""
  with file.open('rb') as content:
    return hashlib.file_digest(content, xxhash.xxh3_128).hexdigest()


def checksum_of_arrays(tree: PyTree) -> str:
  """The checksum of every array's path, type, shape and values. It is the same on all devices."""
  digest = xxhash.xxh3_128()
  for path, leaf in jax.tree.leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape} '.encode())
    digest.update(memoryview(array.reshape(-1).view(np.uint8)))  # pyright: ignore[reportArgumentType]
  return digest.hexdigest()


def as_json(record: dict[str, Any]) -> dict[str, Any]:
  """The record as JSON gives it back, with lists in place of tuples."""
  return json.loads(json.dumps(record))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
  """A copy of the record, whose values JSON can hold, with its checksum added or renewed."""
  content = {name: value for name, value in record.items() if name != 'checksum'}
  return content | {'checksum': xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def is_intact(record: Any) -> bool:
  """Whether a record has the checksum that `sealed` gave it."""
  return isinstance(record, dict) and record.get('checksum') == sealed(record)['checksum']


def read_sealed(file: Path, schema: int) -> dict:
  """The content of a JSON file that `write_sealed` wrote. Raises Damaged if it has changed or has another schema."""
  record = read_json(file)
  if (found := record.get('schema_version')) != schema:
    raise Damaged(f'{file} has schema {found}, expected {schema}. Use the version that wrote it.')
  if not is_intact(record):
    raise Damaged(f'{file} is damaged: put it back as it was, or choose another --workdir.')
  return record


def write_sealed(file: Path, record: dict[str, Any]) -> dict[str, Any]:
  """Writes a record as JSON with a checksum, and returns what was written. Raises OSError if it cannot."""
  record = sealed(record)
  write_atomically(file, json.dumps(record, indent=2) + '\n')
  return record


def read_json(file: Path) -> dict:
  """The JSON object in `file`. Raises UserError if the file holds none."""
  try:
    content = json.loads(file.read_text())
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise UserError(f'{file} is damaged: put it back as it was, or choose another --workdir.')
  return content


def read_lines(file: Path) -> list[dict]:
  """The objects of a file with one JSON object a line; [] if there is no file. Ignores a last line that was cut off.

  Raises UserError if another line is damaged.
  """
  if not file.exists():
    return []
  lines, found = file.read_text(errors='replace').splitlines(), []
  for k, line in enumerate(lines):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if isinstance(record, dict):
      found.append(record)
    elif k + 1 < len(lines):
      raise UserError(f'{file} is damaged in line {k + 1}: put it back as it was, or leave this run out.')
  return found


def write_atomically(file: Path, content: str | bytes) -> None:
  """Writes `file` so that it always holds all of the old or all of the new content. Raises OSError if it cannot."""
  temporary = file.with_name(file.name + '.tmp')
  try:
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(file)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise


def read_results(file: Path) -> dict:
  """The content of a results.json. Raises Damaged as `read_sealed` does."""
  return read_sealed(file, RESULTS_SCHEMA)
