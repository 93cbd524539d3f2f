"""python -m experiments.methods_smoke --data_dir=DIR: every method on two small tasks of real CIFAR-100, anywhere.

Two classes each, the paper's networks and batch sizes, at most 20 steps a phase: that every loss is finite, and that a
model and its memory are frozen after each task. Says nothing about accuracy. Writes
experiments/results/methods_smoke.json; about half an hour on two CPU cores.
"""

import argparse
import json
import math
from pathlib import Path

from abd_jax import methods
from abd_jax.report.tables import table
from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from experiments.common import RESULTS, cli, load_config, run

OVERRIDES = {
  'tasks': 2,
  'task_sizes': (2, 2),
  'student.epochs': 1,
  'student.milestones': (),
  'rdfcil.finetune_epochs': 1,
  'inversion.steps': 20,
  'memory.size': 400,
  'chunk_steps': 5,
}


def smoke(method: str, data_dir: str, runs: Path) -> dict:
  """What happened to one method."""
  config = load_config('cifar100', f'method={method}', OVERRIDES | {'data.dir': data_dir})
  workdir = runs / method
  results = run(config, workdir)
  logs = sorted(runs.glob('oracles/*/metrics.jsonl')) if method == 'oracle' else [workdir / 'metrics.jsonl']
  records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
  phases = {}
  for record in records:
    if record['phase'] != 'evaluating':
      values = {k: v for k, v in record.items() if k not in ('task', 'phase', 'step', 'images_per_second')}
      assert all(map(math.isfinite, values.values())), record
      phases[f'task {record["task"] + 1} {record["phase"]}'] = {'steps': record['step'], 'last': values}
  return {
    'phases': phases,
    'frozen': sorted(folder.name for folder in (workdir / 'teachers').glob('*')),
    **{key: results[key] for key in ('accuracy_matrix', 'seconds', 'steps')},
  }


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--runs', type=Path, default=Path('runs/methods_smoke'))
  parser.add_argument('--output', type=Path, default=RESULTS / 'methods_smoke.json')
  arguments = parser.parse_args(argv)
  found = {}
  for name in methods.available():
    found[name] = smoke(name, arguments.data_dir, arguments.runs)
    print(name, json.dumps(found[name]['phases']), flush=True)
  content = {'schema_version': 1, 'overrides': OVERRIDES, 'methods': found, **environment()}
  write_atomically(arguments.output, json.dumps(content, indent=1) + '\n')
  most = lambda one: str(max(phase['steps'] for phase in one['phases'].values()))
  rows = [(name, most(one), ' '.join(one['frozen'])) for name, one in found.items()]
  print(table(('method', 'most steps a phase', 'frozen'), rows))


if __name__ == '__main__':
  cli(main)
