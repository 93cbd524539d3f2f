"""How configs/digits.py was chosen: python -m experiments.digits

Compares settings on folds of the training split, trials 3 to 5, the test split unread. Goes on where it was stopped,
and writes experiments/results/digits_settings.json.
"""

import json
from pathlib import Path

from absl import logging

from abd_jax.report import environment
from abd_jax.workdir import write_atomically
from experiments.common import RESULTS, load_config, run

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


def _kept(results: dict) -> dict:
  return {'trial': results['config']['trial']} | {key: results[key] for key in KEPT}


def _file(rows: dict, what: str) -> dict:
  config = json.loads(load_config('digits').to_json_best_effort())
  return {'schema_version': 1, 'what': what, 'rows': rows, **environment(), 'config': config}


if __name__ == '__main__':
  logging.set_verbosity(logging.ERROR)
  found = compare_settings(Path('runs/digits'))
  write_atomically(RESULTS / 'digits_settings.json', json.dumps(found, indent=1) + '\n')
