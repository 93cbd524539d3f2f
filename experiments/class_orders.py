"""Appendix E: how much the class order matters. python -m experiments.class_orders --config=cifar100 --method=abd

Final accuracy over ten class orders (trials 0 to 9), each with the same seed for everything else, so that only the
order varies. Writes experiments/results/class_orders_<config>_<method>.json; goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from experiments.common import RESULTS, cli, load_config, mean_std, run_all


def class_orders(name: str, option: str, trials: int, overrides: dict, runs: Path) -> dict:
  """Final and average accuracy of every trial's class order, and what ran."""
  folder = lambda trial: runs / f'{name}-{option.replace("=", "_").replace(",", "-")}-{trial}'
  config = lambda trial: load_config(name, f'{option},trial={trial}', {'seed': 0} | overrides)
  found = run_all([(config(trial), folder(trial)) for trial in range(trials)])
  kept = ('final_accuracy', 'average_accuracy', 'class_order', 'seconds')
  rows = [{'trial': trial} | {key: results[key] for key in kept} for trial, results in enumerate(found)]
  return {'schema_version': 1, 'config_file': name, 'option': option, 'trials': rows, **environment()}


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', default='cifar100', help='a file in configs/')
  parser.add_argument('--method', default='abd')
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--trials', type=int, default=10)
  parser.add_argument('--quick', action='store_true')
  arguments = parser.parse_args(argv)
  option = f'method={arguments.method}' + (',quick' if arguments.quick else '')
  found = class_orders(
    arguments.config, option, arguments.trials, {'data.dir': arguments.data_dir}, Path('runs/class_orders')
  )
  if not arguments.quick:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f'class_orders_{arguments.config}_{arguments.method}.json'
    write_atomically(file, json.dumps(found, indent=1) + '\n')
  finals = [row['final_accuracy'] for row in found['trials']]
  spread = 100 * (max(finals) - min(finals))
  print(f'final accuracy over {len(finals)} class orders: {mean_std(finals)} %, {spread:.1f} points from worst to best')


if __name__ == '__main__':
  cli(main)
