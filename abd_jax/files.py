"""JSON files: read so that damage is noticed, written whole, with checksums. And checksums of arrays and files.

Checksums are XXH3 of 128 bits. They detect damage; they are no signature.
"""

import json
from pathlib import Path
from types import NoneType
from typing import Any

import jax
import numpy as np
import xxhash

from abd_jax.errors import UserError

NUMBER = (int, float)
MAYBE = (int, float, NoneType)


def misfit(value: Any, form: Any, name: str = '') -> str:
  """What in `value` is not as `form` has it, in a few words; '' if all is.

  form: a type or a tuple of types; [form] for a list of such, of any length; {key: form} for a dict with at least these
  keys. name: of the value, for the words.
  """
  if isinstance(form, dict):
    if not isinstance(value, dict):
      return f'{name or "it"} is no object'
    lacking = next((f'it lacks {name}{"." * bool(name)}{key}' for key in form if key not in value), '')
    return lacking or next(
      filter(None, (misfit(value[key], of, f'{name}{"." * bool(name)}{key}') for key, of in form.items())), ''
    )
  if isinstance(form, list):
    if not isinstance(value, list):
      return f'{name} is no list'
    return next(filter(None, (misfit(one, form[0], f'{name}[{k}]') for k, one in enumerate(value))), '')
  return '' if isinstance(value, form) and not isinstance(value, bool) else f'{name} is {str(value)[:40]!r}'


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


RESULTS_SCHEMA = 1


def read_json(file: Path) -> dict:
  """The object in `file`. Raises UserError if there is none."""
  try:
    content = json.loads(file.read_text())
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise UserError(f'{file} is damaged: put it back as it was, or choose another --workdir.')
  return content


def read_lines(file: Path) -> list[dict]:
  """The objects of a file of one JSON object a line, none if it is not there; the last may be half written.

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
  """The file holds the old content or the new one, never a part. Raises OSError, and leaves nothing else behind."""
  temporary = file.with_name(file.name + '.tmp')
  try:
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(file)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise


def read_results(file: Path) -> dict:
  """The content of a results.json. Raises UserError if it is damaged, or of another schema."""
  results = read_json(file)
  if (schema := results.get('schema_version')) != RESULTS_SCHEMA:
    raise UserError(f'{file} has schema {schema}, expected {RESULTS_SCHEMA}. Use the version that wrote it.')
  if not is_intact(results):
    raise UserError(f'{file} is damaged: put it back as it was, or choose another --workdir.')
  return results
