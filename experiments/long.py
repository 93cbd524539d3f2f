"""Runs that are long or wide, on made-up images: python -m experiments long

A hundred tasks of one class each, a thousand classes in four tasks, classes of one image: everything must stay finite,
and over the hundred tasks memory, time per step and disk must not grow after the first ten. Some ten minutes on two
CPU cores; the same command resumes it.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.devices.environment import environment
from abd_jax.errors import UserError
from abd_jax.report import charts
from abd_jax.report.charts import Series
from abd_jax.report.tables import table
from abd_jax.run import queue
from abd_jax.run.queue import Job
from experiments import options
from experiments.files import RESULTS, write_json
from experiments.jobs import job, load_config, tell
from experiments.synthetic import Shape, prepare

SMALL = {
  'data.max_value': 255.0, 'data.mean': (), 'data.std': (), 'devices': 1, 'model.widths': (4, 4, 4),
  'generator.latent': 8, 'generator.start': (2, 2, 8), 'generator.widths': (8, 8), 'student.milestones': (),
  'inversion.steps': 40, 'inversion.batch_size': 16, 'chunk_steps': 10, 'checkpoint_seconds': 1000.0,
}  # fmt: skip
# Name -> the images, and what of the config is its own.
RUNS: dict[str, tuple[Shape, dict[str, Any]]] = {
  'hundred_tasks': (
    Shape(classes=100, train=32, test=2),
    {'tasks': 100, 'student.batch_size': 16, 'student.epochs': 20, 'teachers_kept': 1},
  ),
  'thousand_classes': (
    Shape(classes=1000, train=4, test=1),
    {'tasks': 4, 'student.batch_size': 50, 'student.epochs': 2},
  ),
  'one_image_classes': (
    Shape(classes=40, train=1, test=1),
    {'tasks': 10, 'student.batch_size': 4, 'student.epochs': 20},
  ),
}  # fmt: skip
REPEATS = {'hundred_tasks': 3}  # of the same run: of each task's times the least counts, for others only add to it
SETTLED = 10  # tasks after which nothing may grow any more
PARTS = 30  # tasks at either end that are compared


def measured(workdir: Path) -> dict[str, list[float]]:
  """Of each task, from the run's own logs: CPU milliseconds a step of 'learning' and 'dreaming', 'memory' in MiB.

  CPU time, for a machine that others use too stretches the clock's.
  """
  found: dict[str, list[float]] = {'learning': [], 'dreaming': [], 'memory': []}
  for line in (workdir / 'phases.jsonl').read_text().splitlines():
    record = json.loads(line)
    if record['steps']:
      found[record['phase']].append(round(1000 * record['cpu_seconds'] / record['steps'], 3))
    if record['phase'] == 'learning':
      found['memory'].append(round(record['peak_bytes']['host'] / 2**20, 1))
  return found


def growth(values: list[float]) -> float:
  """By how much the median of the last tasks is above that of the first ones after SETTLED, as a fraction."""
  first, last = values[SETTLED : SETTLED + PARTS], values[-PARTS:]
  return float(np.median(last) / np.median(first) - 1)


def disk(workdir: Path) -> dict[str, int]:
  """Frozen models and checkpoints that are there, and bytes of them."""
  count = lambda pattern: sum(path.is_dir() for path in workdir.glob(pattern))
  files = [file for part in ('teachers', 'checkpoints') for file in (workdir / part).rglob('*') if file.is_file()]
  size = sum(file.stat().st_size for file in files)
  return {'frozen models': count('teachers/*'), 'checkpoints': count('checkpoints/*/*'), 'bytes': size}


def is_finite(workdir: Path) -> bool:
  """Whether every number of the log is."""
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  numbers = [value for line in lines for value in line.values() if isinstance(value, float)]
  return all(map(math.isfinite, numbers))


def planned(name: str, root: Path) -> Job:
  """One of RUNS, its images prepared first."""
  shape, fields = RUNS[name]

  def run(max_seconds: float) -> dict:
    data, workdir = root / 'data', root / name
    prepare(name, shape, data)
    places = {'data.name': name, 'data.dir': str(data.absolute()), 'data.download': False}
    workdirs = [workdir, *(root / f'{name}_{k}' for k in range(2, 1 + REPEATS.get(name, 1)))]
    jobs = [job(load_config('digits', '', SMALL | fields | places), one) for one in workdirs]
    results = queue.execute(jobs, max_seconds).complete()[0]
    found = {'finite': is_finite(workdir), 'tasks': len(results['task_sizes']), 'classes': shape.classes}
    least = lambda key: [min(values) for values in zip(*(measured(one)[key] for one in workdirs), strict=True)]
    found |= {'repeats': len(workdirs), 'measured': {key: least(key) for key in measured(workdir)}}
    return found | {'steps': results['steps'], 'disk': disk(workdir)}

  return Job(name, run)


def picture(found: dict) -> str:
  """An SVG: time per step and memory of each of the hundred tasks, as shares of their medians after the tenth.

  Without the first two, in which steps are compiled.
  """
  of_task = found['runs']['hundred_tasks']['measured']
  share = lambda values: [100 * one / float(np.median(values[SETTLED:])) for one in values[2:]]
  names = {'learning': 'CPU time of a step of learning', 'dreaming': 'of dreaming', 'memory': 'peak memory'}
  series = [Series(words, [share(of_task[name])], look) for look, (name, words) in enumerate(names.items())]
  ticks = [str(k + 1) for k in range(2, len(of_task['learning']))]
  title = 'Percent of the median after task 10, from task 3 on'
  return charts.standalone(charts.curves(series, ticks, 'task', title, title, top=200.0))


def render(found: dict) -> str:
  """A table: the runs, and how much the longest grew."""
  rows = []
  for name, one in found['runs'].items():
    grown = [f'{100 * one["growth"][key]:+.1f} %' for key in one['growth']] or ['-'] * 3
    rows.append([name.replace('_', ' '), str(one['tasks']), str(one['classes']), 'yes' if one['finite'] else 'no',
                 *grown, str(one['disk']['frozen models'])])  # fmt: skip
  header = ('run', 'tasks', 'classes', 'finite', 'learning step', 'dreaming step', 'memory', 'frozen models kept')
  return table(header, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'runs', 'max_seconds', 'output')
  parser.set_defaults(runs=Path('runs/long'), output=RESULTS / 'long.json')


def main(arguments: argparse.Namespace) -> None:
  outcome = queue.execute([planned(name, arguments.runs) for name in RUNS], arguments.max_seconds, tell=tell)
  outcome.complete()
  for one in outcome.results.values():
    values = one['measured']
    one['growth'] = {key: growth(values[key]) for key in values} if len(values['memory']) > SETTLED + PARTS else {}
  found = {'schema_version': 1, 'runs': outcome.results} | environment()
  write_json(arguments.output, found)
  print(render(found))
  if broken := [name for name, one in found['runs'].items() if not one['finite']]:
    raise UserError(f'{broken[0]} logged what is not finite: look into {arguments.runs / broken[0]}/metrics.jsonl.')
