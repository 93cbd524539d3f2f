"""What a step costs: python -m experiments.benchmark [--rounds=5] [--output=FILE]

Times the steps of configs/cifar100.py on random images, on whatever device is here: plain cross-entropy (Base),
Always Be Dreaming from task 2 on, inversion, and evaluation; in float32 and bfloat16. One process measures all of
them in turns, so that their ratios hold on a machine that others use too. FLOPs and memory are those of one
compiled step, as XLA counts them; ceilings are what a large matrix product and a copy reach here.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import methods
from abd_jax.devices.backend import full_precision_matmul
from abd_jax.devices.mesh import DataMesh
from abd_jax.report.tables import table
from abd_jax.run.environment import environment
from abd_jax.run.workdir import write_atomically
from abd_jax.state import Classes, PhaseData, freeze
from abd_jax.steps.components import make_components
from abd_jax.steps.inputs import ConstantRate, EpochIndices
from abd_jax.steps.inversion import init_generator, make_inversion_step
from abd_jax.steps.student import init_student, make_predict, make_train_step
from experiments.common import RESULTS, load_config

IMAGE, CLASSES, TASK_IMAGES, EVALUATED = (32, 32, 3), 100, 5000, 512
PRECISIONS = ('float32', 'bfloat16')


class Kind(NamedTuple):
  """A compiled kind of step, ready to be timed."""

  run: Callable[[], None]  # `steps` steps, waited for
  steps: int
  images: int  # a step
  flops: float  # a step
  memory_bytes: int  # arguments, results and temporaries of a step
  compile_seconds: float


def kinds(precision: str, scan_steps: int, overrides: dict) -> dict[str, Kind]:
  """Every kind of step, compiled; `scan_steps` of them in one scan, or single ones if 0 (CPU)."""
  config = load_config('cifar100', '', overrides | {'precision': precision})
  mesh = DataMesh(jax.devices())
  components = make_components(config, CLASSES, IMAGE, mesh.constrain)
  student = mesh.replicate(jax.jit(lambda: init_student(components, IMAGE, None, 0))())
  generator = mesh.replicate(jax.jit(lambda: init_generator(components, 0, 0))())
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (TASK_IMAGES, *IMAGE), np.uint8)
  labels = rng.integers(10, 20, TASK_IMAGES).astype(np.int32)
  classes = Classes(np.repeat(np.arange(10, dtype=np.int32), 10), np.int32(1))
  data = mesh.replicate(PhaseData(images, labels, classes, (), np.uint32(0)))
  taught = data.replace(teachers=(freeze(student, generator),))
  steps = scan_steps or 1
  base = methods.get(load_config('cifar100', 'method=base')).first[0]
  abd = methods.get(config).later[0]
  rates = ConstantRate(config.inversion)
  predict = make_predict(components, methods.get(config))

  def evaluate(state, batch, data):
    return state, predict(freeze(state, None), batch, data.classes)

  def prepare(step, state, inputs, data, images):
    return _compile(full_precision_matmul(step), state, inputs, data, images, scan_steps)

  def training(phase, data):
    inputs = EpochIndices((0, 1, 0), np.arange(TASK_IMAGES), config.student.batch_size, phase)
    return prepare(make_train_step(components, phase), student, inputs(0, steps), data, inputs.images_per_step)

  inversion = make_inversion_step(components, config.inversion)
  batches = np.broadcast_to(images[:EVALUATED], (steps, EVALUATED, *IMAGE))
  return {
    'base': training(base, data),
    'abd': training(abd, taught),
    'inversion': prepare(
      inversion, generator, rates(0, steps), taught.replace(images=None, labels=None), rates.images_per_step
    ),
    'evaluation': prepare(evaluate, student, batches, data, EVALUATED),
  }


def _compile(step, state, inputs, data, images: int, scan_steps: int) -> Kind:
  first = jax.tree.map(lambda leaf: leaf[0], inputs)
  began = time.perf_counter()
  single = jax.jit(step).lower(state, first, data).compile()
  seconds = time.perf_counter() - began
  cost, memory = single.cost_analysis(), single.memory_analysis()
  size = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
  run = lambda: jax.block_until_ready(single(state, first, data))
  if scan_steps:
    scan = jax.jit(lambda state, inputs, data: jax.lax.scan(lambda s, x: step(s, x, data), state, inputs))
    began = time.perf_counter()
    scanned = scan.lower(state, inputs, data).compile()
    seconds = time.perf_counter() - began
    run = lambda: jax.block_until_ready(scanned(state, inputs, data))
  return Kind(run, scan_steps or 1, images, cost['flops'], size, seconds)


def measure(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
  """Median seconds of each function, called in turns after one call of each to warm up."""
  times = {name: [] for name in functions}
  for k in range(rounds + 1):
    for name, function in functions.items():
      began = time.perf_counter()
      function()
      if k:
        times[name].append(time.perf_counter() - began)
  return {name: statistics.median(values) for name, values in times.items()}


def ceilings(rounds: int) -> dict[str, float]:
  """FLOP/s of a square matrix product per precision, and bytes/s of a copy (read and written)."""
  on_cpu = jax.default_backend() == 'cpu'
  n, length = (2048, 2**26) if on_cpu else (8192, 2**29)
  multiply = jax.jit(full_precision_matmul(lambda a: a @ a))
  functions, work = {}, {}
  for name in PRECISIONS:
    a = jax.random.normal(jax.random.key(0), (n, n), name)
    functions[name], work[name] = (lambda a=a: jax.block_until_ready(multiply(a))), 2 * n**3
  data = jnp.ones(length, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  functions['bytes'], work['bytes'] = (lambda: jax.block_until_ready(copy(data))), 8 * length
  seconds = measure(functions, rounds)
  return {name: work[name] / seconds[name] for name in functions}


def benchmark(rounds: int, overrides: dict | None = None) -> dict:
  """Everything this module measures, as written to its JSON file."""
  scan_steps = 0 if jax.default_backend() == 'cpu' else 100
  reached = ceilings(rounds)
  compiled = {(name, p): kind for p in PRECISIONS for name, kind in kinds(p, scan_steps, overrides or {}).items()}
  seconds = measure({key: kind.run for key, kind in compiled.items()}, rounds)
  rows = []
  for (name, precision), kind in compiled.items():
    step = seconds[name, precision] / kind.steps
    rows.append(
      {
        'step': name,
        'precision': precision,
        'ms': 1e3 * step,
        'images_per_second': kind.images / step,
        'gflop': kind.flops / 1e9,
        'fraction_of_matrix_ceiling': kind.flops / step / reached[precision],
        'memory_mb': kind.memory_bytes / 1e6,
        'compile_seconds': kind.compile_seconds,
        'times_base': seconds[name, precision] / kind.steps * compiled['base', precision].steps
        / seconds['base', precision],
        'flops_times_base': kind.flops / compiled['base', precision].flops,
      }
    )  # fmt: skip
  return {
    'schema_version': 1,
    'rounds': rounds,
    'scan_steps': scan_steps,
    'overrides': overrides or {},
    'ceilings': reached,
    'rows': rows,
    **environment(),
  }


def render(results: dict) -> str:
  """A table of one benchmark's JSON."""
  header = ('step', 'precision', 'ms', 'images/s', 'GFLOP', '% of ceiling', 'MB', 'compile s', 'x base', 'FLOPs x base')
  cells = [
    [
      row['step'],
      row['precision'],
      f'{row["ms"]:.4g}',
      f'{row["images_per_second"]:.0f}',
      f'{row["gflop"]:.1f}',
      f'{100 * row["fraction_of_matrix_ceiling"]:.1f}',
      f'{row["memory_mb"]:.0f}',
      f'{row["compile_seconds"]:.0f}',
      f'{row["times_base"]:.2f}',
      f'{row["flops_times_base"]:.2f}',
    ]
    for row in results['rows']
  ]
  return table(header, cells)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--output', type=Path, default=RESULTS / f'benchmark_{jax.default_backend()}.json')
  arguments = parser.parse_args()
  found = benchmark(arguments.rounds)
  write_atomically(arguments.output, json.dumps(found, indent=1) + '\n')
  print(render(found))
