"""The paper's tables: python -m experiments.tables --table=1 [--data=digits] [--trials=3]

Runs what a table lacks, then renders it: ours beside the paper's, with deviations, as Markdown and CSV. Stop it at any
time; the same command goes on. Every finished run is one file of --results, named by what it ran, so results of
several hosts merge by copying files. --print_commands prints one command for each run, for a SLURM array or many
hosts; --max_runs and --max_seconds bound this one.
"""

import argparse
import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from abd_jax import metrics
from abd_jax.config import flatten
from abd_jax.errors import UserError, nearest
from abd_jax.report import table as markdown
from abd_jax.session import Paused
from abd_jax.workdir import FREE_FIELDS, write_atomically
from experiments.common import RESULTS, ROOT, cli, load_config, run
from experiments.paper import SPLITS, TABLES, Row, Table

SCHEMA = 1  # of results.json, as this file reads it
KEPT = (
  'schema_version', 'method', 'task_sizes', 'test_images', 'accuracy_matrix', 'seen_accuracy', 'final_accuracy',
  'average_accuracy', 'forgetting', 'backward_transfer', 'top5_accuracy_matrix', 'final_top5_accuracy',
  'class_accuracy', 'seconds', 'steps', 'seed', 'versions', 'device', 'commit', 'config',
)  # fmt: skip


class Planned(NamedTuple):
  """One run of a table."""

  row: Row
  tasks: int
  trial: int
  data: str  # a file in configs/
  quick: bool

  @property
  def name(self) -> str:
    words = [self.data + '_quick' * self.quick, self.row.method, *(f'{k}={v}' for k, v in self.row.overrides)]
    return '-'.join([*words, f'tasks={self.tasks}', f'trial={self.trial}'])

  @property
  def argument(self) -> str:
    return f'tasks={self.tasks},method={self.row.method},trial={self.trial}' + ',quick' * self.quick

  @property
  def command(self) -> str:
    fields = ''.join(f' --config.{name}={value}' for name, value in self.row.overrides)
    return f'python -m abd_jax.main --config=configs/{self.data}.py:{self.argument}{fields} --workdir=runs/{self.name}'


def splits_on(table: Table, data: str) -> tuple[int, ...]:
  return table.splits if data == table.config else SPLITS[data]


def plan(table: Table, data: str, trials: int, quick: bool = False) -> list[Planned]:
  """Every run behind a table, trial by trial, so that a first trial of all rows comes before a second of any."""
  splits = splits_on(table, data)
  return [Planned(row, tasks, trial, data, quick) for trial in range(trials) for tasks in splits for row in table.rows]


def execute(planned: Planned, runs: Path, results: Path, data_dir: str, max_seconds: float) -> None:
  """Runs it, or what is left of it, and writes its file of `results`."""
  places = {'data.dir': data_dir, 'oracle_dir': str((runs / 'oracles').absolute()), 'max_seconds': max_seconds}
  config = load_config(planned.data, planned.argument, dict(planned.row.overrides) | places)
  found = run(config, runs / planned.name)
  kept = {key: found[key] for key in KEPT} | {'command': planned.command}
  flat = flatten(kept['config'])
  kept['config'] = {name: value for name, value in flat.items() if name not in FREE_FIELDS}  # not of this machine
  results.mkdir(parents=True, exist_ok=True)
  write_atomically(results / f'{planned.name}.json', json.dumps(kept) + '\n')


def read(planned: Planned, results: Path) -> tuple[dict | None, str]:
  """(what a run found, '') or (None, why there is nothing to use)."""
  file = results / f'{planned.name}.json'
  if not file.exists():
    return None, ''
  try:
    found = json.loads(file.read_text())
    version = found['schema_version']
  except (ValueError, KeyError, TypeError):
    return None, f'{file.name} is damaged: delete it and run again.'
  if version != SCHEMA:
    return None, f'{file.name} is of schema {version}, this reads {SCHEMA}: delete it and run again.'
  if missing := set(KEPT) - set(found):
    return None, f'{file.name} lacks {min(missing)}: delete it and run again.'
  return found, ''


def gather(planned: list[Planned], results: Path) -> tuple[dict[str, dict], list[str]]:
  """(name -> what a run found, complaints about files that cannot be used)."""
  found, complaints = {}, []
  for one in planned:
    result, complaint = read(one, results)
    if result:
      found[one.name] = result
    if complaint:
      complaints.append(complaint)
  return found, complaints


def summarise(table: Table, data: str, planned: list[Planned], found: dict[str, dict]) -> list[dict]:
  """One dict for each row and split: ours and the paper's, percent; None where there is nothing."""
  lines = []
  for row in table.rows:
    for split, tasks in enumerate(splits_on(table, data)):
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


def upper_bound(one: Planned, planned: list[Planned], found: dict[str, dict]) -> dict | None:
  """What the upper bound of the same trial and split found; None while it has not run."""
  same = lambda other: (other.tasks, other.trial, other.row.method) == (one.tasks, one.trial, 'oracle')
  return next((found[other.name] for other in planned if same(other) and other.name in found), None)


def _omega(one: Planned, table: Table, planned: list[Planned], found: dict[str, dict]) -> float | None:
  """Percent; None while the upper bound has not run."""
  upper = upper_bound(one, planned, found)
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
  notes = [f'- not used: {complaint}' for complaint in complaints]
  hardware = sorted({f'{device} (commit {", ".join(line["commits"])})' for line in lines for device in line['devices']})
  notes += [f'- run on {where}' for where in hardware]
  return '\n'.join([f'**{title}**', '', markdown(header, cells), *([''] if notes else []), *notes])


def as_csv(lines: list[dict]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(line | {key: ' '.join(line[key]) for key in ('devices', 'commits')} for line in lines)
  return text.getvalue()


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--table', default='1', help=f'one of {", ".join(TABLES)}')
  parser.add_argument('--data', default='', help="a file in configs/; default: the table's own")
  parser.add_argument('--trials', type=int, default=0, help="default: as many as the table's")
  parser.add_argument('--max_runs', type=int, default=sys.maxsize, help='how many unfinished runs to go on with')
  parser.add_argument('--max_seconds', type=float, default=0, help='stop after this long, everything saved')
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--runs', type=Path, default=Path('runs/tables'), help='work directories')
  parser.add_argument('--results', type=Path, default=RESULTS / 'runs', help='one file for each finished run')
  parser.add_argument('--output', type=Path, default=Path('runs/tables'), help='where .md and .csv are written')
  parser.add_argument('--print_commands', action='store_true', help='print a command for each unfinished run, run none')
  parser.add_argument('--only', default='', help='one run, by its name')
  parser.add_argument('--quick', action='store_true', help="the config's :quick variant, to try things out")
  arguments = parser.parse_args(argv)
  if arguments.table not in TABLES:
    raise UserError(f"--table='{arguments.table}' is not a table.{nearest(arguments.table, TABLES)}")
  table = TABLES[arguments.table]
  arguments.data = arguments.data or table.config
  known = (table.config, *SPLITS)
  if arguments.data not in known:
    raise UserError(f"--data='{arguments.data}' is not data of this table.{nearest(arguments.data, known)}")
  if not (ROOT / 'configs' / f'{arguments.data}.py').exists():
    raise UserError(f'table {arguments.table} needs configs/{arguments.data}.py, not there yet. Use --data=digits.')
  arguments.trials = arguments.trials or table.trials
  return arguments


def main(argv: list[str]) -> None:
  arguments = parse(argv)
  table = TABLES[arguments.table]
  planned = plan(table, arguments.data, arguments.trials, arguments.quick)
  if arguments.only and arguments.only not in (names := [one.name for one in planned]):
    raise UserError(f"--only='{arguments.only}' is not a run of this table.{nearest(arguments.only, names)}")
  missing = [one for one in planned if not (arguments.results / f'{one.name}.json').exists()]
  missing = [one for one in missing if arguments.only in ('', one.name)]
  if arguments.print_commands:
    same = [f'--table={arguments.table}', f'--data={arguments.data}', f'--trials={arguments.trials}']
    for one in missing:
      print(' '.join(['python -m experiments.tables', *same, *['--quick'] * arguments.quick, f'--only={one.name}']))
    return
  _execute_all(missing[: arguments.max_runs], arguments)
  found, complaints = gather(planned, arguments.results)
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


def _execute_all(missing: list[Planned], arguments: argparse.Namespace) -> None:
  began = time.monotonic()
  for one in missing:
    left = arguments.max_seconds - (time.monotonic() - began)
    if arguments.max_seconds and left <= 0:
      return
    print(f'{one.name} ...', file=sys.stderr, flush=True)
    try:
      execute(one, arguments.runs, arguments.results, arguments.data_dir, left if arguments.max_seconds else 0.0)
    except Paused as pause:
      print(pause, file=sys.stderr)
      return


if __name__ == '__main__':
  cli(main)
