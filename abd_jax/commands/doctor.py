"""abd-jax doctor    checks this machine: devices, versions, memory, disk, data, and two steps of each kind

  --data_dir=FOLDER   where prepared data are; default: TFDS's folder
  --workdir=FOLDER    where runs are or will be, for the free space and the pretrained weights there; default: .

Each line that begins with 'look' ends with what to do. Exit code 0: nothing found. 1: something was.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from abd_jax.commands import parse
from abd_jax.errors import UserError, reason

MEMORY, DISK = 4, 2  # GB below which a run of the sizes in configs/ may not fit
# What `self_test` gives on a CPU; other devices differ in the last digits.
EXPECTED = {'ABD, ce': 0.77055, 'ABD, kd': 10.16373, 'ABD, ft': 1.16569, 'inversion, loss': 34.08644}
TOLERANCE = 2e-3


class Finding(NamedTuple):
  """A line of the report. remedy: what to do; '' if nothing."""

  text: str
  remedy: str = ''


def run(words: list[str]) -> int:
  """Prints all findings; returns 1 if one has a remedy."""
  given = parse(__doc__, words, {'data_dir': (), 'workdir': ()})
  bad = 0
  for finding in findings(given.options.get('data_dir', ''), Path(given.options.get('workdir') or '.')):
    bad += bool(finding.remedy)
    print(f'look  {finding.text}. {finding.remedy}' if finding.remedy else f'ok    {finding.text}', flush=True)
  print(f'{bad} to look at' if bad else 'all is well')
  return int(bad > 0)


def findings(data_dir: str, workdir: Path) -> Iterator[Finding]:
  """All findings, the quick ones first."""
  yield from space(workdir)
  yield from data(data_dir)
  try:
    from abd_jax.devices import backend

    there = backend.devices()
  except Exception as error:  # jax refuses a jaxlib of another version; a device that was asked for is missing
    yield Finding('JAX cannot compute here', reason(error, 300))
    return
  idle = there[0].platform == 'cpu' and Path('/dev/nvidiactl').exists()
  yield Finding(
    f'jax {version("jax")}: {len(there)} {there[0].platform} device(s), {there[0].device_kind}, {os.cpu_count()} cores',
    "There is an NVIDIA GPU that JAX does not use: pip install 'abd_jax[cuda]'." if idle else '',
  )
  yield from weights(workdir)
  yield from steps()


def space(workdir: Path) -> Iterator[Finding]:
  """Free memory, and free disk where runs are to live."""
  lines = Path('/proc/meminfo').read_text().splitlines()
  free = next((int(line.split()[1]) / 1e6 for line in lines if line.startswith('MemAvailable')), 0.0)
  few = f'Below {MEMORY} GB the larger configs may not fit: close other programs.'
  yield Finding(f'{free:.1f} GB of memory free', few if free < MEMORY else '')
  folder = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
  free = shutil.disk_usage(folder).free / 1e9
  few = f'Below {DISK} GB checkpoints may not fit: make room, or choose another folder.'
  yield Finding(f'{free:.1f} GB free in {folder}', few if free < DISK else '')


def data(data_dir: str) -> Iterator[Finding]:
  """The prepared data sets, and the number of images in each."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import constants

  from abd_jax.data.prepare import check_count, find

  root = Path(os.path.expanduser(data_dir or constants.DATA_DIR)).absolute()
  folders = [folder for path in sorted(root.glob('*')) if (folder := find(path))]
  if not folders:
    yield Finding(f'no prepared data set in {root}; a run prepares its own')
  for folder in folders:
    try:
      builder = tfds.builder_from_directory(folder)
      if (form := getattr(builder.info.file_format, 'value', '')) != 'array_record':  # of other projects
        yield Finding(f'{folder}: stored as {form}, which abd_jax does not use')
        continue
      for split in builder.info.splits:
        check_count(builder, split)
      counts = ', '.join(f'{info.num_examples} {name}' for name, info in builder.info.splits.items())
      yield Finding(f'{folder}: {counts} images')
    except UserError as error:
      yield Finding(f'data in {folder}', f'{error}')
    except Exception as error:  # tfds raises many kinds for a damaged description
      yield Finding(f'{folder} cannot be read ({type(error).__name__})', 'Delete that folder; a run prepares it again.')


def weights(workdir: Path) -> Iterator[Finding]:
  """The pretrained weights that the run in `workdir`, or each of those in its folders, began with."""
  from abd_jax.files import read_json
  from abd_jax.models.pretrained import name_of

  for file in sorted((*workdir.glob('config.json'), *workdir.glob('*/config.json'))):
    model = read_json(file).get('model')
    if isinstance(model, dict) and (digest := model.get('init_hash')):
      licence = f', licence {model["init_licence"]}' if model['init_licence'] else ', which names no licence'
      yield Finding(f'{file.parent} began with {name_of(model["init"])} of SHA-256 {digest}{licence}')


def steps() -> Iterator[Finding]:
  """Two steps of ABD and two of inversion, compared with EXPECTED."""
  for name, value in self_test().items():
    good = abs(value - EXPECTED[name]) <= TOLERANCE * max(abs(EXPECTED[name]), 1.0)
    text = f'{name} is {value:.5f}, expected {EXPECTED[name]:.5f}'
    yield Finding(text, '' if good else 'This machine computes other numbers. Use the versions in requirements.txt.')


def self_test() -> dict[str, float]:
  """Losses of the second step of each kind, which depend on the first one's gradients. Networks are small."""
  import jax
  import numpy as np

  from abd_jax import methods
  from abd_jax.config import load_config
  from abd_jax.devices.backend import pin_numbers
  from abd_jax.devices.mesh import DataMesh
  from abd_jax.state import Classes, PhaseData, freeze
  from abd_jax.steps.compiled import compile_steps
  from abd_jax.steps.components import make_components
  from abd_jax.steps.inputs import StudentInputs

  pin_numbers()
  config, shape, classes = load_config('digits').unlock(), (8, 8, 1), 4
  config.model.widths, config.generator.latent = (4, 4, 4), 8
  config.generator.start, config.generator.widths, config.inversion.batch_size = (2, 2, 8), (8, 8), 16
  mesh, method = DataMesh(jax.local_devices()[:1]), methods.get(config)
  components = make_components(config, classes, shape, mesh)
  compiled = compile_steps(config, components, method, shape, 0, mesh)
  draw, numbers = np.random.default_rng(0), np.arange(classes, dtype=np.int32)
  images, labels = draw.integers(0, 17, (32, *shape), dtype=np.uint8), np.tile(numbers[2:], 16)
  student, generator = compiled.new_student(), compiled.new_generator(0)
  teacher = jax.tree.map(jax.numpy.copy, freeze(student, generator))
  data = PhaseData(images, labels, Classes(numbers // 2, np.int32(1)), (teacher,), np.uint32(0))
  rates, rows = np.full(2, 0.1, np.float32), np.tile(np.arange(32, dtype=np.int32), (2, 1))
  _, learning = compiled.train[method.later[0]](student, StudentInputs(rates, rows), mesh.replicate(data))
  dreaming = data.replace(images=None, labels=None, classes=Classes(numbers // 2, np.int32(0)))
  _, inverting = compiled.invert(generator, rates / 100, mesh.replicate(dreaming))
  found = {f'ABD, {name}': learning[name] for name in ('ce', 'kd', 'ft')} | {'inversion, loss': inverting['loss']}
  return {name: float(jax.device_get(values)[-1]) for name, values in found.items()}
