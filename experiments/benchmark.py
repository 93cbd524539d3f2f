"""What a step costs: python -m experiments benchmark [--rounds=5] [--output=FILE]

Times the steps of configs/cifar100.py on random images, on whatever device is here: plain cross-entropy (Base),
Always Be Dreaming from task 2 on, inversion, and evaluation; in float32 and bfloat16. One process measures all of
them in turns, so that their ratios hold on a machine that others use too. FLOPs are XLA's count of a step, memory that
of the compiled one; ceilings are what a large matrix product and a copy reach here.

--forms times instead each form of an operation that this device is given against the plain one (models/kernels.py).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from abd_jax.devices.backend import full_precision_matmul
from abd_jax.devices.environment import environment
from abd_jax.devices.mesh import DataMesh
from abd_jax.models.kernels import Kernels, kernels_for
from abd_jax.report.tables import table
from experiments import options
from experiments.files import RESULTS, write_json
from experiments.jobs import load_config
from experiments.steps import PRECISIONS, Kind, flops, kinds

STEPS = ('base', 'abd', 'inversion', 'evaluation')


def measure(functions: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
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


def _scan_steps() -> int:
  return 0 if jax.default_backend() == 'cpu' else load_config('cifar100').chunk_steps


def benchmark(rounds: int, fields: dict | None = None) -> dict:
  """Everything that is measured, as written to the JSON file; fields: of the config, over its own."""
  scan_steps = _scan_steps()
  reached, compiled, counted = ceilings(rounds), {}, flops(fields or {})
  for precision in PRECISIONS:
    for name, kind in kinds((fields or {}) | {'precision': precision}, scan_steps).items():
      compiled[name, precision] = kind
  spent = measure({key: kind.run for key, kind in compiled.items()}, rounds)
  seconds = {key: spent[key] / kind.steps for key, kind in compiled.items()}
  rows = []
  for (name, precision), kind in compiled.items():
    step, base = seconds[name, precision], ('base', precision)
    row = {'step': name, 'precision': precision} | _cost(kind, counted[name], step, reached[precision])
    row |= {'times_base': step / seconds[base], 'flops_times_base': counted[name] / counted['base']}
    rows.append(row)
  return {
    'schema_version': 1,
    'rounds': rounds,
    'scan_steps': scan_steps,
    'overrides': fields or {},
    'ceilings': reached,
    'rows': rows,
    **environment(),
  }


def _cost(kind: Kind, counted: float, seconds: float, ceiling: float) -> dict[str, float]:
  """Of a step of `counted` FLOPs that takes `seconds`; ceiling: FLOP/s reached by a matrix product."""
  return {
    'ms': 1e3 * seconds,
    'images_per_second': kind.images / seconds,
    'gflop': counted / 1e9,
    'compiled_gflop': kind.flops / 1e9,
    'fraction_of_matrix_ceiling': counted / seconds / ceiling,
    'memory_mb': kind.memory_bytes / 1e6,
    'compile_seconds': kind.compile_seconds,
  }


def forms(rounds: int, fields: dict | None = None) -> dict:
  """Milliseconds of every kind of step: with the forms that this device is given, with none, and without each."""
  fields = {'precision': 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'} | (fields or {})
  given, plain = kernels_for(DataMesh(jax.devices())), Kernels()
  chosen = {'all': given, 'none': plain}
  for name, form in plain._asdict().items():
    if getattr(given, name) != form:
      chosen[f'without {name}'] = given._replace(**{name: form})
  compiled = {}
  for name, kernels in chosen.items():
    for step, kind in kinds(fields, _scan_steps(), kernels).items():
      compiled[name, step] = kind
  spent = measure({key: kind.run for key, kind in compiled.items()}, rounds)
  rows = [
    {'forms': name} | {step: 1e3 * spent[name, step] / compiled[name, step].steps for step in STEPS} for name in chosen
  ]
  return {'schema_version': 1, 'rounds': rounds, 'overrides': fields, 'rows': rows, **environment()}


def render_forms(results: dict) -> str:
  """A table of the JSON of `forms`, in milliseconds."""
  cells = [[row['forms'], *(f'{row[step]:.4g}' for step in STEPS)] for row in results['rows']]
  return table(('forms', *(f'{step} ms' for step in STEPS)), cells)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--rounds', type=options.whole(1), default=5, metavar='N', help='how often each step is timed')
  parser.add_argument('--forms', action='store_true', help='time the forms of operations against the plain ones')
  options.add(parser, 'output', output=RESULTS / '<what>_<backend>.json')


def main(arguments: argparse.Namespace) -> None:
  measured, rendered, what = (forms, render_forms, 'forms') if arguments.forms else (benchmark, render, 'benchmark')
  found = measured(arguments.rounds)
  name = arguments.output.name.replace('<what>', what).replace('<backend>', jax.default_backend())
  write_json(arguments.output.with_name(name), found)
  print(rendered(found))
