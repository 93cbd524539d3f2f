"""The digits numbers of the README.

python -m experiments.digits settings    compares settings on folds of the training split, trials 3 to 5
python -m experiments.digits results     trials 0 to 2 on the test split; then writes the README's table

Both go on where they were stopped, and write experiments/results/digits_<what>.json.
"""

import json
import sys
from pathlib import Path

from absl import logging

from abd_jax.report import environment, table
from abd_jax.workdir import write_atomically
from experiments.common import RESULTS, ROOT, load_config, mean_std, run

# name -> overrides of configs/digits.py
TWENTY = {'student.epochs': 20, 'student.milestones': (8, 12, 16)}
SETTINGS = {
  'as in configs/digits.py': {},
  '20 epochs': TWENTY,
  '20 epochs, softmax over all classes': TWENTY | {'abd.first_softmax': 'all', 'abd.ft_softmax': 'all'},
  '20 epochs, 400 inversion steps': TWENTY | {'inversion.steps': 400},
  '20 epochs, a fresh generator per task': TWENTY | {'inversion.warm_start': False},
  '20 epochs, no crop': TWENTY | {'data.pad': 0},
}
RESULT_ROWS = {
  'abd': ('Always Be Dreaming', 'method=abd', {}),
  'abd_undreamed': ('the same, generator untrained', 'method=abd', {'inversion.steps': 0}),
  'lwf': ('LwF', 'method=lwf', {}),
  'base': ('Base', 'method=base', {}),
  'offline': ('trained on everything at once', 'method=base,tasks=1', {}),
}
README = ROOT / 'README.md'
MARKS = ('<!-- digits: python -m experiments.digits results -->', '<!-- end digits -->')
KEPT = ('final_accuracy', 'average_accuracy', 'forgetting', 'backward_transfer', 'accuracy_matrix', 'seconds', 'seed')


def compare_settings(runs: Path) -> dict:
  """Final accuracy per setting on the held-out fifth of the training split."""
  rows = {}
  for name, overrides in SETTINGS.items():
    rows[name] = []
    for trial in (3, 4, 5):
      folds = {'data.folds': 5, 'data.fold': trial - 3}
      config = load_config('digits', f'trial={trial}', overrides | folds)
      rows[name].append(_kept(run(config, runs / f'settings-{list(SETTINGS).index(name)}-{trial}')))
  return _file(
    {name: {'overrides': SETTINGS[name], 'trials': trials} for name, trials in rows.items()},
    'trials 3 to 5; each tested on another fifth of the training split, the test split unread',
  )


def run_results(runs: Path) -> dict:
  """Trials 0 to 2 of each row on the test split."""
  rows = {}
  for key, (name, option, overrides) in RESULT_ROWS.items():
    trials = [
      _kept(run(load_config('digits', f'{option},trial={trial}', overrides), runs / f'{key}-{trial}'))
      for trial in (0, 1, 2)
    ]
    rows[key] = {'name': name, 'option': option, 'overrides': overrides, 'trials': trials}
  return _file(rows, 'trials 0 to 2, official test split')


def render(results: dict) -> str:
  """The README's table of a digits_results.json."""
  cells = [
    [
      row['name'],
      mean_std([trial['final_accuracy'] for trial in row['trials']]),
      ', '.join(f'{100 * trial["final_accuracy"]:.1f}' for trial in row['trials']),
      f'{sum(sum(trial["seconds"].values()) for trial in row["trials"]) / len(row["trials"]):.0f}',
    ]
    for row in results['rows'].values()
  ]
  return table(('', 'final accuracy %', 'trials 0, 1, 2', 'seconds a run'), cells)


def write_readme(results: dict) -> None:
  before, _, rest = README.read_text().partition(MARKS[0])
  after = rest.partition(MARKS[1])[2]
  write_atomically(README, f'{before}{MARKS[0]}\n{render(results)}\n{MARKS[1]}{after}')


def _kept(results: dict) -> dict:
  return {'trial': results['config']['trial']} | {key: results[key] for key in KEPT}


def _file(rows: dict, what: str) -> dict:
  config = json.loads(load_config('digits').to_json_best_effort())
  return {'schema_version': 1, 'what': what, 'rows': rows, **environment(), 'config': config}


if __name__ == '__main__':
  logging.set_verbosity(logging.ERROR)
  what = sys.argv[1] if sys.argv[1:] in (['settings'], ['results']) else sys.exit(__doc__)
  found = {'settings': compare_settings, 'results': run_results}[what](Path('runs/digits'))
  RESULTS.mkdir(exist_ok=True)
  write_atomically(RESULTS / f'digits_{what}.json', json.dumps(found, indent=1) + '\n')
  if what == 'results':
    write_readme(found)
    print(render(found))
