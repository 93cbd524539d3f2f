"""python -m experiments.accelerator --data_dir=DIR --max_seconds=1500 --output=OUT: everything a fresh GPU host is for.

In this order, writing each result to OUT as it comes: the numbers of one ABD and one inversion step against this
host's CPU; the benchmark of the steps; then the ten-task protocol on CIFAR-100, trial 0, method by method. What does
not fit into max_seconds stays in OUT/runs, and the same command goes on.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from abd_jax import methods
from abd_jax.devices.backend import full_precision_matmul
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import Paused
from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from abd_jax.state import Classes, PhaseData, freeze
from abd_jax.steps.components import make_components
from abd_jax.steps.inputs import EpochIndices
from abd_jax.steps.inversion import init_generator, make_inversion_step
from abd_jax.steps.student import init_student, make_train_step
from experiments import benchmark
from experiments.common import cli, load_config, run

METHODS = ('abd', 'lwf', 'base')
IMAGE, CLASSES = (32, 32, 3), 100
# A smaller network and batch, so that a CPU is not long about it.
CHECKED = {'model.blocks': (1, 1, 1), 'student.batch_size': 16, 'inversion.batch_size': 32}


def one_step(device: jax.Device, precision: str, overrides: dict) -> dict[str, list[np.ndarray]]:
  """Parameters and statistics after one ABD and one inversion step on `device`."""
  config = load_config('cifar100', '', CHECKED | overrides | {'precision': precision})
  mesh = DataMesh([device])
  with jax.default_device(device):
    components = make_components(config, CLASSES, IMAGE, mesh.constrain)
    student, generator = init_student(components, IMAGE, None, 0), init_generator(components, 0, 0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, *IMAGE), np.uint8)
    labels = rng.integers(10, 20, 64).astype(np.int32)
    classes = Classes(np.repeat(np.arange(10, dtype=np.int32), 10), np.int32(1))
    teacher = freeze(init_student(components, IMAGE, None, 1), generator)
    data = mesh.replicate(PhaseData(images, labels, classes, (teacher,), np.uint32(0)))
    phase = methods.get(config).later[0]
    index = EpochIndices((0,), np.arange(64), config.student.batch_size, phase)(0, 1)
    first = jax.tree.map(lambda leaf: leaf[0], index)
    train = jax.jit(full_precision_matmul(make_train_step(components, phase)))
    invert = jax.jit(full_precision_matmul(make_inversion_step(components, config.inversion)))
    states = {
      'abd': train(mesh.replicate(student), first, data)[0],
      'inversion': invert(mesh.replicate(generator), np.float32(1e-3), data)[0],
    }
  return {name: jax.device_get(jax.tree.leaves((s.params, s.batch_stats))) for name, s in states.items()}


def check_numbers(overrides: dict | None = None) -> dict:
  """Relative difference (L2, over parameters and statistics) of each step from float32 on this host's CPU."""
  flat = lambda leaves: np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])
  expected = one_step(jax.devices('cpu')[0], 'float32', overrides or {})
  rows = {}
  for precision in benchmark.PRECISIONS:
    for name, leaves in one_step(jax.devices()[0], precision, overrides or {}).items():
      reference = flat(expected[name])
      rows[f'{name}, {precision}'] = float(np.linalg.norm(flat(leaves) - reference) / np.linalg.norm(reference))
  return {'schema_version': 1, 'relative_difference': rows, **environment()}


def protocol(output: Path, overrides: dict, until: float, name: str = 'cifar100') -> bool:
  """Runs configs/<name>.py with METHODS in turn until `until` on the monotonic clock; whether all are complete."""
  for method in METHODS:
    left = until - time.monotonic()
    if left <= 0:
      return False
    config = load_config(name, f'method={method}', overrides | {'max_seconds': left})
    try:
      results = run(config, output / 'runs' / method)
    except Paused as pause:
      print(pause, file=sys.stderr)
      return False
    results['config']['data']['dir'] = ''  # of this host
    write(output / f'{name}_{method}.json', results)
  return True


def write(file: Path, results: dict) -> None:
  write_atomically(file, json.dumps(results, indent=1) + '\n')
  print(f'wrote {file}', file=sys.stderr)


def main(argv: list[str]) -> None:
  began = time.monotonic()
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--max_seconds', type=float, default=1500.0)
  parser.add_argument('--output', type=Path, default=Path('runs/accelerator'))
  parser.add_argument('--precision', choices=benchmark.PRECISIONS, default='bfloat16', help='of the protocol')
  parser.add_argument('--inversion_steps', type=int, default=10000)
  arguments = parser.parse_args(argv)
  arguments.output.mkdir(parents=True, exist_ok=True)
  backend = jax.default_backend()
  for name, make in (('numbers', check_numbers), ('benchmark', lambda: benchmark.benchmark(rounds=5))):
    file = arguments.output / f'{name}_{backend}.json'
    if not file.exists():
      write(file, make())
  overrides = {
    'data.dir': arguments.data_dir,
    'precision': arguments.precision,
    'inversion.steps': arguments.inversion_steps,
  }
  complete = protocol(arguments.output, overrides, began + arguments.max_seconds)
  print('all complete' if complete else 'not complete: the same command goes on')


if __name__ == '__main__':
  cli(main)
