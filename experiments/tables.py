"""The paper's tables: python -m experiments.tables --table=1 [--data=digits] [--trials=3]

Runs what a table lacks, then renders it: ours beside the paper's, with deviations, as Markdown and CSV. Stop it at any
time; the same command goes on; started twice, it shares the work. Every finished run is one file of --results, named
by what it ran, so results of several hosts merge by copying files. --print_commands prints one command for each run,
for a SLURM array or many hosts; --max_runs and --max_seconds bound this one.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

from abd_jax.errors import UserError, nearest
from abd_jax.protocol import metrics
from abd_jax.report.tables import table as markdown
from abd_jax.run.workdir import write_atomically
from experiments import runs
from experiments.common import cli
from experiments.paper import TABLES, Table
from experiments.runs import Planned


def summarise(table: Table, data: str, planned: list[Planned], found: dict[str, dict]) -> list[dict]:
  """One dict for each row and split: ours and the paper's, percent; None where there is nothing."""
  lines = []
  for row in table.rows:
    for split, tasks in enumerate(runs.splits_on(table, data)):
      ran = [one for one in planned if one.row == row and one.tasks == tasks and one.name in found]
      values = [found[one.name] for one in ran]
      paper = row.paper[split] if data == table.config and split < len(row.paper) else ()
      paper = (*paper, *(None,) * (4 - len(paper)))
      line = {'method': row.name, 'replay': row.replay, 'tasks': tasks, 'n': len(ran)}
      line |= _mean_std('accuracy', [100 * value[table.metric] for value in values])
      line |= _mean_std('omega', [omega for one in ran if (omega := _omega(one, table, planned, found)) is not None])
      for key in ('average_accuracy', 'forgetting'):
        line |= _mean_std(key, [100 * value[key] for value in values])
      line |= dict(zip(('paper_accuracy', 'paper_accuracy_std', 'paper_omega', 'paper_omega_std'), paper, strict=True))
      line['deviation'] = _difference(line['accuracy'], line['paper_accuracy'])
      line['seconds'] = sum(sum(value['seconds'].values()) for value in values) / len(values) if values else None
      line['devices'] = sorted({value['device']['kind'] for value in values})
      line['commits'] = sorted({(value['commit'] or 'unknown')[:7] for value in values})
      line['command'] = next(one.command for one in planned if one.row == row and one.tasks == tasks)
      lines.append(line)
  return lines


def _omega(one: Planned, table: Table, planned: list[Planned], found: dict[str, dict]) -> float | None:
  """Percent; None while the upper bound has not run."""
  upper = runs.upper_bound(one, planned, found)
  if upper is None:
    return None
  curves = [_seen(result, table.metric) for result in (found[one.name], upper)]
  return 100 * metrics.omega(*curves)


def _seen(result: dict, metric: str) -> list[float]:
  matrix = result['top5_accuracy_matrix' if 'top5' in metric else 'accuracy_matrix']
  return metrics.seen_accuracy(matrix, result['test_images'])


def _mean_std(name: str, values: list[float]) -> dict:
  """Mean and population standard deviation, as in the paper; None of no values, no deviation of one."""
  mean = sum(values) / len(values) if values else None
  std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 if len(values) > 1 else None
  return {name: mean, f'{name}_std': std}


def _difference(ours: float | None, theirs: float | None) -> float | None:
  return None if ours is None or theirs is None else ours - theirs


def cell(mean: float | None, std: float | None) -> str:
  """'81.2 ± 1.9'."""
  if mean is None:
    return '-'
  return f'{mean:.1f}' if std is None else f'{mean:.1f} ± {std:.1f}'


def render(title: str, lines: list[dict], complaints: list[str]) -> str:
  """Markdown."""
  header = ('method', 'replay', 'tasks', 'n', 'A_N %', 'Omega %', 'paper A_N', 'paper Omega', 'deviation', 's a run')
  cells = [
    (
      line['method'],
      line['replay'],
      str(line['tasks']),
      str(line['n']) if line['n'] else 'not run',
      cell(line['accuracy'], line['accuracy_std']),
      cell(line['omega'], line['omega_std']),
      cell(line['paper_accuracy'], line['paper_accuracy_std']),
      cell(line['paper_omega'], line['paper_omega_std']),
      '-' if line['deviation'] is None else f'{line["deviation"]:+.1f}',
      '-' if line['seconds'] is None else f'{line["seconds"]:.0f}',
    )
    for line in lines
  ]
  notes = [f'- {complaint}' for complaint in complaints]
  hardware = sorted({f'{device} (commit {", ".join(line["commits"])})' for line in lines for device in line['devices']})
  notes += [f'- run on {where}' for where in hardware]
  return '\n'.join([f'**{title}**', '', markdown(header, cells), *([''] if notes else []), *notes])


def as_csv(lines: list[dict]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(line | {key: ' '.join(line[key]) for key in ('devices', 'commits')} for line in lines)
  return text.getvalue()


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--table', default='1', help=f'one of {", ".join(TABLES)}')
  parser.add_argument('--output', type=Path, default=Path('runs/tables'), help='where .md and .csv are written')
  runs.add_arguments(parser)
  arguments = parser.parse_args(argv)
  if arguments.table not in TABLES:
    raise UserError(f"--table='{arguments.table}' is not a table.{nearest(arguments.table, TABLES)}")
  table = TABLES[arguments.table]
  planned = runs.plan_of(arguments.table, arguments)
  if arguments.print_commands:
    return runs.print_commands(arguments.table, planned, arguments)
  runs.run_missing(planned, arguments)
  found, complaints = runs.gather(planned, arguments.results)
  lines = summarise(table, arguments.data, planned, found)
  elsewhere = '' if arguments.data == table.config else f'; here on {arguments.data}'
  text = render(f'Table {arguments.table}. {table.title}{elsewhere}', lines, complaints)
  arguments.output.mkdir(parents=True, exist_ok=True)
  stem = arguments.output / f'table_{arguments.table}_{arguments.data}'
  write_atomically(stem.with_suffix('.md'), text + '\n')
  write_atomically(stem.with_suffix('.csv'), as_csv(lines))
  print(text)
  if len(found) < len(planned):
    print(f'{len(planned) - len(found)} of {len(planned)} runs are missing; the same command goes on.', file=sys.stderr)


if __name__ == '__main__':
  cli(main)
