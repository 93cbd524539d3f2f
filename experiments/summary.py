"""The lines of a table from the results of its runs, as numbers, Markdown and CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from abd_jax.protocol import metrics
from abd_jax.report.tables import table as markdown
from experiments.paper import Row, Table
from experiments.plan import Cell, Planned, by_cell, upper_bound

Trials = dict[int, dict]  # trial -> results of its run


def summarise(table: Table, config: str, planned: list[Planned], found: dict[str, dict]) -> list[dict]:
  """One dict for each row and split: our numbers and the paper's, percent; None where there is none."""
  cells = by_cell(planned, found)
  return [_line(table, cell, cells, planned, own=config == table.config) for cell in cells]


def _line(table: Table, cell: Cell, cells: dict[Cell, Trials], planned: list[Planned], own: bool) -> dict:
  trials, row = cells[cell], cell.row
  results, upper = list(trials.values()), upper_bound(cells, cell.tasks)
  accuracies = [100 * result[table.metric] for result in results]
  line: dict[str, Any] = {'method': row.name, 'replay': row.replay, 'tasks': cell.tasks, 'n': len(trials)}
  line |= _named('accuracy', accuracies)
  line['spread'] = max(accuracies) - min(accuracies) if len(trials) > 1 else None
  line |= _named('omega', [_omega(trials[trial], upper[trial], table.metric) for trial in trials if trial in upper])
  for key in ('average_accuracy', 'forgetting'):
    line |= _named(key, [result[key] and 100 * result[key] for result in results])  # None of one task
  reference = next(
    (those for (of, tasks), those in cells.items() if (of.name, tasks) == (row.reference, cell.tasks)), {}
  )
  line |= _against(row, trials, reference, table.metric)
  line |= _papers(row, table.splits.index(cell.tasks) if own else None)
  line['deviation'] = line['accuracy'] - line['paper_accuracy'] if line['n'] and line['paper_accuracy'] else None
  seconds = [sum(result['seconds'].values()) for result in results]
  line['seconds'] = min(seconds, default=None)  # other work beside a run slows it down, or stops it for hours
  line['devices'] = sorted({machine(result) for result in results})
  line['commits'] = sorted({short_commit(result) for result in results})
  line['command'] = next(one.command for one in planned if Cell(one.row, one.tasks) == cell)
  return line


def _papers(row: Row, split: int | None) -> dict:
  """The paper's numbers; split: the position of the table's, None on other data than its own."""
  numbers = row.paper[split] if split is not None and split < len(row.paper) else ()
  keys = ('paper_accuracy', 'paper_accuracy_std', 'paper_omega', 'paper_omega_std')
  return dict.fromkeys(keys) | dict(zip(keys, numbers, strict=False))


def _against(row: Row, trials: Trials, reference: Trials, metric: str) -> dict:
  """The paired difference to the reference row: the same trial is the same class order and the same seed."""
  differences = []
  if row.name != row.reference:
    differences = [100 * (trials[k][metric] - reference[k][metric]) for k in trials if k in reference]
  mean, std = mean_std(differences)
  error = None if std is None else std / (len(differences) - 1) ** 0.5  # the sample's deviation over sqrt(n)
  return {
    'reference': row.reference if differences else '',
    'difference': mean,
    'difference_se': error,
    'pairs': len(differences),
    'lower': None if mean is None or error is None else mean < -2 * error,
  }


def _omega(result: dict, upper: dict, metric: str) -> float:
  """Percent."""
  matrix = 'top5_accuracy_matrix' if 'top5' in metric else 'accuracy_matrix'
  return 100 * metrics.omega(*(metrics.seen_accuracy(one[matrix], one['test_images']) for one in (result, upper)))


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
  """Mean and population standard deviation of those known, as in the paper; None of no values, no deviation of one."""
  values = [value for value in values if value is not None]
  mean = sum(values) / len(values) if values else None
  if mean is None or len(values) < 2:
    return mean, None
  return mean, (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def _named(name: str, values: Sequence[float]) -> dict:
  return dict(zip((name, f'{name}_std'), mean_std(values), strict=True))


def machine(result: dict) -> str:
  """The CPU's model if it is known, else the kind of device."""
  device = result['device']
  return (device['kind'] == 'cpu' and device.get('cpu_model')) or device['kind']


def short_commit(result: dict) -> str:
  """Seven digits, and the '+' of a checkout with changed files."""
  commit = result['commit'] or 'unknown'
  return commit if commit == 'unknown' else commit[:7] + '+' * commit.endswith('+')


def plus_minus(mean: float | None, std: float | None, sign: str = '', form: str = '.1f') -> str:
  """'81.2 ± 1.9'; sign '+': '+81.2 ± 1.9'."""
  return _number(mean, sign + form) + ('' if std is None else f' ± {std:{form}}')


def _number(value: float | None, form: str) -> str:
  return '-' if value is None else f'{value:{form}}'


def _difference_cell(line: dict) -> str:
  """'-20.5 ± 5.1 (3), lower'."""
  if not line['pairs']:
    return '-'
  return f'{plus_minus(line["difference"], line["difference_se"], "+")} ({line["pairs"]})' + ', lower' * bool(
    line['lower']
  )


# Header -> the cell of a line of `summarise`.
COLUMNS: dict[str, Callable[[dict], str]] = {
  'method': lambda line: line['method'],
  'replay': lambda line: line['replay'],
  'tasks': lambda line: str(line['tasks']),
  'n': lambda line: str(line['n'] or 'not run'),
  'final accuracy %': lambda line: plus_minus(line['accuracy'], line['accuracy_std']),
  'spread': lambda line: _number(line['spread'], '.1f'),
  'Omega %': lambda line: plus_minus(line['omega'], line['omega_std']),
  'difference (pairs)': _difference_cell,
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
  return markdown(columns, [[COLUMNS[column](line) for column in columns] for line in lines])


def with_notes(lines: list[dict], columns: Sequence[str], complaints: list[str]) -> str:
  """The table, and below it complaints about results and the meaning of columns."""
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
