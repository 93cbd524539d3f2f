"""How near dreams come to what they were trained on: python -m experiments privacy WORKDIR [WORKDIR...]

Writes a JSON, and prints it as a table.
"""

import argparse
from pathlib import Path

from abd_jax.analysis.diagnose import diagnose
from abd_jax.files import read_results
from abd_jax.report.tables import table
from experiments import options
from experiments.files import RESULTS, read_json, write_json

FIGURES = ('nearest_dreamed', 'nearest_unseen', 'suspicious', 'closer')


def measure(run: Path) -> dict:
  """The privacy figures of the dreams after each task of `run`."""
  results = read_results(run / 'results.json')
  found = [
    {'task': one['task'], 'dreams': one['dreams'], 'pixels': {name: one[name] for name in FIGURES}}
    | {'features': one['features']}
    for one in diagnose(run)['dreams']
  ]
  about = {name: results[name] for name in ('method', 'seed', 'task_sizes', 'commit', 'versions', 'device', 'config')}
  return about | {'dreams': found}


def rows(file: Path) -> str:
  """The figures of `file` as a Markdown table: medians of distances, shares in percent."""
  header = ('trial, after task', 'space', 'nearest: dreams', 'test images', 'suspicious, %', 'closer, %')
  lines = []
  for run in read_json(file)['runs']:
    for one in run['dreams']:
      for space in ('pixels', 'features'):
        near = one[space]
        medians = (f'{near[name][2]:.3f}' for name in ('nearest_dreamed', 'nearest_unseen'))
        shares = (f'{100 * near[name]:.1f}' for name in ('suspicious', 'closer'))
        lines.append((f'{run["config"]["trial"]}, {one["task"] + 1}', space, *medians, *shares))
  return table(header, lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('workdir', type=Path, nargs='+', help='of a finished run that dreams, whose data are at hand')
  options.add(parser, 'output', output=RESULTS / 'privacy_digits.json')


def main(arguments: argparse.Namespace) -> None:
  write_json(arguments.output, {'runs': [measure(run) for run in arguments.workdir]})
  print(rows(arguments.output))
