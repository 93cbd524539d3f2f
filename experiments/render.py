"""Summaries of runs as Markdown and CSV."""

import csv
import io
from collections.abc import Callable, Sequence

from abd_jax.report.tables import table
from experiments.summary import mean_std


def plus_minus(mean: float | None, std: float | None, sign: str = '') -> str:
  """'81.2 ± 1.9'; sign '+': '+81.2 ± 1.9'."""
  if mean is None:
    return '-'
  return f'{mean:{sign}.1f}' if std is None else f'{mean:{sign}.1f} ± {std:.1f}'


def percent(fractions: Sequence[float]) -> str:
  """Their mean and deviation."""
  return plus_minus(*mean_std([100 * value for value in fractions]))


def _number(value: float | None, form: str) -> str:
  return '-' if value is None else f'{value:{form}}'


def _difference(line: dict) -> str:
  """'-20.5 ± 5.1 (3), lower'."""
  if not line['pairs']:
    return '-'
  return f'{plus_minus(line["difference"], line["difference_se"], "+")} ({line["pairs"]})' + ', lower' * bool(
    line['lower']
  )


# Header -> the cell of a line of experiments.summary.
COLUMNS: dict[str, Callable[[dict], str]] = {
  'method': lambda line: line['method'],
  'replay': lambda line: line['replay'],
  'tasks': lambda line: str(line['tasks']),
  'n': lambda line: str(line['n'] or 'not run'),
  'final accuracy %': lambda line: plus_minus(line['accuracy'], line['accuracy_std']),
  'spread': lambda line: _number(line['spread'], '.1f'),
  'Omega %': lambda line: plus_minus(line['omega'], line['omega_std']),
  'difference (pairs)': _difference,
  'paper': lambda line: plus_minus(line['paper_accuracy'], line['paper_accuracy_std']),
  'paper Omega': lambda line: plus_minus(line['paper_omega'], line['paper_omega_std']),
  'deviation': lambda line: _number(line['deviation'], '+.1f'),
  's a run': lambda line: _number(line['seconds'], '.0f'),
  'on': lambda line: ', '.join(line['devices']) or '-',
  'commit': lambda line: ', '.join(line['commits']) or '-',
  'a run': lambda line: f'`{line["command"]}`',
}


def as_markdown(lines: list[dict], columns: Sequence[str]) -> str:
  """A table of some COLUMNS."""
  return table(columns, [[COLUMNS[column](line) for column in columns] for line in lines])


def with_notes(lines: list[dict], columns: Sequence[str], complaints: list[str]) -> str:
  """The table, and below it what its reader must know: complaints about files of results, what the columns mean."""
  notes = list(complaints)
  if references := dict.fromkeys(line['reference'] for line in lines if line['reference']):
    notes.append(
      f'difference: of the final accuracy to that of {" or ".join(references)}, over the trials that both have, mean ± '
      'standard error; lower: below -2 standard errors'
    )
  if any(line['spread'] is not None for line in lines):
    notes.append('spread: points from the worst trial to the best')
  return '\n'.join([as_markdown(lines, columns), *([''] if notes else []), *(f'- {note}' for note in notes)])


def as_csv(lines: list[dict]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(line | {key: ' '.join(line[key]) for key in ('devices', 'commits')} for line in lines)
  return text.getvalue()
