"""Steps compiled for hardware that is not here, from shapes alone: kernels, collectives, memory, bytes moved.

The compiler of TPUs is libtpu (requirements-aot-tpu.txt), that of NVIDIA is in the CUDA wheels
(requirements-aot-cuda.txt); each wants an environment of its own. Every step is compiled in a process of its own,
because compilers crash.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abd_jax.devices.backend import pin_numbers
from abd_jax.devices.environment import environment
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.report.tables import table
from abd_jax.steps.chunks import Chunk
from experiments import steps

SCAN = 100  # steps of a chunk, in which accelerators run them
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',  # this process computes only shapes
  'JAX_ENABLE_COMPILATION_CACHE': 'false',  # no run uses these programs
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # otherwise a lock file lets one process at a time load libtpu
  'TPU_SKIP_MDS_QUERY': '1',  # asks no metadata server which TPU this is
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TF_CPP_MIN_LOG_LEVEL': '2',
}


def devices_of(topology: str) -> list[Any]:
  """The devices of a topology, for a compiler only. Raises UserError if there is no compiler for it."""
  from jax.experimental import topologies

  gpus = re.fullmatch(r'h100(?:x(\d+))?', topology)
  chips = re.fullmatch(r'(v\d\w*):(\d+(?:x\d+)*)', topology)
  if not (gpus or chips):
    raise UserError(f"expected --topology=h100, h100x8 or a TPU slice such as v5e:2x4, got '{topology}'")
  try:
    if gpus:
      config = (Path(__file__).parent / 'h100.txtpb').read_text()
      found = topologies.get_topology_desc(platform='cuda', target_config=config, topology=f'1x1x{gpus.group(1) or 1}')
    else:
      assert chips
      found = topologies.get_topology_desc(topology, platform='tpu', **_tpu_options(*chips.groups()))
  except Exception as error:  # each compiler raises its own kind
    why = ' '.join(str(error).split())[:200]
    extra = 'cuda' if gpus else 'tpu'
    raise UserError(f"cannot compile for '{topology}' ({why}); pip install -r requirements-aot-{extra}.txt") from error
  return found.devices


def _tpu_options(generation: str, shape: str) -> dict[str, Any]:
  """Slices of one chip, and 2x4, are one host; a chip of v4 is one device, as JAX shows it on the machine."""
  sides = [int(side) for side in shape.split('x')]
  one_host = sides == [2, 4] or max(sides) == 1
  bounds = {'chips_per_host_bounds': (*sides, 1, 1)[:3]} if one_host else {}
  return bounds | ({'chip_config_name': 'megacore'} if generation == 'v4' else {})


def compiled(devices: list[Any], name: str, fields: dict, scan_steps: int) -> dict[str, Any]:
  """What the compiler says of one step in a scan of so many, or by itself if 0."""
  pin_numbers()
  here = steps.setting(fields, devices, steps.TASK_IMAGES, only_shapes=True)
  part = steps.parts(here, scan_steps or 1)[name]
  began = time.perf_counter()
  chunk = Chunk(part.step, scan_steps=scan_steps, out_sharding=DataMesh(devices).replicated)
  lowered = chunk.lower(part.state, part.inputs, part.data)
  lowering, began = time.perf_counter() - began, time.perf_counter()
  program = lowered.compile()
  return {
    'device': devices[0].device_kind,
    'devices': len(devices),
    'hosts': len({device.process_index for device in devices}),
    'seconds': {'lower': round(lowering, 1), 'compile': round(time.perf_counter() - began, 1)},
    **steps.said(program, part.state),
  }


def compile_all(topology: str, names: Sequence[str], precision: str) -> dict[str, Any]:
  """Compiles the named steps; returns the content of the JSON file. Raises UserError if one cannot be compiled."""
  if unknown := set(names) - set(steps.STEPS):
    raise UserError(f"expected some of {','.join(steps.STEPS)}, got '{unknown.pop()}'")
  rows, about = [], {}
  for name in names:
    found = _in_a_process(topology, name, precision)
    row, about = found['row'], found['about']
    rows.append({'step': name} | row)
    print(f'{name}: {row["kernels"]} kernels, {row["seconds"]["compile"]:.0f} s', flush=True)
  return {'schema_version': 1, 'topology': topology, 'precision': precision, 'scan_steps': SCAN, 'rows': rows, **about}


def _in_a_process(topology: str, name: str, precision: str) -> dict[str, Any]:
  """Runs this file in a process and reads what it prints. Raises UserError if the process fails."""
  command = [sys.executable, '-m', 'experiments.ahead', topology, name, precision]
  ended = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
  if ended.returncode == 0:
    return json.loads(ended.stdout.splitlines()[-1])
  why = (ended.stderr.strip().splitlines() or ['no message'])[-1]
  if ended.returncode < 0:
    why = f'the compiler crashed with signal {-ended.returncode}'
  raise UserError(f'cannot compile {name} for {topology}: {why}')


def render(found: list[dict[str, Any]]) -> str:
  """A table of several topologies: one step on one device."""
  header = ('hardware', 'step', 'kernels', 'collectives', 'their kB', 'GB moved', 'temporaries MB')
  rows = []
  for topology, row in [(one['topology'], row) for one in found for row in one['rows']]:
    counts, moved = (row['kernels'], row['collectives']['count']), row['gb_moved_a_device']
    megabytes = f'{row["bytes_a_device"]["temp"] / 1e6:.0f}'
    kilobytes = f'{row["collectives"]["bytes"] / 1e3:.0f}'
    rows.append([topology, row['step'], *map(str, counts), kilobytes, f'{moved:.2f}' if moved else '-', megabytes])
  return table(header, rows)


if __name__ == '__main__':
  _topology, _name, _precision = sys.argv[1:]
  try:
    _row = compiled(devices_of(_topology), _name, {'precision': _precision}, SCAN)
  except UserError as error:
    sys.exit(str(error))
  _about = environment()
  print(json.dumps({'row': _row, 'about': {key: _about[key] for key in ('versions', 'commit')}}))
