"""What the steps of configs/cifar100.py cost on the devices of this machine: python -m experiments hardware

Steps: plain cross-entropy (base), Always Be Dreaming from task 2 on (abd), inversion, evaluation; random images. In
float32 and bfloat16 it compares one ABD and one inversion step with this machine's CPU in float32, then times every
step and counts FLOPs, memory, kernels and collectives. The steps take turns in one process, so that their ratios hold
on a machine that others use too.

  --forms           times each form of an operation that this device gets against the plain one (models/kernels.py)
  --full            then runs the ten tasks of CIFAR-100, float32 first; `table` finds the results in --results;
                    the same command resumes, within --max_seconds
  --topology=h100   compiles the steps for hardware that is not here (h100x8, v5e:2x4, v6e:4x4, v5p:2x2x2, ...)
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import methods
from abd_jax.config import load_config
from abd_jax.devices.backend import full_precision_matmul, use_compilation_cache
from abd_jax.devices.environment import environment
from abd_jax.devices.mesh import DataMesh
from abd_jax.models.kernels import Kernels, kernels_for
from abd_jax.report.tables import table
from abd_jax.run import queue
from abd_jax.steps.inversion import make_inversion_step
from abd_jax.steps.student import make_train_step
from experiments import ahead, options, runs, steps
from experiments.plan import Planned, ad_hoc, plan
from experiments.runs import CACHE, tell
from experiments.steps import PRECISIONS, STEPS, Kind
from experiments.store import write_json

METHODS = ('abd', 'lwf', 'base')
# A smaller network and batch, so that the CPU takes seconds.
CHECKED = {'model.blocks': (1, 1, 1), 'student.batch_size': 16, 'inversion.batch_size': 32}


def one_step(device: Any, fields: dict) -> dict[str, np.ndarray]:
  """Parameters and statistics f64[n] after one ABD and one inversion step on `device`."""
  with jax.default_device(device):
    here = steps.setting(CHECKED | fields, [device], 64)
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


def check_numbers(fields: dict) -> dict[str, float]:
  """Relative difference (L2, over parameters and statistics) of each step from float32 on this machine's CPU."""
  expected = one_step(steps.cpu_device(), fields | {'precision': 'float32'})
  rows = {}
  for precision in PRECISIONS:
    for name, found in one_step(jax.devices()[0], fields | {'precision': precision}).items():
      row = f'{name}, {precision}'
      rows[row] = float(np.linalg.norm(found - expected[name]) / np.linalg.norm(expected[name]))
      tell(f'{row}: relative difference {rows[row]:.2g} from float32 on the CPU')
  return rows


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


def measure_steps(rounds: int, fields: dict) -> dict:
  """The content of the JSON file; fields: of the config, over its own."""
  scan_steps, differences = _scan_steps(), check_numbers(fields)
  reached, counted, compiled = ceilings(rounds), steps.flops(fields), {}
  for precision in PRECISIONS:
    for name, kind in steps.kinds(fields | {'precision': precision}, scan_steps).items():
      compiled[name, precision] = kind
  spent = measure({key: kind.run for key, kind in compiled.items()}, rounds)
  seconds = {key: spent[key] / kind.steps for key, kind in compiled.items()}
  rows = []
  for (name, precision), kind in compiled.items():
    step, base = seconds[name, precision], ('base', precision)
    row = {'step': name, 'precision': precision} | _cost(kind, counted[name], step, reached[precision])
    row |= {'times_base': step / seconds[base], 'flops_times_base': counted[name] / counted['base']}
    rows.append(row | kind.program)
  return {
    'schema_version': 1,
    'rounds': rounds,
    'scan_steps': scan_steps,
    'overrides': fields,
    'ceilings': reached,
    'relative_difference': differences,
    'rows': rows,
    **environment(),
  }


def _cost(kind: Kind, counted: float, seconds: float, ceiling: float) -> dict[str, float]:
  """The cost of a step of `counted` FLOPs that takes `seconds`; ceiling: FLOP/s reached by a matrix product."""
  size = kind.program['bytes_a_device']
  return {
    'ms': 1e3 * seconds,
    'images_per_second': kind.images / seconds,
    'gflop': counted / 1e9,
    'fraction_of_matrix_ceiling': counted / seconds / ceiling,
    'memory_mb': (size['argument'] + size['output'] + size['temp'] - size['alias']) / 1e6,
    'compile_seconds': kind.compile_seconds,
  }


def measure_forms(rounds: int, fields: dict) -> dict:
  """Milliseconds of every kind of step: with the forms that this device gets, with none, and without each."""
  fields = {'precision': 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'} | fields
  given, plain = kernels_for(DataMesh(jax.devices())), Kernels()
  chosen = {'all': given, 'none': plain}
  for name, form in plain._asdict().items():
    if getattr(given, name) != form:
      chosen[f'without {name}'] = given._replace(**{name: form})
  compiled = {}
  for name, kernels in chosen.items():
    for step, kind in steps.kinds(fields, _scan_steps(), kernels).items():
      compiled[name, step] = kind
  spent = measure({key: kind.run for key, kind in compiled.items()}, rounds)
  rows = [
    {'forms': name} | {step: 1e3 * spent[name, step] / compiled[name, step].steps for step in STEPS} for name in chosen
  ]
  return {'schema_version': 1, 'rounds': rounds, 'overrides': fields, 'rows': rows, **environment()}


def render_forms(found: dict) -> str:
  """A table of the JSON of `measure_forms`, in milliseconds."""
  cells = [[row['forms'], *(f'{row[step]:.4g}' for step in STEPS)] for row in found['rows']]
  return table(('forms', *(f'{step} ms' for step in STEPS)), cells)


# Header of the table of steps -> (key of a row, format, factor).
COLUMNS = {
  'ms': ('ms', '.4g', 1),
  'images/s': ('images_per_second', '.0f', 1),
  'GFLOP': ('gflop', '.1f', 1),
  '% of ceiling': ('fraction_of_matrix_ceiling', '.1f', 100),
  'MB': ('memory_mb', '.0f', 1),
  'compile s': ('compile_seconds', '.0f', 1),
  'x base': ('times_base', '.2f', 1),
  'FLOPs x base': ('flops_times_base', '.2f', 1),
}


def render(found: dict) -> str:
  """A table of the JSON of `measure_steps`."""
  numbers = lambda row: [f'{factor * row[key]:{form}}' for key, form, factor in COLUMNS.values()]
  cells = [[row['step'], row['precision'], *numbers(row)] for row in found['rows']]
  return table(('step', 'precision', *COLUMNS), cells)


def protocol(arguments: argparse.Namespace) -> list[Planned]:
  """The runs of --full, all in float32 before any in bfloat16; named as `table` names them."""
  found = []
  for precision in PRECISIONS:
    overrides = () if precision == 'float32' else (('precision', precision),)
    asked = ad_hoc(arguments.rows, arguments.config, overrides)
    found += plan(asked, arguments.config, arguments.trials, arguments.variant)
  return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--rounds', type=options.at_least(1), default=5, metavar='N', help='how often each step is timed')
  parser.add_argument('--forms', action='store_true', help='time the forms of operations against the plain ones')
  parser.add_argument('--full', action='store_true', help='also run the ten tasks; skips what has been measured')
  parser.add_argument('--topology', default='', metavar='NAME', help='h100, h100x8, v5e:2x4, v6e:4x4, ...')
  parser.add_argument('--steps', type=options.names, default=STEPS, metavar='NAMES', help='with --topology')
  parser.add_argument('--precision', choices=PRECISIONS, default='bfloat16', help='with --topology')
  options.add(parser, 'rows')
  runs.add_arguments(parser)
  parser.set_defaults(config='cifar100', rows=METHODS, trials=1, output=Path('runs/hardware'))


def main(arguments: argparse.Namespace) -> None:
  if arguments.topology:
    found = ahead.compile_all(arguments.topology, arguments.steps, arguments.precision)
    write_json(arguments.output / f'hardware_{arguments.topology.replace(":", "_")}.json', found)
    return print(ahead.render([found]))
  planned = protocol(arguments) if arguments.full else []  # a mistake shows before hours of work
  if planned:
    use_compilation_cache(str((arguments.output / CACHE).absolute()))
  asked = [('hardware', measure_steps, render)]
  asked += [('forms', measure_forms, render_forms)] * (arguments.forms or arguments.full)
  for name, measured, rendered in asked:
    file = arguments.output / f'{name}_{jax.default_backend()}.json'
    if not (arguments.full and file.exists()):
      found = measured(arguments.rounds, {})
      write_json(file, found)
      print(f'{rendered(found)}\nwrote {file}', flush=True)
  if planned:
    queue.execute(runs.jobs(planned, arguments), arguments.max_seconds, arguments.max_runs, tell).complete()
    runs.tell_missing(planned, arguments.results)
