"""The JSON and CSV files of a workdir: whether more stands in them than a run writes."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from abd_jax.errors import UserError
from abd_jax.files import read_json, read_lines
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.logs import COLUMNS, values_of

LONGEST_TEXT = 2000  # letters: of a class name, a path, a processor's name, a checksum
_OF_CLASS = 100  # letters of each class more, in a class order
_LONGEST_LIST = 16  # of widths, shapes, changes of device, where classes and tasks are fewer
LOGS = ('metrics.jsonl', 'phases.jsonl', 'reads.jsonl')
_COUNT = re.compile('0|[1-9][0-9]{0,6}')


def jsons(folder: Path, tasks: Tasks) -> Iterator[str]:
  """A line for each JSON file that this package wrote with more in it than a run writes there.

  Raises UserError if a log is damaged.
  """
  manifests = [f'teachers/{file.name}' for file in sorted((folder / 'teachers').glob('*.json'))]
  for name in filter(lambda name: (folder / name).exists(), ('config.json', 'results.json', *manifests)):
    try:
      value = read_json(folder / name)
    except UserError as error:
      yield str(error)
      continue
    if what := too_much(value, tasks) or _beside([value], (folder / name).stat().st_size, 2, 0):
      yield f'{name} holds {what}'
  half = LONGEST_TEXT + 25 * _longest(tasks)  # of a line at most, which may be the last
  for name in filter(lambda name: (folder / name).exists(), LOGS):
    records = read_lines(folder / name)
    for number, record in enumerate(records, 1):
      if what := too_much(record, tasks):
        yield f'{name}, line {number} holds {what}'
    if what := _beside(records, (folder / name).stat().st_size, None, half):
      yield f'{name} holds {what}'


def parts(value: Any) -> Iterator[Any]:
  """A JSON value and all within it, keys too. It may be as deep as it likes."""
  left = [value]
  while left:
    one = left.pop()
    yield one
    left += [*one, *one.values()] if isinstance(one, dict) else one if isinstance(one, list) else []


def most_parts(tasks: Tasks) -> int:
  """Keys and values of the largest record of a run: two matrices of tasks, and some lists of classes."""
  return 2000 + 10 * len(tasks.order) + 4 * len(tasks.sizes) ** 2


def too_much(value: Any, tasks: Tasks) -> str:
  """What in a JSON value is longer than a run writes it; '' if nothing is."""
  longest, all_of_it = _longest(tasks), list(parts(value))
  texts = [len(part) for part in all_of_it if isinstance(part, str)]
  lists = [len(part) for part in all_of_it if isinstance(part, list)]
  if max(texts, default=0) > LONGEST_TEXT + _OF_CLASS * len(tasks.order):  # a class order of names is one text
    return f'a text of {max(texts)} letters'
  if max(lists, default=0) > longest:
    return f'a list of {max(lists)}, longer than the classes'
  if sum(texts) > 10 * LONGEST_TEXT + 200 * longest:
    return f'{sum(texts)} letters in all, more than a run writes'
  return f'{len(all_of_it)} keys and values, more than a run writes' if len(all_of_it) > most_parts(tasks) else ''


def _longest(tasks: Tasks) -> int:
  return max(_LONGEST_LIST, len(tasks.order), len(tasks.sizes))


def _beside(values: list[Any], size: int, indent: int | None, half: int) -> str:
  """Bytes of a file that are not of its values: blanks, keys that come twice, endless digits, half a line."""
  try:
    written = sum(len(json.dumps(value, indent=indent)) + 1 for value in values)
  except RecursionError:
    return 'values in values without end'
  return f'{size - written} bytes beside its values' if size > written + half else ''


def tables(folder: Path, tasks: Tasks, names: Sequence[str]) -> Iterator[str]:
  """A line for each CSV that is not what a run of these tasks writes. names: of the classes, in learning order.

  Raises UserError if metrics.jsonl is damaged.
  """
  metrics = folder / 'metrics.csv'
  if metrics.exists() and (line := _unlike(_text(metrics), _mirror(read_lines(folder / 'metrics.jsonl')))):
    yield f'metrics.csv, line {line} is not of metrics.jsonl: delete metrics.csv; a run that goes on makes it anew'
  for file in sorted((folder / 'confusion').glob('*.csv')):
    number = int(re.sub(r'\D', '', file.stem) or 0)
    if not 0 < number <= len(tasks.sizes):
      yield f'confusion/{file.name}: there is no such task'
    elif not _is_confusion(_text(file), names[: sum(tasks.sizes[:number])]):
      yield f'confusion/{file.name} ({file.stat().st_size} bytes) is no table of the counts of the classes until then'


def _text(file: Path) -> str:
  with file.open(newline='', errors='replace') as opened:
    return opened.read()


def _mirror(records: list[dict]) -> str:
  """metrics.csv of the records of metrics.jsonl."""
  rows = ((record, name, value) for record in records for name, value in values_of(record))
  return _csv([COLUMNS, *((one.get('task'), one.get('phase'), one.get('step', ''), *rest) for one, *rest in rows)])


def _csv(rows: Iterable[Sequence[Any]]) -> str:
  """As abd_jax.run.mirrors writes it; '' if that cannot be."""
  text = io.StringIO()
  try:
    csv.writer(text, lineterminator='\n').writerows(rows)
  except (csv.Error, RecursionError):
    return ''
  return text.getvalue()


def _unlike(text: str, whole: str) -> int:
  """The first line of `text` that is not of `whole`, from 1; 0 if none is. The end may be missing, not yet written."""
  if whole.startswith(text):
    return 0
  lines = zip(text.splitlines(keepends=True), whole.splitlines(keepends=True), strict=False)
  return next((number for number, (one, other) in enumerate(lines, 1) if one != other), whole.count('\n') + 1)


def _is_confusion(text: str, names: Sequence[str]) -> bool:
  try:
    counts = [row[1:] for row in csv.reader(io.StringIO(text, newline=''))][1:]
  except csv.Error:
    return False
  if [len(row) for row in counts] != [len(names)] * len(names):
    return False
  rows = ([name, *row] for name, row in zip(names, counts, strict=True))
  return _csv([('true \\ predicted', *names), *rows]) == text and all(
    _COUNT.fullmatch(cell) for row in counts for cell in row
  )
