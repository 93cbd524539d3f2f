"""Compares settings on folds of the TRAINING split, without the test split; the result lists the images read.

  python -m experiments search --config=digits:method=abd,trial=3 --grid abd.kd_weight=0.1,1 abd.ft_weight
  python -m experiments search --settings=digits

--grid, as in Appendix D: fields with their values, FIELD=V1,V2, or a field of Table F alone; every combination on every
fold, and only the first half of the tasks, so that it reads no images of later tasks. --settings: a named list of
experiments/paper.toml, each of its trials on another fold, all tasks. The same command resumes it and uses finished
runs again; started twice, it shares the work. Writes mean and deviation to --output.
"""

import argparse
import ast
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from abd_jax.config import Config, load_config
from abd_jax.devices.environment import environment
from abd_jax.errors import UserError, nearest
from abd_jax.report.tables import mean_std, table
from abd_jax.run import queue
from abd_jax.run.extend import open_stream
from experiments import options
from experiments.paper import SETTINGS, TABLE_F
from experiments.runs import job, tell
from experiments.store import write_json

Fields = dict[str, Any]  # dotted field of the config -> value


class Condition(NamedTuple):
  """A fold or a trial under which points are run."""

  name: str
  option: str  # the config's options
  fields: Fields


class Comparison(NamedTuple):
  """Points, each run under each of the conditions."""

  what: str  # one line: what its accuracies are
  config: str  # a file in configs/
  option: str  # the config's options
  folds: int
  points: list[dict]  # 'point': Fields; of a named list a 'name' too, and a 'method' if it is not the config's own
  conditions: list[Condition]


def of_grid(config: str, option: str, grid: dict[str, tuple], folds: int, fields: Fields) -> Comparison:
  """Every combination of the grid's values on every fold of the training split, over `fields` of all runs."""
  base = load_config(f'{config}:{option}', **fields)
  half = first_half(base)
  held_out = lambda fold: fields | half | {'data.folds': folds, 'data.fold': fold}
  return Comparison(
    f'accuracy after the first {half["tasks"]} of {base.tasks} tasks, on {folds} folds of the training split',
    config,
    option,
    folds,
    [{'point': dict(zip(grid, values, strict=True))} for values in itertools.product(*grid.values())],
    [Condition(f'fold={fold}of{folds}', option, held_out(fold)) for fold in range(folds)],
  )


def of_settings(name: str, fields: Fields) -> Comparison:
  """A list of experiments/paper.toml, over `fields` of all runs."""
  config, trials, folds, settings = SETTINGS[name]
  held_out = lambda fold: fields | {'data.folds': folds, 'data.fold': fold}
  return Comparison(
    f'final accuracy of trials {", ".join(map(str, trials))}, each tested on another of {folds} folds of the training '
    'split, the test split unread',
    config,
    '',
    folds,
    [_named_point(words, point) for words, point in settings.items()],
    [Condition(f'settings-trial={trial}', f'trial={trial}', held_out(k)) for k, trial in enumerate(trials)],
  )


def _named_point(name: str, fields: Fields) -> dict:
  """A point of a named list; its method is an option of the config, no field."""
  method = {'method': fields['method']} if 'method' in fields else {}
  return {'name': name, **method, 'point': {field: value for field, value in fields.items() if field != 'method'}}


def first_half(config: Config) -> Fields:
  """The fields that cut a config to the first half of its tasks. Raises UserError for a single task."""
  if config.tasks < 2:
    raise UserError(f'config.tasks={config.tasks} has no first half. Use at least 2.')
  sizes = open_stream(config, None).tasks.sizes
  kept = sizes[: len(sizes) // 2]
  return {'tasks': len(kept), 'first_task_classes': 0, 'task_sizes': kept}


def compare(comparison: Comparison, runs: Path, max_seconds: float = 0.0) -> dict:
  """The accuracies of every point, None if it diverges, those of a grid best first; and the images that were read.

  Raises UserError for a point that no run could use, Paused after max_seconds (0: no limit).
  """
  jobs = []
  for one, condition in itertools.product(comparison.points, comparison.conditions):
    fields = condition.fields | one['point']
    option = ','.join(filter(None, (condition.option, f'method={one["method"]}' if 'method' in one else '')))
    config = load_config(f'{comparison.config}:{option}', **fields)
    jobs.append(job(config, runs / workdir_name(comparison, one, condition)))
  outcome = queue.execute(jobs, max_seconds, tell=tell)
  outcome.check_ended()
  points = []
  for one in comparison.points:
    names = [workdir_name(comparison, one, condition) for condition in comparison.conditions]
    found = [outcome.results.get(name, {}).get('final_accuracy') for name in names]
    points.append(one | {'accuracy': found})
  if 'name' not in points[0]:
    points.sort(key=lambda one: -sum(value or 0.0 for value in one['accuracy']))
  return {
    'schema_version': 1,
    'what': comparison.what,
    'data': comparison.config,
    'option': comparison.option,
    'points': points,
    'read': _read([runs / one.name for one in jobs], comparison.folds),
    **environment(),
  }


def workdir_name(comparison: Comparison, one: dict, condition: Condition) -> str:
  """Of a workdir: what it runs."""
  point = [one['name']] if 'name' in one else [f'{field}={value}' for field, value in one['point'].items()]
  words = (comparison.config, *comparison.option.split(','), *point, condition.name)
  return '-'.join(filter(None, words)).replace('/', '_').replace(' ', '_')


def _read(folders: list[Path], folds: int) -> dict:
  """Which images the runs in these workdirs have read."""
  logs = [file.read_text() for folder in folders for file in folder.glob('reads.jsonl')]
  records = [json.loads(line) for log in logs for line in log.splitlines()]
  return {
    'splits': sorted({record['split'] for record in records}),
    'classes': sorted({label for record in records for label in record['classes']}),
    'always_within_folds': all(record.get('folds') == folds for record in records),
  }


def render(found: dict) -> str:
  """The points of a grid with their ranks, or those of a named list."""
  points, of_folds = found['points'], 'accuracy % on the folds'
  if 'name' in points[0]:
    return table(('setting', of_folds), [(one['name'], _shown(one['accuracy'])) for one in points])
  fields = list(points[0]['point'])
  text = lambda value: f'{value:g}' if isinstance(value, float) else str(value)
  return table(
    ('rank', *fields, of_folds),
    [
      (str(rank), *(text(one['point'][field]) for field in fields), _shown(one['accuracy']))
      for rank, one in enumerate(points, 1)
    ],
  )


def _shown(accuracy: list[float | None]) -> str:
  """'81.2 ± 1.9', and how many of them diverged."""
  diverged = accuracy.count(None)
  return mean_std(accuracy) + (f', {diverged} diverged' if diverged else '')


def parse_grid(words: list[str]) -> dict[str, tuple]:
  """{field: values} of FIELD or FIELD=V1,V2,... Raises UserError for a field without values."""
  grid = {}
  for word in words:
    field, _, values = word.partition('=')
    if not values and field not in TABLE_F:
      raise UserError(f'--grid {field} needs values, as in {field}=1,2.{nearest(field, TABLE_F)}')
    grid[field] = tuple(map(_value, values.split(','))) if values else TABLE_F[field]
  return grid


def _value(text: str):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
  which = parser.add_mutually_exclusive_group()
  which.add_argument('--grid', nargs='+', default=['abd.kd_weight', 'abd.ft_weight'], metavar='FIELD[=V1,V2]')
  which.add_argument('--settings', choices=list(SETTINGS), help='a list of experiments/paper.toml')
  parser.add_argument(
    '--folds', type=options.at_least(2), default=3, metavar='N', help='of a grid; default: %(default)s'
  )
  options.add(parser, 'config', 'data_dir', 'max_seconds', 'runs', 'output')
  parser.set_defaults(runs=Path('runs/search'), output=Path('runs/search.json'))


def main(arguments: argparse.Namespace) -> None:
  fields = {'data.dir': arguments.data_dir}
  if arguments.settings and arguments.config:
    raise UserError(f'--settings={arguments.settings} names its config: leave out --config.')
  if arguments.settings:
    comparison = of_settings(arguments.settings, fields)
  else:
    config, _, option = (arguments.config or 'cifar100').partition(':')
    comparison = of_grid(config, option, parse_grid(arguments.grid), arguments.folds, fields)
  found = compare(comparison, arguments.runs, arguments.max_seconds)
  write_json(arguments.output, found)
  print(render(found))
  print(f'read: splits {found["read"]["splits"]}, classes {found["read"]["classes"]}')
