"""The paper's tables with its numbers, the runs behind each row, and lists of settings, as paper.toml has them."""

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

Overrides = tuple[tuple[str, object], ...]  # (dotted field of the config, value)
Numbers = tuple[float | None, ...]  # (A_N, std, Omega, std), percent; shorter where the paper gives less


class Row(NamedTuple):
  """A row: how to run it, and what the paper reports."""

  name: str
  method: str  # the option of --config; 'abd' and overrides for a variant of it
  overrides: Overrides = ()
  replay: str = 'none'
  paper: tuple[Numbers, ...] = ()  # for each of the table's splits; shorter where the paper gives less
  reference: str = 'Always Be Dreaming'  # the row of the table that it is compared with, trial by trial


class Table(NamedTuple):
  title: str
  config: str  # a file in configs/
  splits: tuple[int, ...]  # numbers of tasks
  rows: tuple[Row, ...]
  trials: int = 3
  metric: str = 'final_accuracy'
  skipped: tuple[int, ...] = ()  # trials that are not run, for settings were chosen on them
  both_weights: bool = False  # its rows of ABD also under the weight of Eq. 11 that the config does not have


class Settings(NamedTuple):
  config: str  # a file in configs/
  trials: tuple[int, ...]
  folds: int  # of the training split
  fields: dict[str, dict[str, Any]]  # name -> dotted field, or 'method' -> value, over the config's own


def _frozen(value: Any) -> Any:
  """With tuples for lists, and None for nan."""
  if isinstance(value, list):
    return tuple(map(_frozen, value))
  if isinstance(value, dict):
    return {name: _frozen(one) for name, one in value.items()}
  return None if isinstance(value, float) and math.isnan(value) else value


_DATA = _frozen(tomllib.loads((Path(__file__).parent / 'paper.toml').read_text()))


def _row(name: str) -> Row:
  row = _DATA['rows'][name]
  given = {key: row[key] for key in ('replay', 'reference') if key in row}
  return Row(row['name'], row.get('method', name), tuple(row.get('fields', {}).items()), **given)


def _rows(table: dict[str, Any]) -> tuple[Row, ...]:
  """First the rows as the paper ran them, with its numbers, then corrected ones and others."""
  papers, corrected, numbers = [], [], _DATA['numbers'].get(table['config'], {})
  reported = [numbers.get('splits', table['splits']).index(tasks) for tasks in table['splits']]
  for name in table.get('rows', ()):
    row, released = _row(name), _DATA['rows'][name].get('released', {})
    paper = tuple(numbers[name][i] for i in reported)
    papers.append(row._replace(overrides=tuple(released.items()), paper=paper))
    if released:
      corrected.append(row._replace(name=f'{row.name}, corrected'))
  ablations = [
    Row(
      one['name'],
      one.get('method', 'abd'),
      tuple(one.get('fields', {}).items()),
      one.get('replay', 'synthetic'),
      (one['numbers'],),
      table['reference'],
    )
    for one in table.get('ablations', ())
  ]
  return (*papers, *corrected, *ablations, *map(_row, table.get('more', ())))


def _table(table: dict[str, Any]) -> Table:
  given = {key: table[key] for key in Table._fields if key in table and key != 'rows'}
  common = tuple(table.get('fields', {}).items())
  return Table(rows=tuple(row._replace(overrides=row.overrides + common) for row in _rows(table)), **given)


TABLES = {name: _table(table) for name, table in _DATA['tables'].items()}
SPLITS = _DATA['splits']
MEASURED_METHODS, PAPER_RATIOS = _DATA['measured']['methods'], _DATA['measured']['ratios']
TABLE_F = _DATA['grid']
SETTINGS = {name: Settings(**one) for name, one in _DATA['settings'].items()}

# Eq. 11's weight: the one a config has -> (the other, what its rows are called).
_OTHER_WEIGHT = {'one': ('balanced', 'released weight'), 'balanced': ('one', "paper's weight")}


def under_other_weight(rows: Iterable[Row], own: str) -> tuple[Row, ...]:
  """Table 3's rows of ABD under the other weight of Eq. 11 than the config's `own`, with a reference of their own."""
  other, called = _OTHER_WEIGHT[own]

  def moved(row: Row) -> Row:
    weight = (('abd.local_weight', other),)
    if ('abd.balance', 'none') in row.overrides:  # which leaves Eq. 11 no weight: the same run serves
      weight = ()
    return row._replace(
      name=f'{row.name}, {called}',
      overrides=row.overrides + weight,
      paper=(),
      reference=f'{row.reference}, {called}',
    )

  return tuple(moved(row) for row in rows if row.method == 'abd')
