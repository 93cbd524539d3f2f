"""Class Gaussians under other settings, from the frozen models of finished runs: nothing is trained again.

  python -m experiments replay runs/a runs/b --grid gaussians.dreams=0,1 gaussians.own_share=0,0.2

Each workdir is a finished run that has frozen models of all its tasks, and generators if dreams are to be sensors. For
every combination of the grid, class statistics are measured and carried through the run's tasks as the run would have
done it, and are tested on its test images: choose settings on runs with config.data.folds. Writes a line of JSON for
each combination to --output, and one for the trained head and one for the limit: Gaussians of all real features.
"""

import argparse
import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.config import changed
from abd_jax.methods import class_gaussians
from abd_jax.methods.types import TaskEnd
from abd_jax.report.tables import mean_std, table
from abd_jax.run.load import load_snapshot
from abd_jax.run.plan import Plan, build
from abd_jax.state import Classes, FrozenModel, PhaseData
from abd_jax.steps.inputs import rows_of_task
from abd_jax.steps.student import in_batches
from experiments import options
from experiments.search import parse_grid
from experiments.store import write

Statistics = dict[str, Any]  # what class_gaussians.init made, on the host
SETTINGS = ('dreams', 'measured', 'distance_shrinkage', 'ridge', 'own_share', 'head_shrinkage')


class Replayed(NamedTuple):
  """What a run's models make of its images."""

  tasks: list[dict[str, Any]]  # the fields of each task's TaskEnd, without statistics
  everything: dict[str, Any]  # the same of all tasks' images under the last model, as if in one task
  tested: np.ndarray  # f[n, d], features of the test images
  labels: np.ndarray  # i32[n]
  own_hits: np.ndarray  # bool[n], of the trained head
  settings: dict[str, Any]  # the run's own, config.gaussians


def by_both(
  plan: Plan, task: int, old: FrozenModel, new: FrozenModel, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Features f[n, k, d] by the model before a task and the one after it, of the samples that the run itself saw."""
  classes, batch = Classes(plan.schedule.tasks.task_of_class, np.int32(task)), itertools.count()
  data = PhaseData(None, None, classes, (), np.uint32(plan.seed))
  embed = lambda part: plan.steps.embed_by_both(old, new, part, data, np.int32(next(batch)))
  return in_batches(embed, images, plan.config.eval_batch_size)


def read(workdir: Path, data_dir: str) -> Replayed:
  """Reads a run's frozen models, and its images task by task. Raises UserError if there are none."""
  config = load_snapshot(workdir)[0]
  config = changed(config, {'data.dir': data_dir or config.data.dir, 'devices': 1})
  plan = build(config)
  count, size = plan.schedule.tasks.num_tasks, config.eval_batch_size
  models = [load_snapshot(workdir, task)[2].model for task in range(count)]
  embed = lambda images: np.asarray(in_batches(partial(plan.steps.embed, models[-1]), images, size))
  tasks, features, labels = [], [], []
  for task in range(count):
    images, of_images = plan.stream.task(task).decode()
    samples = by_both(plan, task, models[max(task - 1, 0)], models[task], images)
    classes = Classes(plan.schedule.tasks.task_of_class, np.int32(task))
    tasks.append(rows_of_task(of_images, *samples, max(plan.stream.sizes)) | {'classes': classes})
    features.append(embed(images))
    labels.append(of_images)
  known = np.concatenate(features)[:, None]
  everything: dict[str, Any] = rows_of_task(np.concatenate(labels), known, known, len(known))
  everything['classes'] = Classes(np.minimum(plan.schedule.tasks.task_of_class // count, 1), np.int32(0))
  test = plan.stream.test(count - 1)
  tested, head = embed(test.decode()[0]), models[-1].params['head']
  own = np.argmax(
    (tested @ np.asarray(head['kernel']) + np.asarray(head['bias']))[:, : sum(plan.schedule.tasks.sizes)], axis=1
  )
  settings = {name: value for name, value in config.gaussians.to_dict().items() if name in SETTINGS}
  return Replayed(tasks, everything, tested, test.labels, own == test.labels, settings)


@partial(jax.jit, static_argnums=0)
def _end_task(measured: str, numbers: dict[str, float], task: TaskEnd) -> dict[str, jax.Array]:
  return class_gaussians.end_task(SimpleNamespace(measured=measured, **numbers), task)


def carry(tasks: list[dict[str, Any]], settings: dict[str, Any]) -> Statistics:
  """The statistics after these tasks."""
  numbers = {name: float(value) for name, value in settings.items() if name != 'measured'}
  width, classes = tasks[0]['new'].shape[1], len(tasks[0]['classes'].task_of_class)
  statistics = class_gaussians.init(width, classes, numbers['own_share'])
  for task in tasks:
    statistics = _end_task(settings['measured'], numbers, TaskEnd(**task, statistics=statistics))
  return jax.device_get(statistics)


def accuracy(run: Replayed, statistics: Statistics) -> float:
  """The share of test images whose class the statistics tell, among all classes that they hold."""
  seen = np.any(statistics['means'], axis=1)
  logits = jnp.where(seen[None], class_gaussians.scores(jnp.asarray(run.tested), statistics), -jnp.inf)
  return float(np.mean(np.asarray(jnp.argmax(logits, axis=1)) == run.labels))


def drift(run: Replayed, statistics: Statistics) -> float:
  """Mean distance of carried from true means of the old classes, in deviations of the class."""
  apart = []
  for c in np.flatnonzero(run.tasks[-1]['classes'].old):
    mine = run.everything['new'][run.everything['there'] & (run.everything['labels'] == c)].astype(np.float64)
    apart.append(np.linalg.norm(statistics['means'][c] - mine.mean(0)) / np.sqrt(mine.var(0).sum()))
  return float(np.mean(apart))


def replay(runs: list[Replayed], grid: dict[str, tuple]) -> list[dict[str, Any]]:
  """A record of each combination, with its accuracy and drift in each run; then the two that it lies between."""
  records = []
  for values in itertools.product(*grid.values()):
    setting = dict(zip(grid, values, strict=True))
    found = [carry(run.tasks, run.settings | setting) for run in runs]
    pairs = list(zip(runs, found, strict=True))
    measures = {'accuracy': [accuracy(*pair) for pair in pairs], 'drift': [drift(*pair) for pair in pairs]}
    records.append({'what': 'carried', 'setting': setting} | measures)
  limits = [accuracy(run, carry([run.everything], run.settings)) for run in runs]
  heads = [float(run.own_hits.mean()) for run in runs]
  return [*records, {'what': 'limit', 'accuracy': limits}, {'what': 'trained head', 'accuracy': heads}]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('workdirs', nargs='+', type=Path, metavar='WORKDIR', help='finished runs')
  parser.add_argument('--grid', nargs='+', default=['gaussians.dreams=1'], metavar='FIELD=V1,V2')
  options.add(parser, 'data_dir', 'output')
  parser.set_defaults(output=Path('runs/replay.jsonl'))


def main(arguments: argparse.Namespace) -> None:
  grid = {field.removeprefix('gaussians.'): values for field, values in parse_grid(arguments.grid).items()}
  records = replay([read(path, arguments.data_dir) for path in arguments.workdirs], grid)
  of_runs = {'runs': [path.name for path in arguments.workdirs]}
  write(arguments.output, ''.join(json.dumps(of_runs | record) + '\n' for record in records))
  words = lambda record: ', '.join(f'{k}={v}' for k, v in record.get('setting', {}).items()) or record['what']
  apart = lambda record: f'{np.mean(record["drift"]):.2f}' if 'drift' in record else '-'
  rows = [(words(one), mean_std(one['accuracy']), apart(one)) for one in records]
  print(table(('setting', 'final accuracy %', 'drift of means'), rows))
