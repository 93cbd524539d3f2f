"""abd-jax audit WORKDIR    which images a run keeps and reads

  --format=table   table: parts of the stored arrays; arrays: every array by name and shape; json: everything

It needs no data. Pause the run first. Exit code 0: nothing found. 1: images although the method keeps none, or images
of an earlier task read for training. 2: no run, or arrays that cannot be read and may hold anything.
"""

import json
from collections.abc import Iterator
from typing import Any

from abd_jax.commands import parse

FORMATS = ('table', 'arrays', 'json')


def run(words: list[str]) -> int:
  """Prints the audit and returns the exit code. Raises UserError."""
  given = parse(__doc__, words, {'format': FORMATS}, (1,))
  form = given.options.get('format', 'table')
  from abd_jax.analysis.audit import audit

  found = audit(given.rest[0])
  if form == 'json':
    print(json.dumps(found))
  else:
    print('\n'.join(_lines(found, by_name=form == 'arrays')))
  return 2 if found['unreadable'] else int(bool(found['findings']))


def _lines(found: dict[str, Any], by_name: bool) -> Iterator[str]:
  from abd_jax.report.tables import table

  groups: dict[tuple[str, ...], list[Any]] = {}
  for array in found['arrays']:
    name = array['name']
    part = f'{name} {array["dtype"]}{array["shape"]}' if by_name else name.removeprefix('model.').partition('.')[0]
    groups.setdefault((array['store'], part), []).append(array)
  rows = [
    (*group, f'{sum(one["bytes"] for one in those):,}', 'yes' if any(one['can_hold_images'] for one in those) else 'no')
    for group, those in groups.items()
  ]
  yield table(('kept in', 'array' if by_name else 'arrays', 'bytes', 'can hold images'), rows)
  reads = [
    (one['purpose'], one['split'], ', '.join(str(task + 1) for task in one['tasks']),
     f'{one["images"]:,}', one['wrong'] or 'allowed')
    for one in found['reads']
  ]  # fmt: skip
  yield '\n' + table(('read for', 'split', 'of task', 'images', 'verdict'), reads) + '\n'
  yield _images(found)
  yield from (f'note     {line}' for line in found['notes'])
  yield from (f'found    {line}' for line in found['findings'])
  yield from (f'unknown  {line}' for line in found['unreadable'])


def _images(found: dict[str, Any]) -> str:
  count = found['statistics']
  statistics = f'; it keeps class statistics of {count:,} bytes' if count else ''
  if found['capacity']:
    now = 'how many now is not known' if found['images'] is None else f'{found["images"]} now'
    models = ', '.join(f'{store} {images}' for store, images in found['memories'].items())
    kept = f'{found["method"]} keeps at most {found["capacity"]} real images; {now}; beside each frozen model: {models}'
    return kept + statistics
  unread = f', but {len(found["unreadable"])} stores of arrays cannot be read' if found['unreadable'] else ''
  return f'{found["method"]} has no memory of real images{unread}{statistics}'
