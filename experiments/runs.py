"""The runs behind a table or a figure: which there are, which have finished, and going on with the others.

Every finished run is one file of --results, named by what it ran, so results of several hosts merge by copying files.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from abd_jax.config import flatten
from abd_jax.errors import InUse, Paused, UserError, nearest
from abd_jax.run.workdir import FREE_FIELDS, write_atomically
from experiments.common import RESULTS, ROOT, load_config, run
from experiments.paper import SPLITS, TABLES, Row, Table

SCHEMA = 1  # of results.json, as this file reads it
KEPT = (
  'schema_version', 'method', 'task_sizes', 'test_images', 'accuracy_matrix', 'seen_accuracy', 'final_accuracy',
  'average_accuracy', 'forgetting', 'backward_transfer', 'top5_accuracy_matrix', 'final_top5_accuracy',
  'class_accuracy', 'seconds', 'steps', 'seed', 'versions', 'device', 'commit', 'config',
)  # fmt: skip

# Where things lie, if the command line does not say.
PLACES = {'data_dir': '', 'runs': Path('runs/tables'), 'results': RESULTS / 'runs'}


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

  def config(self, places: dict) -> ConfigDict:
    """Its config, with `places` of this machine."""
    return load_config(self.data, self.argument, dict(self.row.overrides) | places)


def splits_on(table: Table, data: str) -> tuple[int, ...]:
  return table.splits if data == table.config else SPLITS[data]


def plan(table: Table, data: str, trials: int, quick: bool = False) -> list[Planned]:
  """Every run behind a table, trial by trial, so that a first trial of all rows comes before a second of any."""
  splits = splits_on(table, data)
  return [Planned(row, tasks, trial, data, quick) for trial in range(trials) for tasks in splits for row in table.rows]


def read(planned: Planned, results: Path) -> tuple[dict | None, str]:
  """(what a run found, '') or (None, why there is nothing to use)."""
  file = _file(planned, results)
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
  asked = _fields(planned.config({}))
  # A field it does not name is one that came later.
  if differing := [name for name in sorted(asked) if found['config'].get(name, asked[name]) != asked[name]]:
    name = differing[0]
    ran = f'{file.name} ran with config.{name}={found["config"][name]!r}'
    return None, f'{ran}, now {asked[name]!r}: delete it and run again.'
  return found, ''


def _fields(config: ConfigDict) -> dict:
  """Dotted field -> value, as JSON has it, of those that say what is computed rather than where."""
  flat = flatten(json.loads(json.dumps(config.to_dict())))
  return {name: value for name, value in flat.items() if name not in FREE_FIELDS}


def gather(planned: list[Planned], results: Path) -> tuple[dict[str, dict], list[str]]:
  """(name -> what a run found, complaints about files that cannot be used or are missing).

  A row none of whose runs is there is no complaint: it is shown as not run.
  """
  found, complaints = {}, []
  for one in planned:
    result, complaint = read(one, results)
    if result:
      found[one.name] = result
    if complaint:
      complaints.append(complaint)
  begun = {(one.row, one.tasks) for one in planned if one.name in found}
  files = (_file(one, results) for one in planned if (one.row, one.tasks) in begun)
  complaints += [f'{file.name} is missing: run it.' for file in files if not file.exists()]
  return found, complaints


def upper_bound(one: Planned, planned: list[Planned], found: dict[str, dict]) -> dict | None:
  """What the upper bound of the same trial and split found; None while it has not run."""
  same = lambda other: (other.tasks, other.trial, other.row.method) == (one.tasks, one.trial, 'oracle')
  return next((found[other.name] for other in planned if same(other) and other.name in found), None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The words of the command line that say which runs there are and how to go on with them."""
  parser.add_argument('--data', default='', help="a file in configs/; default: the paper's")
  parser.add_argument('--trials', type=int, default=0, help="default: the paper's")
  parser.add_argument('--quick', action='store_true', help="the config's :quick variant, to try things out")
  parser.add_argument('--max_runs', type=int, default=sys.maxsize, help='how many unfinished runs to go on with')
  parser.add_argument('--max_seconds', type=float, default=0, help='stop after this long, everything saved')
  parser.add_argument('--data_dir', default=PLACES['data_dir'], help="prepared data; default: TFDS's")
  parser.add_argument('--runs', type=Path, default=PLACES['runs'], help='work directories')
  parser.add_argument('--results', type=Path, default=PLACES['results'], help='one file for each finished run')
  parser.add_argument('--print_commands', action='store_true', help='print a command for each unfinished run, run none')
  parser.add_argument('--only', default='', help='one run, by its name')


def plan_of(name: str, arguments: argparse.Namespace) -> list[Planned]:
  """The runs of table `name` that the command line asks for; sets what it left open. Raises UserError."""
  table = TABLES[name]
  arguments.data = arguments.data or table.config
  known = (table.config, *SPLITS)
  if arguments.data not in known:
    raise UserError(f"--data='{arguments.data}' is not data of this table.{nearest(arguments.data, known)}")
  if not (ROOT / 'configs' / f'{arguments.data}.py').exists():
    raise UserError(f'table {name} needs configs/{arguments.data}.py, not there yet. Use --data=digits.')
  arguments.trials = arguments.trials or table.trials
  planned = plan(table, arguments.data, arguments.trials, arguments.quick)
  if arguments.only and arguments.only not in (names := [one.name for one in planned]):
    raise UserError(f"--only='{arguments.only}' is not a run of this table.{nearest(arguments.only, names)}")
  return planned


def print_commands(name: str, planned: list[Planned], arguments: argparse.Namespace) -> None:
  """One line for each run without a result, for a SLURM array or many hosts."""
  asked = {'table': name, 'data': arguments.data, 'trials': arguments.trials}
  asked |= {place: getattr(arguments, place) for place in PLACES if getattr(arguments, place) != PLACES[place]}
  same = [f'--{word}={value}' for word, value in asked.items()] + ['--quick'] * arguments.quick
  for one in _missing(planned, arguments):
    print(shlex.join(['python', '-m', 'experiments.tables', *same, f'--only={one.name}']))


def run_missing(planned: list[Planned], arguments: argparse.Namespace) -> None:
  """Runs what has no result yet, or what is left of it, as far as the command line allows.

  What another process is running is left to it: the same command twice shares the work.
  """
  began = time.monotonic()
  for one in _missing(planned, arguments)[: arguments.max_runs]:
    left = arguments.max_seconds - (time.monotonic() - began)
    if arguments.max_seconds and left <= 0:
      return
    if _file(one, arguments.results).exists():  # another process was faster
      continue
    print(f'{one.name} ...', file=sys.stderr, flush=True)
    try:
      _execute(one, arguments, left if arguments.max_seconds else 0.0)
    except InUse:
      print(f'{one.name} is run by another process; left to it', file=sys.stderr)
    except Paused as pause:
      print(pause, file=sys.stderr)
      return


def _missing(planned: list[Planned], arguments: argparse.Namespace) -> list[Planned]:
  asked = [one for one in planned if arguments.only in ('', one.name)]
  return [one for one in asked if not _file(one, arguments.results).exists()]


def _file(planned: Planned, results: Path) -> Path:
  return results / f'{planned.name}.json'


def _execute(planned: Planned, arguments: argparse.Namespace, max_seconds: float) -> None:
  """Runs it, or what is left of it, and writes its file of results."""
  oracles = str((arguments.runs / 'oracles').absolute())
  config = planned.config({'data.dir': arguments.data_dir, 'oracle_dir': oracles, 'max_seconds': max_seconds})
  found = run(config, arguments.runs / planned.name)
  kept = {key: found[key] for key in KEPT} | {'command': planned.command, 'config': _fields(config)}
  arguments.results.mkdir(parents=True, exist_ok=True)
  write_atomically(_file(planned, arguments.results), json.dumps(kept) + '\n')
