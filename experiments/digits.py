"""How configs/digits.py was chosen: python -m experiments.digits

Compares settings, and under the chosen ones the ablations of Table 3, on folds of the training split, trials 3 to 5,
the test split unread. Goes on where it was stopped; started twice, it shares the work. Writes
experiments/results/digits_settings.json.
"""

import json
from pathlib import Path

from abd_jax.report.tables import table
from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from experiments.common import RESULTS, cli, load_config, mean_std, run_all
from experiments.paper import TABLES

TRIALS, FOLDS = (3, 4, 5), 5
ABLATIONS = {row.name: dict(row.overrides) for row in TABLES['3'].rows if row.overrides}
RELEASED = {'abd.local_weight': 'balanced'}
# name -> overrides of configs/digits.py
SETTINGS = {
  'as in configs/digits.py': {},
  **ABLATIONS,
  'the released weight of Eq. 11': RELEASED,
  **{
    f'the same, {name}': RELEASED | ABLATIONS[name] for name in ('standard cross-entropy', 'no real-data distillation')
  },
  'learning rate 0.1': {'student.lr': 0.1},
  '30 epochs': {'student.epochs': 30, 'student.milestones': (12, 18, 24)},
  'softmax over all classes': {'abd.first_softmax': 'all', 'abd.ft_softmax': 'all'},
  '400 inversion steps': {'inversion.steps': 400},
  'a fresh generator per task': {'inversion.warm_start': False},
  'no crop': {'data.pad': 0},
  'crop of two pixels': {'data.pad': 2},
}
KEPT = ('final_accuracy', 'average_accuracy', 'forgetting', 'backward_transfer', 'accuracy_matrix', 'seconds', 'seed')


def compare_settings(runs: Path) -> dict:
  """Every setting's results on the held-out fifth of the training split, another fifth for each trial."""
  planned = {}
  for trial in TRIALS:
    for name, overrides in SETTINGS.items():
      folds = {'data.folds': FOLDS, 'data.fold': trial - TRIALS[0]}
      config = load_config('digits', f'trial={trial}', overrides | folds)
      planned[name, trial] = config, runs / f'{name.replace(" ", "_")}-trial={trial}'
  found = dict(zip(planned, run_all(list(planned.values())), strict=True))
  kept = lambda name, trial: {'trial': trial} | {key: found[name, trial][key] for key in KEPT}
  return {
    'schema_version': 1,
    'what': 'trials 3 to 5; each tested on another fifth of the training split, the test split unread',
    'rows': {
      name: {'overrides': overrides, 'trials': [kept(name, trial) for trial in TRIALS]}
      for name, overrides in SETTINGS.items()
    },
    **environment(),
    'config': json.loads(load_config('digits').to_json_best_effort()),
  }


def render(found: dict) -> str:
  """A line for each setting."""
  finals = {name: [trial['final_accuracy'] for trial in row['trials']] for name, row in found['rows'].items()}
  return table(('setting', 'accuracy % on the folds'), [(name, mean_std(values)) for name, values in finals.items()])


def main(_: list[str]) -> None:
  found = compare_settings(Path('runs/digits'))
  write_atomically(RESULTS / 'digits_settings.json', json.dumps(found, indent=1) + '\n')
  print(render(found))


if __name__ == '__main__':
  cli(main)
