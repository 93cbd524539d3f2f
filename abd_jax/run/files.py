"""The files of a run that are not arrays: JSON, read so that damage is told, and written whole."""

import errno
import json
from pathlib import Path
from types import NoneType

from abd_jax.errors import UserError
from abd_jax.run.integrity import is_intact
from abd_jax.run.schema import MAYBE, NUMBER, misfit

RESULTS_SCHEMA = 1
# What readers of results.json rely on.
_RESULTS = {
  'method': str, 'accuracy_matrix': [[MAYBE]], 'top5_accuracy_matrix': [[MAYBE]], 'seen_accuracy': [MAYBE],
  'final_accuracy': MAYBE, 'average_accuracy': MAYBE, 'forgetting': MAYBE, 'backward_transfer': MAYBE,
  'class_order': {'names': [str]}, 'task_sizes': [int], 'seconds': {}, 'versions': {}, 'config': {},
  'commit': (str, NoneType), 'device': {'platform': str, 'kind': str, 'count': int},
}  # fmt: skip


def read_json(file: Path) -> dict:
  """The object in `file`. Raises UserError if there is none."""
  try:
    content = json.loads(file.read_text())
  except (ValueError, RecursionError):
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
    except (ValueError, RecursionError):
      record = None
    if isinstance(record, dict):
      found.append(record)
    elif k + 1 < len(lines):
      raise UserError(f'{file} is damaged in line {k + 1}: put it back as it was, or leave this run out.')
  return found


def write_atomically(file: Path, content: str | bytes) -> None:
  """The file holds the old content or the new one, never a part. Raises OSError, and leaves nothing else behind."""
  if file.exists() and not file.is_file():  # a device, say: to replace it would take it away
    raise OSError(errno.EINVAL, 'it is no regular file')
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
    raise UserError(
      f'{file} is of schema {schema}, this version of abd_jax reads {RESULTS_SCHEMA}. Use the version that wrote it.'
    )
  wrong = misfit(results, _RESULTS) or misfit(list(results['seconds'].values()), [NUMBER], 'seconds')
  if 'checksum' in results and not is_intact(results):  # earlier versions wrote none
    wrong = wrong or 'its checksum is another'
  if wrong:
    raise UserError(f'{file} is damaged ({wrong}): put it back as it was, or choose another --workdir.')
  return results
