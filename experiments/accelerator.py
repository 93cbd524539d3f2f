"""Everything a fresh GPU host is for: python -m experiments accelerator --data_dir=DIR --max_seconds=1500

In this order, each line printed as it comes: the numbers of one ABD and one inversion step against this host's CPU, the
benchmark of the steps, and that of the forms of operations that this device is given against the plain ones, all three
written to --output; then the ten-task protocol on CIFAR-100, all in float32 before any
in bfloat16, whose results land in --results under the names that `table` looks for. The same command resumes it, given
the same --output and --runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abd_jax import methods
from abd_jax.devices.backend import full_precision_matmul, use_compilation_cache
from abd_jax.devices.environment import environment
from abd_jax.run import queue
from abd_jax.run.queue import Job
from abd_jax.steps.inversion import make_inversion_step
from abd_jax.steps.student import make_train_step
from experiments import benchmark, options, runs
from experiments.files import read_json, write_json
from experiments.jobs import CACHE, tell
from experiments.plan import Planned, ad_hoc, plan
from experiments.steps import PRECISIONS, setting

METHODS = ('abd', 'lwf', 'base')
# A smaller network and batch, so that a CPU is not long about it.
CHECKED = {'model.blocks': (1, 1, 1), 'student.batch_size': 16, 'inversion.batch_size': 32}


def one_step(device: Any, fields: dict) -> dict[str, np.ndarray]:
  """Parameters and statistics f64[n] after one ABD and one inversion step on `device`."""
  with jax.default_device(device):
    here = setting(CHECKED | fields, [device], 64)
    phase = methods.get(here.config).later[0]
    first = jax.tree.map(lambda leaf: leaf[0], here.rows(phase, 0, 1))
    train = jax.jit(full_precision_matmul(make_train_step(here.components, phase)))
    invert = jax.jit(full_precision_matmul(make_inversion_step(here.components, here.config.inversion)))
    states = {
      'abd': train(here.student, first, here.data)[0],
      'inversion': invert(here.generator, np.float32(1e-3), here.data)[0],
    }
  flat = lambda state: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves((state.params, state.batch_stats))])
  return {name: flat(state).astype(np.float64) for name, state in states.items()}


def check_numbers(fields: dict | None = None) -> dict:
  """Relative difference (L2, over parameters and statistics) of each step from float32 on this host's CPU."""
  fields = fields or {}
  expected = one_step(jax.devices('cpu')[0], fields | {'precision': 'float32'})
  rows = {}
  for precision in PRECISIONS:
    for name, found in one_step(jax.devices()[0], fields | {'precision': precision}).items():
      row = f'{name}, {precision}'
      rows[row] = float(np.linalg.norm(found - expected[name]) / np.linalg.norm(expected[name]))
      print(f'{row}: {rows[row]:.2g} from float32 on the CPU', flush=True)
  return {'schema_version': 1, 'relative_difference': rows, **environment()}


def timed() -> dict:
  found = benchmark.benchmark(rounds=5)
  print(benchmark.render(found), flush=True)
  return found


def forms() -> dict:
  found = benchmark.forms(rounds=5)
  print(benchmark.render_forms(found), flush=True)
  return found


def planned(arguments: argparse.Namespace) -> list[Planned]:
  """The runs of the protocol, all of float32 first: those without an override, as the tables have them."""
  found = []
  for precision in PRECISIONS:
    table = ad_hoc(arguments.rows, arguments.config, () if precision == 'float32' else (('precision', precision),))
    found += plan(table, arguments.config, arguments.trials, arguments.quick)
  return found


def once(name: str, make: Callable[[], dict], folder: Path) -> Job:
  """Writes what `make` finds to a file of its own, unless that is there."""
  file = folder / f'{name}_{jax.default_backend()}.json'

  def run(_: float) -> dict:
    if not file.exists():
      write_json(file, make())
      print(f'wrote {file}', flush=True)
    return read_json(file)

  return Job(name, run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'rows', rows=METHODS)
  runs.add_arguments(parser)
  parser.set_defaults(config='cifar100', trials=1, output=Path('runs/accelerator'))


def main(arguments: argparse.Namespace) -> None:
  use_compilation_cache(str((arguments.output / CACHE).absolute()))  # of what is interrupted and begun again
  checks = [
    once(name, make, arguments.output)
    for name, make in (('numbers', check_numbers), ('benchmark', timed), ('forms', forms))
  ]
  protocol = planned(arguments)
  jobs = checks + runs.jobs(protocol, arguments)[: arguments.max_runs]
  queue.execute(jobs, arguments.max_seconds, tell=tell).complete()
  runs.tell_missing(protocol, arguments.results)
