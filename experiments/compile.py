"""Steps compiled for hardware that is not here: python -m experiments compile --topology=h100 [--steps=abd,base]

Compiles the steps of configs/cifar100.py, as a run does, and writes what the compiler says of one step to --output:
kernels by kind and by the model's part, collectives and their bytes, FLOPs and bytes moved (TPU only), memory, donated
arrays that are reused, seconds. No device is needed: for TPU libtpu (pip install -r requirements-aot-tpu.txt), for
NVIDIA the CUDA wheels (requirements-aot-cuda.txt), each in an environment of its own.

Topologies: h100, h100x8 and so on; v5e:1x1, v5e:2x4 (one host), v6e:4x4, v5p:2x2x2 and so on, as TPU slices are named.
Kernels of a GPU are not autotuned without one: they can be counted, but are not all those that would run. Each step is
compiled in a process of its own, for compilers crash; it takes minutes.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abd_jax import methods
from abd_jax.config import Config
from abd_jax.devices.backend import pin_numbers
from abd_jax.devices.environment import environment
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.report.tables import table
from abd_jax.state import Classes, PhaseData, TrainState, freeze
from abd_jax.steps.chunks import Chunk, Step
from abd_jax.steps.components import Components, make_components
from abd_jax.steps.inputs import ConstantRate, EpochIndices
from abd_jax.steps.inversion import init_generator, make_inversion_step
from abd_jax.steps.student import init_student, make_train_step
from experiments import hlo, options
from experiments.files import RESULTS, read_json, write_json
from experiments.jobs import load_config
from experiments.steps import CLASSES, IMAGE, PRECISIONS, TASK_IMAGES

STEPS = ('base', 'abd', 'inversion')
PyTree = Any
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',  # what this process runs is shapes
  'JAX_ENABLE_COMPILATION_CACHE': 'false',  # these programs are no run's
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # otherwise a lock file lets one process at a time load libtpu
  'TPU_SKIP_MDS_QUERY': '1',  # no metadata server is asked what TPU this is
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TF_CPP_MIN_LOG_LEVEL': '2',
}


def devices_of(topology: str) -> list[Any]:
  """The devices of a topology, which only a compiler can use. Raises UserError if there is no compiler for it."""
  from jax.experimental import topologies

  gpus = re.fullmatch(r'h100(?:x(\d+))?', topology)
  chips = re.fullmatch(r'(v\d\w*):(\d+(?:x\d+)*)', topology)
  extra = 'cuda' if gpus else 'tpu'
  try:
    if gpus:
      config = (Path(__file__).parent / 'h100.txtpb').read_text()
      found = topologies.get_topology_desc(platform='cuda', target_config=config, topology=f'1x1x{gpus.group(1) or 1}')
    elif chips:
      found = topologies.get_topology_desc(topology, platform='tpu', **_tpu_options(*chips.groups()))
    else:
      raise UserError(f"--topology='{topology}' is neither 'h100', 'h100x8' nor a TPU slice such as 'v5e:2x4'.")
  except UserError:
    raise
  except Exception as error:  # of the kinds that each compiler raises
    why = ' '.join(str(error).split())[:200]
    raise UserError(
      f"nothing here compiles for '{topology}' ({why}). `pip install -r requirements-aot-{extra}.txt`."
    ) from error
  return found.devices


def _tpu_options(generation: str, shape: str) -> dict[str, Any]:
  """Slices of one chip, and 2x4, are one host; a chip of v4 is one device, as JAX shows it on the machine."""
  sides = [int(side) for side in shape.split('x')]
  one_host = sides == [2, 4] or max(sides) == 1
  bounds = {'chips_per_host_bounds': (*sides, 1, 1)[:3]} if one_host else {}
  return bounds | ({'chip_config_name': 'megacore'} if generation == 'v4' else {})


def abstract(mesh: DataMesh, tree: PyTree) -> PyTree:
  """Shapes of the tree, laid whole on every device."""
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=mesh.replicated), tree)


def step_of(
  name: str, config: Config, components: Components, student: TrainState, generator: TrainState, steps: int
) -> tuple[Step, TrainState, PyTree, PhaseData]:
  """(step, state, inputs of `steps` steps, data) of a kind of step, on the second of ten tasks."""
  classes, teacher = Classes(np.zeros(CLASSES, np.int32), np.int32(1)), freeze(student, generator)
  data = PhaseData(None, None, classes, (teacher,), np.uint32(0))
  if name == 'inversion':
    return make_inversion_step(components, config.inversion), generator, ConstantRate(config.inversion)(0, steps), data
  phase = methods.get(config).later[0]
  inputs = EpochIndices((0, 1, 0), np.arange(TASK_IMAGES), config.student.batch_size, phase)(0, steps)
  images, labels = np.empty((TASK_IMAGES, *IMAGE), np.uint8), np.zeros(TASK_IMAGES, np.int32)
  teachers = (teacher,) * max(phase.teachers, int(phase.dreams))
  return (
    make_train_step(components, phase),
    student,
    inputs,
    data.replace(images=images, labels=labels, teachers=teachers),
  )


def compiled(devices: list[Any], name: str, precision: str, scan_steps: int) -> dict[str, Any]:
  """What the compiler says of one step; scan_steps: of the chunk that it is in, 0 for the step by itself."""
  pin_numbers()
  mesh = DataMesh(devices)
  config = load_config('cifar100', '' if name == 'inversion' else f'method={name}', {'precision': precision})
  components = make_components(config, CLASSES, IMAGE, mesh)
  student = abstract(mesh, jax.eval_shape(lambda: init_student(components, IMAGE, None, 0)))
  generator = abstract(mesh, jax.eval_shape(lambda: init_generator(components, 0, 0)))
  step, state, inputs, data = step_of(name, config, components, student, generator, scan_steps or 1)
  began = time.perf_counter()
  chunk = Chunk(step, scan_steps=scan_steps, out_sharding=mesh.replicated)
  lowered = chunk.lower(state, inputs, abstract(mesh, data))
  seconds = {'lower': time.perf_counter() - began}
  began, used = time.perf_counter(), _cpu_seconds()
  program = lowered.compile()
  seconds |= {'compile': time.perf_counter() - began, 'compile_cpu': _cpu_seconds() - used}
  memory, cost = program.memory_analysis(), program.cost_analysis() or {}  # a GPU's has no costs
  return {
    'device': devices[0].device_kind,
    'devices': len(devices),
    'hosts': len({device.process_index for device in devices}),
    'seconds': {part: round(value, 1) for part, value in seconds.items()},
    'bytes_a_device': {
      part: getattr(memory, f'{part}_size_in_bytes') for part in ('argument', 'output', 'alias', 'temp')
    },
    'gflop_a_device': cost.get('flops', 0) / 1e9 or None,
    'gb_moved_a_device': cost.get('bytes accessed', 0) / 1e9 or None,
    'donated': len(jax.tree.leaves(state)),
    **hlo.read(program.as_text() or ''),
  }


def _cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def in_a_process(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
  """{'row': what `compiled` gives there, 'about': versions and commit}, or {'error': why not}."""
  same = [f'--{key}={getattr(arguments, key)}' for key in ('topology', 'precision', 'scan_steps')]
  command = [sys.executable, '-m', 'experiments', 'compile', *same, f'--steps={name}', '--here']
  ended = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
  if ended.returncode < 0:
    return {'error': f'the compiler crashed, signal {-ended.returncode}'}
  if ended.returncode:
    return {'error': (ended.stderr.strip().splitlines() or ['no word of why'])[-1].removeprefix('error: ')}
  return json.loads(ended.stdout.splitlines()[-1])


COLUMNS = ('kernels', 'collectives', 'their kB', 'GB moved', 'temporaries MB')


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
  """What COLUMNS name, of one step on one device."""
  collectives, moved, temporaries = row['collectives'], row['gb_moved_a_device'], row['bytes_a_device']['temp']
  return (
    str(row['kernels']),
    str(collectives['count']),
    f'{collectives["bytes"] / 1e3:.0f}',
    f'{moved:.2f}' if moved else '-',
    f'{temporaries / 1e6:.0f}',
  )


def render(results: dict[str, Any]) -> str:
  """A table of what this verb wrote."""
  return table(('step', *COLUMNS), [[row['step'], *_cells(row)] for row in results['rows']])


def compared(folder: Path) -> str:
  """A table of each compile_<topology>_after.json beside the one named before."""
  cells = []
  for file in sorted(folder.glob('compile_*_after.json')):
    before, after = read_json(file.with_name(file.name.replace('after', 'before'))), read_json(file)
    old = {row['step']: row for row in before['rows']}
    for row in after['rows']:
      pairs = zip(_cells(old[row['step']]), _cells(row), strict=True)
      shown = [one if one == other else f'{one} → {other}' for one, other in pairs]
      cells.append([after['topology'], row['step'], *shown])
  return table(('hardware', 'step', *COLUMNS), cells)


def _steps(text: str) -> tuple[str, ...]:
  names = tuple(text.split(','))
  if unknown := [name for name in names if name not in STEPS]:
    raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(STEPS)}")
  return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--topology', required=True, metavar='NAME', help='h100, h100x8, v5e:2x4, v6e:4x4, ...')
  parser.add_argument('--steps', type=_steps, default=STEPS, metavar='NAMES', help='base,abd,inversion')
  parser.add_argument('--precision', choices=PRECISIONS, default='bfloat16')
  parser.add_argument(
    '--scan_steps', type=options.whole(0), default=100, metavar='N', help='of a chunk; 0: the step by itself'
  )
  parser.add_argument('--here', action='store_true', help=argparse.SUPPRESS)  # in this process, to standard output
  options.add(parser, 'output', output=RESULTS / 'compile_<topology>.json')


def main(arguments: argparse.Namespace) -> None:
  if arguments.here:
    (name,) = arguments.steps
    row = compiled(devices_of(arguments.topology), name, arguments.precision, arguments.scan_steps)
    about = environment()
    print(json.dumps({'row': row, 'about': {key: about[key] for key in ('versions', 'commit')}}))
    return
  same = {key: getattr(arguments, key) for key in ('topology', 'precision', 'scan_steps')}
  rows, about = [], {}
  for name in arguments.steps:
    found = in_a_process(arguments, name)
    if 'error' in found:
      raise UserError(f'{name} is not compiled for {arguments.topology}: {found["error"]}')
    row, about = found['row'], found['about']
    rows.append({'step': name} | row)
    print(f'{name}: {row["kernels"]} kernels, {row["seconds"]["compile"]:.0f} s', flush=True)
  results = {'schema_version': 1, **same, 'rows': rows, **about}
  name = arguments.output.name.replace('<topology>', arguments.topology.replace(':', '_'))
  write_json(arguments.output.with_name(name), results)
  print(render(results))
