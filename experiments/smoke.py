"""Every method on two small tasks of real CIFAR-100, on any machine: python -m experiments smoke --data_dir=DIR

Two classes each, the paper's networks and batch sizes, at most 20 steps a phase: that every loss is finite, and that a
model and its memory are frozen after each task. Then ABD on two tasks of ten classes, one epoch each: that losses fall
and the first task is learnt. Says nothing else about accuracy. Three quarters of an hour on two CPU cores; the same
command resumes it.
"""

import argparse
import json
from pathlib import Path

from abd_jax import methods
from abd_jax.config import reads
from abd_jax.devices.environment import environment
from abd_jax.report.tables import table
from abd_jax.run import queue
from abd_jax.run.queue import Job
from experiments import options
from experiments.files import RESULTS, write_json
from experiments.jobs import job, load_config, tell

SMALL = {
  'tasks': 2,
  'task_sizes': (2, 2),
  'student.epochs': 1,
  'student.milestones': (),
  'rdfcil.finetune_epochs': 1,
  'inversion.steps': 20,
  'memory.size': 400,
  'chunk_steps': 5,
}
# 39 steps on the first task, 60 of inversion, 39 on the second; every one is logged.
CURVES = SMALL | {'task_sizes': (10, 10), 'inversion.steps': 60, 'chunk_steps': 1}
LOSSES = {'learning': 'ce', 'dreaming': 'loss'}  # phase -> the loss whose curve is kept
NOT_LOSSES = ('task', 'phase', 'step', 'images_per_second')


def phases(workdir: Path) -> dict[str, dict]:
  """'task 1 learning' -> steps and last losses of the phases of the runs in or, of an upper bound, below a workdir."""
  found = {}
  for record in _records(workdir):
    if record['phase'] != 'evaluating':
      losses = {name: value for name, value in record.items() if name not in NOT_LOSSES}
      found[f'task {record["task"] + 1} {record["phase"]}'] = {'steps': record['step'], 'last': losses}
  return found


def curves(workdir: Path) -> list[dict]:
  """Per phase, in order: its loss at every step and the means over the first and the last ten."""
  found = {}
  for record in _records(workdir):
    if loss := LOSSES.get(record['phase']):
      found.setdefault((record['task'], record['phase']), []).append(record[loss])
  mean = lambda values: sum(values) / len(values)
  return [
    {'task': task, 'phase': phase, 'first_ten': mean(steps[:10]), 'last_ten': mean(steps[-10:]), 'steps': steps}
    for (task, phase), steps in found.items()
  ]


def _records(workdir: Path) -> list[dict]:
  return [json.loads(line) for log in sorted(workdir.rglob('metrics.jsonl')) for line in log.read_text().splitlines()]


def told(one: Job, workdir: Path) -> Job:
  """The job, with what became of it printed as it comes."""

  def run(max_seconds: float) -> dict:
    results = one.run(max_seconds)
    found = {
      'phases': phases(workdir),
      'frozen': sorted(folder.name for folder in workdir.glob('teachers/*') if folder.is_dir()),
      **{key: results[key] for key in ('accuracy_matrix', 'seconds', 'steps')},
    }
    print(one.name, json.dumps(found['phases']), flush=True)
    return found

  return Job(one.name, run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'rows', 'config', 'data_dir', 'max_seconds', 'runs', 'output')
  parser.set_defaults(config='cifar100', rows=tuple(methods.available()))
  parser.set_defaults(runs=Path('runs/smoke'), output=RESULTS / 'smoke.json')


def main(arguments: argparse.Namespace) -> None:
  def smoke(name: str, method: str, fields: dict) -> Job:
    workdir = arguments.runs / name
    places = {'data.dir': arguments.data_dir, 'oracle_dir': str((workdir / 'oracles').absolute())}
    read = {name: value for name, value in fields.items() if reads(method, name)}
    return told(job(load_config(arguments.config, f'method={method}', read | places), workdir), workdir)

  jobs = [smoke(method, method, SMALL) for method in arguments.rows]
  jobs += [smoke('abd_curves', 'abd', CURVES)] * ('abd' in arguments.rows)
  outcome = queue.execute(jobs, arguments.max_seconds, tell=tell)
  outcome.complete()
  losses = curves(arguments.runs / 'abd_curves')
  content = {'overrides': SMALL, 'methods': outcome.results, 'curves_overrides': CURVES, 'losses': losses}
  write_json(arguments.output, {'schema_version': 1} | content | environment())
  most = lambda one: str(max(phase['steps'] for phase in one['phases'].values()))
  rows = [(name, most(one), ' '.join(one['frozen'])) for name, one in outcome.results.items()]
  print(table(('method', 'most steps a phase', 'frozen'), rows))
  for phase in losses:
    line = 'task {task}, {phase}: {first_ten:.4g} over the first ten steps, {last_ten:.4g} over the last'
    print(line.format(**phase))
