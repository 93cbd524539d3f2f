"""python -m experiments.cifar100_smoke --data_dir=DIR: two tasks of real CIFAR-100, one epoch each, on any machine.

39 steps on the first task, 60 of inversion, 39 on the second, with the paper's networks and batch sizes: that losses
fall and the first task is learnt. Writes experiments/results/cifar100_smoke.json.
About a quarter of an hour on two CPU cores.
"""

import argparse
import json
from pathlib import Path

from abd_jax.run.workdir import write_atomically
from experiments.common import RESULTS, cli, load_config, run

OVERRIDES = {
  'tasks': 2,
  'task_sizes': (10, 10),
  'student.epochs': 1,
  'student.milestones': (),
  'inversion.steps': 60,
  'chunk_steps': 1,  # logs every step
}
LOSSES = {'learning': 'ce', 'dreaming': 'loss'}


def losses(workdir: Path) -> list[dict]:
  """Per phase, in order: its loss at every step and the means over the first and the last ten."""
  phases = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    record = json.loads(line)
    if record['phase'] in LOSSES:
      phases.setdefault((record['task'], record['phase']), []).append(record[LOSSES[record['phase']]])
  mean = lambda values: sum(values) / len(values)
  return [
    {'task': task, 'phase': phase, 'first_ten': mean(steps[:10]), 'last_ten': mean(steps[-10:]), 'steps': steps}
    for (task, phase), steps in phases.items()
  ]


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--workdir', type=Path, default=Path('runs/cifar100_smoke'))
  arguments = parser.parse_args(argv)
  config = load_config('cifar100', '', OVERRIDES | {'data.dir': arguments.data_dir})
  results = run(config, arguments.workdir)
  results['config']['data']['dir'] = ''  # of this machine
  phases = losses(arguments.workdir)
  write_atomically(RESULTS / 'cifar100_smoke.json', json.dumps(results | {'losses': phases}, indent=1) + '\n')
  for phase in phases:
    print(
      'task {task}, {phase}: {first_ten:.4g} over the first ten steps, {last_ten:.4g} over the last'.format(**phase)
    )
  print(f'accuracy after each task: {results["accuracy_matrix"]}')


if __name__ == '__main__':
  cli(main)
