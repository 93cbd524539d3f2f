"""The steps of configs/cifar100.py on random images: what there is to be timed and checked."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import methods
from abd_jax.config import Config
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.methods.types import Phase
from abd_jax.models.kernels import Kernels, kernels_for
from abd_jax.state import Classes, PhaseData, TrainState, freeze
from abd_jax.steps.chunks import Chunk, Step
from abd_jax.steps.components import Components, make_components
from abd_jax.steps.inputs import ConstantRate, EpochIndices, StudentInputs
from abd_jax.steps.inversion import init_generator, make_inversion_step
from abd_jax.steps.student import init_student, make_predict, make_train_step
from experiments.jobs import load_config

IMAGE, CLASSES, TASK_IMAGES, EVALUATED = (32, 32, 3), 100, 5000, 512
PRECISIONS = ('float32', 'bfloat16')
PyTree = Any


class Setting(NamedTuple):
  """Fresh networks, and the second of ten tasks, of random images."""

  config: Config
  components: Components
  student: TrainState
  generator: TrainState
  data: PhaseData  # with one teacher
  images: int  # of the task

  def rows(self, phase: Phase, start: int, stop: int) -> StudentInputs:
    """The inputs of those steps of a phase."""
    return EpochIndices((0, 1, 0), np.arange(self.images), self.config.student.batch_size, phase)(start, stop)


def setting(fields: dict, devices: list[Any], num_images: int, kernels: Kernels | None = None) -> Setting:
  """Of configs/cifar100.py with other `fields`, on `devices` (of jax.devices()); kernels: if not those for them."""
  config, mesh = load_config('cifar100', '', fields), DataMesh(devices)
  components = make_components(config, CLASSES, IMAGE, mesh, kernels=kernels)
  make_student = lambda seed: mesh.replicate(jax.jit(partial(init_student, components, IMAGE, None, seed))())
  generator = mesh.replicate(jax.jit(partial(init_generator, components, 0, 0))())
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (num_images, *IMAGE), np.uint8)
  labels = rng.integers(10, 20, num_images).astype(np.int32)
  classes = Classes(np.repeat(np.arange(10, dtype=np.int32), 10), np.int32(1))
  data = mesh.replicate(PhaseData(images, labels, classes, (), np.uint32(0)))
  teacher = freeze(make_student(1), generator)
  return Setting(config, components, make_student(0), generator, data.replace(teachers=(teacher,)), num_images)


class Kind(NamedTuple):
  """A compiled kind of step, ready to be timed."""

  run: Callable[[], Any]  # `steps` more steps, waited for
  steps: int
  images: int  # a step
  flops: float  # a step, as XLA counts them for this device once it is compiled
  memory_bytes: int  # of a step: arguments, results that are not laid over them, and temporaries
  compile_seconds: float


class Part(NamedTuple):
  """A kind of step with what it is given."""

  step: Step
  state: TrainState
  inputs: PyTree  # of all steps, with a leading axis of steps
  data: PhaseData
  images: int  # a step


def parts(here: Setting, steps: int) -> dict[str, Part]:
  """Every kind of step, with the inputs of so many."""
  method, batch_size = methods.get(here.config), here.config.student.batch_size
  predict, rates = make_predict(here.components, method), ConstantRate(here.config.inversion)
  base = methods.get(load_config('cifar100', 'method=base')).first[0]
  untaught, imageless = here.data.replace(teachers=()), here.data.replace(images=None, labels=None)
  images: Any = here.data.images
  batches = np.broadcast_to(np.asarray(images[:EVALUATED]), (steps, EVALUATED, *IMAGE))
  evaluate = Step(lambda state, _, batch, data: (state, predict(freeze(state), batch, data.classes)))

  def training(phase: Phase, data: PhaseData) -> Part:
    step = make_train_step(here.components, phase)
    return Part(step, here.student, here.rows(phase, 0, steps), data, batch_size * (1 + phase.dreams))

  invert = make_inversion_step(here.components, here.config.inversion)
  return {
    'base': training(base, untaught),
    'abd': training(method.later[0], here.data),
    'inversion': Part(invert, here.generator, rates(0, steps), imageless, rates.images_per_step),
    'evaluation': Part(evaluate, here.student, batches, untaught, EVALUATED),
  }


def kinds(fields: dict, scan_steps: int, kernels: Kernels | None = None) -> dict[str, Kind]:
  """Every kind of step, compiled as runs compile it; `scan_steps` in one scan, or single ones if 0 (CPU)."""
  here = setting(fields, jax.devices(), TASK_IMAGES, kernels)
  return {name: compiled(*part, scan_steps) for name, part in parts(here, scan_steps or 1).items()}


def cpu_device() -> Any:
  """Raises UserError where JAX_PLATFORMS leaves the CPU out."""
  try:
    return jax.devices('cpu')[0]
  except RuntimeError:
    platforms = os.environ.get('JAX_PLATFORMS', '')
    raise UserError(
      f'JAX_PLATFORMS={platforms} leaves out the CPU, which counts FLOPs. Set it to {platforms},cpu.'
    ) from None


def flops(fields: dict) -> dict[str, float]:
  """Those of a step of each kind, a device's share, before it is compiled.

  Counted on the CPU, in the forms that this host's devices are given: of a GPU's convolutions XLA counts none.
  """
  cpu, kernels = cpu_device(), kernels_for(DataMesh(jax.devices()))
  with jax.default_device(cpu):
    here = setting(fields, [cpu], TASK_IMAGES, kernels)
    lowered = {name: Chunk(one.step).lower(*one[1:4]) for name, one in parts(here, 1).items()}
  return {name: (one.cost_analysis() or {})['flops'] / jax.device_count() for name, one in lowered.items()}


def compiled(step: Step, state: TrainState, inputs: PyTree, data: PhaseData, images: int, scan_steps: int) -> Kind:
  """inputs: of all steps, with a leading axis of steps; images: a step."""
  single, seconds = _compiled(Chunk(step), state, jax.tree.map(lambda leaf: leaf[:1], inputs), data)
  memory = single.memory_analysis()
  sizes = (getattr(memory, f'{part}_size_in_bytes') for part in ('argument', 'output', 'temp'))
  chunk = Chunk(step, scan_steps=scan_steps)
  if scan_steps:
    _, seconds = _compiled(chunk, state, inputs, data)
  now = jax.tree.map(jnp.copy, state)  # chunks reuse the buffers of the state that they are given

  def run():
    nonlocal now
    now, metrics = jax.block_until_ready(chunk(now, inputs, data))
    return metrics

  size = sum(sizes) - memory.alias_size_in_bytes
  return Kind(run, scan_steps or 1, images, single.cost_analysis()['flops'], size, seconds)


def _compiled(chunk: Chunk, *arguments: PyTree) -> tuple[Any, float]:
  """(the compiled function, seconds that it took)."""
  began = time.perf_counter()
  program = chunk.lower(*arguments).compile()
  return program, time.perf_counter() - began
