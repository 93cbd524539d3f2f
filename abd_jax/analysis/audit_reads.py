"""reads.jsonl, held against the promise: of the training images only the current task's classes were looked at."""

from collections.abc import Iterator
from pathlib import Path

from abd_jax.config import Config
from abd_jax.files import read_lines
from abd_jax.protocol.tasks import Tasks

FILE = 'reads.jsonl'


def read_out_of_turn(folder: Path, tasks: Tasks, config: Config) -> list[str]:
  """A line for each read that the promise does not allow. Raises UserError if the file is damaged."""
  if not (folder / FILE).exists():
    return [f'{FILE} is missing: nothing says which images the run looked at']
  records = read_lines(folder / FILE)
  return min((list(_wrong(records, numbers, config)) for numbers in _numberings(tasks, config)), key=len)


def _numberings(tasks: Tasks, config: Config) -> Iterator[dict[frozenset[int], int]]:
  """The task of each set of class ids. A run that extends another may read a data set that has only its own classes."""
  own = {frozenset(tasks.original_ids(task)): task for task in range(len(tasks.sizes))}
  yield own
  for first in range(1, len(tasks.sizes)) if config.extends else ():
    known = sum(tasks.sizes[:first])
    if tasks.order[:known] == tuple(range(known)):
      yield {frozenset(one - known for one in ids): task for ids, task in own.items() if task >= first}


def _wrong(records: list[dict], task_of: dict[frozenset[int], int], config: Config) -> Iterator[str]:
  latest = 0
  for number, record in enumerate(records, 1):
    what, split = record.get('for'), record.get('split')
    where = f'{FILE}, line {number}'
    if what == 'testing':
      held_out = split == 'train' and record.get('folds') == config.data.folds > 0
      if split == 'train' and not held_out:
        yield f'{where}: training images were read for testing'
      continue
    classes = record.get('classes')
    task = task_of.get(frozenset(classes)) if isinstance(classes, list) and all(map(_is_id, classes)) else None
    if what != 'training' or split != 'train' or task is None:
      yield f"{where}: {what} read images of the {split} split that are not one task's: classes {str(classes)[:80]}"
    elif task < latest:
      yield f'{where}: images of task {task + 1} were read after task {latest + 1} had begun'
    else:
      latest = task


def _is_id(value: object) -> bool:
  return isinstance(value, int)
