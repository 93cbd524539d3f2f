"""The runs behind a table."""

from collections.abc import Iterable
from hashlib import sha256
from shlex import quote
from typing import NamedTuple

from abd_jax.config import Config, load_config
from abd_jax.errors import UserError, nearest
from abd_jax.methods import available
from abd_jax.run.workdir import resolve
from experiments.paper import SPLITS, TABLES, Overrides, Row, Table, under_other_weight


class Planned(NamedTuple):
  """One run of a table."""

  row: Row
  tasks: int
  trial: int
  config: str  # a file in configs/
  variant: str = ''  # an option of the config that makes the run shorter, or ''
  fingerprint: str = ''  # of a folder of photographs, which has no name

  @property
  def _data(self) -> str:
    return f'{self.config}{self.variant and "_"}{self.variant}{self.fingerprint and "_"}{self.fingerprint[:8]}'

  @property
  def file(self) -> str:
    """The name of the file of results that its line is in."""
    return f'{self._data}.jsonl'

  @property
  def name(self) -> str:
    """The name of its workdir and of its line of results: what it runs."""
    fields = '-'.join(f'{k}={v}' for k, v in self.row.overrides)
    if len(fields) > 160:  # a name of a file has at most 255 bytes
      fields = sha256(fields.encode()).hexdigest()[:16]
    words = [self._data, self.row.method, *filter(None, [fields]), f'tasks={self.tasks}', f'trial={self.trial}']
    return '-'.join(words)

  @property
  def option(self) -> str:
    return f'tasks={self.tasks},method={self.row.method},trial={self.trial}{self.variant and ","}{self.variant}'

  @property
  def command(self) -> str:
    fields = ''.join(' ' + quote(f'--config.{name}={value}') for name, value in self.row.overrides)
    workdir = quote(f'--workdir=runs/{self.name}')
    return f'python -m abd_jax.main --config=configs/{self.config}.py:{self.option}{fields} {workdir}'

  def load(self, places: dict) -> Config:
    """Its config, with `places` of this machine."""
    if self.fingerprint:
      places = places | {'data.fingerprint': self.fingerprint}
    return load_config(f'{self.config}:{self.option}', **dict(self.row.overrides) | places)


def rows_on(table: Table, config: str) -> tuple[Row, ...]:
  if not table.both_weights:
    return table.rows
  return (*table.rows, *under_other_weight(table.rows, load_config(config).abd.local_weight))


def plan(table: Table, config: str, trials: int, variant: str = '') -> list[Planned]:
  """Every run behind a table, trial by trial, so that a first trial of all rows comes before a second of any."""
  rows, splits = rows_on(table, config), table.splits if config == table.config else SPLITS[config]
  chosen = [trial for trial in range(trials) if trial not in table.skipped]
  return [Planned(row, tasks, trial, config, variant) for trial in chosen for tasks in splits for row in rows]


def ad_hoc(methods: Iterable[str], config: str, overrides: Overrides = ()) -> Table:
  """A table of any methods on a config's data, in its number of tasks; compared with ABD, or else with the first.

  Raises UserError for an unknown method.
  """
  replay = {row.method: row.replay for row in TABLES['methods'].rows}
  names = tuple(methods)
  if unknown := [name for name in names if name not in available()]:
    raise UserError(f"'{unknown[0]}' is not a method.{nearest(unknown[0], available())}")
  reference = 'abd' if 'abd' in names else names[0]
  rows = tuple(Row(name, name, overrides, replay.get(name, '-'), reference=reference) for name in names)
  return Table(f'Methods {", ".join(names)}', config, (resolve(load_config(config)).tasks,), rows)


class Cell(NamedTuple):
  """A row and a number of tasks: the runs of all trials belong together."""

  row: Row
  tasks: int


def by_cell(planned: list[Planned], found: dict[str, dict]) -> dict[Cell, dict[int, dict]]:
  """Every cell of a table, row by row -> trial -> results, of the runs that have some."""
  cells: dict[Cell, dict[int, dict]] = {}
  for row in dict.fromkeys(one.row for one in planned):
    for one in planned:
      if one.row == row:
        trials = cells.setdefault(Cell(row, one.tasks), {})
        if one.name in found:
          trials[one.trial] = found[one.name]
  return cells


def upper_bound(cells: dict[Cell, dict[int, dict]], tasks: int) -> dict[int, dict]:
  """Trial -> results of the upper bound in that many tasks; {} if the table has none, or it has not run."""
  return next((trials for cell, trials in cells.items() if (cell.row.method, cell.tasks) == ('oracle', tasks)), {})
