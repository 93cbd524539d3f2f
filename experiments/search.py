"""Hyper-parameter search as in Appendix D: python -m experiments.search --data=digits --grid abd.kd_weight=0.1,1

k folds of the TRAINING split, only the first half of the tasks: neither a later task's images nor any test image is
read, and the result lists what was. --grid takes fields with their values, FIELD=V1,V2, or alone where Table F has
some; every combination is run on every fold. Finished runs are used again; stop it at any time; started twice, it
shares the work. Writes the ranked points, mean and deviation over folds, to --output.
"""

import argparse
import ast
import itertools
import json
from pathlib import Path

from abd_jax.data.sources import open_dataset
from abd_jax.errors import UserError, nearest
from abd_jax.protocol.tasks import split
from abd_jax.report.tables import table
from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from experiments.common import ROOT, cli, load_config, mean_std, run_all

# Table F: the ranges, of which the paper chose 1, 1, 50, 1e-3, 1e3, 0.1 and 0.1 (its text and code: 1).
TABLE_F = {
  'inversion.content_weight': (0.1, 1.0, 10.0),
  'inversion.diversity_weight': (0.1, 1.0, 10.0),
  'inversion.stat_weight': (1.0, 10.0, 50.0, 100.0),
  'inversion.prior_weight': (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
  'inversion.temperature': (1.0, 1e1, 1e2, 1e3, 1e4),
  'abd.kd_weight': (0.01, 0.1, 1.0),
  'abd.ft_weight': (0.01, 0.1, 1.0),
}


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


def first_half(config) -> dict:
  """The fields that cut a config to the first half of its tasks. Raises UserError for a single task."""
  if config.tasks < 2:
    raise UserError(f'config.tasks={config.tasks} has no first half. Use at least 2.')
  where = config.data
  classes = open_dataset(where.name, where.dir, download=where.download).num_classes
  sizes = split(classes, config.tasks, config.first_task_classes, tuple(config.task_sizes))
  kept = sizes[: len(sizes) // 2]
  return {'tasks': len(kept), 'first_task_classes': 0, 'task_sizes': kept}


def search(
  data: str, option: str, grid: dict[str, tuple], folds: int, runs: Path, overrides: dict, max_seconds: float = 0.0
) -> dict:
  """Every point of the grid on every fold, best first, and what was read on the way.

  Raises UserError for a grid that no run could use, session.Paused after max_seconds (0: no limit).
  """
  base = load_config(data, option, overrides)
  half = first_half(base)
  grid_points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
  planned = []
  for point in grid_points:
    name = '-'.join([data, option.replace(',', '-'), *(f'{field}={value}' for field, value in point.items())])
    for fold in range(folds):
      try:
        config = load_config(data, option, overrides | half | point | {'data.folds': folds, 'data.fold': fold})
      except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'--grid: {" ".join(str(error).split())}') from error
      planned.append((config, runs / f'{name}-fold={fold}of{folds}'))
  accuracies = [results['final_accuracy'] for results in run_all(planned, max_seconds)]
  points = [
    {'point': point, 'accuracy': accuracies[k * folds : (k + 1) * folds]} for k, point in enumerate(grid_points)
  ]
  points.sort(key=lambda one: -sum(one['accuracy']))
  logs = [(workdir / 'reads.jsonl').read_text() for _, workdir in planned]
  read = [json.loads(line) for log in logs for line in log.splitlines()]
  return {
    'schema_version': 1,
    'what': f'accuracy after the first {half["tasks"]} of {base.tasks} tasks, on {folds} folds of the training split',
    'data': data,
    'option': option,
    'points': points,
    'read': {
      'splits': sorted({record['split'] for record in read}),
      'classes': sorted({label for record in read for label in record['classes']}),
      'always_within_folds': all(record.get('folds') == folds for record in read),
    },
    **environment(),
  }


def render(found: dict) -> str:
  """The ranked points."""
  fields = list(found['points'][0]['point'])
  rows = [
    (str(rank), *(f'{one["point"][field]:g}' if isinstance(one['point'][field], float) else str(one['point'][field])
                  for field in fields), mean_std(one['accuracy']))
    for rank, one in enumerate(found['points'], 1)
  ]  # fmt: skip
  return table(('rank', *fields, 'accuracy % on the folds'), rows)


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', default='cifar100', help='a file in configs/')
  parser.add_argument('--option', default='method=abd', help="the config's options, as after its colon")
  parser.add_argument('--grid', nargs='+', default=['abd.kd_weight', 'abd.ft_weight'], metavar='FIELD[=V1,V2]')
  parser.add_argument('--folds', type=int, default=3)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--max_seconds', type=float, default=0.0, help='stop after this long, everything saved')
  parser.add_argument('--runs', type=Path, default=Path('runs/search'))
  parser.add_argument('--output', type=Path, default=Path('runs/search.json'))
  arguments = parser.parse_args(argv)
  if not (ROOT / 'configs' / f'{arguments.data}.py').exists():
    raise UserError(f"--data='{arguments.data}': there is no configs/{arguments.data}.py.")
  return arguments


def main(argv: list[str]) -> None:
  arguments = parse(argv)
  grid, overrides = parse_grid(arguments.grid), {'data.dir': arguments.data_dir}
  where = (arguments.folds, arguments.runs, overrides, arguments.max_seconds)
  found = search(arguments.data, arguments.option, grid, *where)
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(arguments.output, json.dumps(found, indent=1) + '\n')
  print(render(found))
  print(f'read: splits {found["read"]["splits"]}, classes {found["read"]["classes"]}')


if __name__ == '__main__':
  cli(main)
