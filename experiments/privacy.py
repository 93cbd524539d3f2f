"""How near dreams come to what they were trained on: python -m experiments.privacy NAME RUN [RUN...]

RUN: the workdir of a finished run that dreams, whose data are at hand. Writes experiments/results/privacy_NAME.json,
and prints it as a table.
"""

import sys
from pathlib import Path

from abd_jax.analysis.diagnose import diagnose
from abd_jax.report.tables import table
from abd_jax.run.workdir import read_results
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


if __name__ == '__main__':
  name, *runs = sys.argv[1:]
  file = RESULTS / f'privacy_{name}.json'
  write_json(file, {'runs': [measure(Path(run)) for run in runs]})
  print(rows(file))
