"""The kinds of step that `hardware` times and compiles: those of configs/cifar100.py, on random images."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import methods
from abd_jax.config import Config, load_config
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.methods.types import Phase
from abd_jax.models.kernels import Kernels, kernels_for
from abd_jax.state import Classes, PhaseData, TrainState, freeze
from abd_jax.steps.chunks import Chunk, Step
from abd_jax.steps.components import Components, make_components
from abd_jax.steps.inputs import ConstantRate, EpochIndices, StudentInputs
from abd_jax.steps.inversion import init_generator, make_inversion_step
from abd_jax.steps.student import init_student, make_train_step, predict
from experiments import hlo

IMAGE, CLASSES, TASK_IMAGES, EVALUATED = (32, 32, 3), 100, 5000, 512
PRECISIONS = ('float32', 'bfloat16')
STEPS = ('base', 'abd', 'inversion', 'evaluation')  # base: plain cross-entropy; abd: from task 2 on
PyTree = Any


class Setting(NamedTuple):
  """Fresh networks, and the second of ten tasks, of random images. `student`, `generator`, `data` may be shapes."""

  config: Config
  components: Components
  student: TrainState
  generator: TrainState
  data: PhaseData  # with one teacher
  images: np.ndarray  # u8[n, 32, 32, 3], those of the task

  def rows(self, phase: Phase, start: int, stop: int) -> StudentInputs:
    """The inputs of those steps of a phase."""
    return EpochIndices((0, 1, 0), np.arange(len(self.images)), self.config.student.batch_size, phase)(start, stop)


def setting(
  fields: dict, devices: list[Any], num_images: int, kernels: Kernels | None = None, only_shapes: bool = False
) -> Setting:
  """Builds configs/cifar100.py with other `fields` on `devices`.

  kernels: the forms of operations, by default those for the devices. only_shapes: allocates nothing on the devices,
  which may then be those of a topology.
  """
  config, mesh = load_config('cifar100', **fields), DataMesh(devices)
  components = make_components(config, CLASSES, IMAGE, mesh, kernels=kernels)
  shape = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=mesh.replicated)
  place = partial(jax.tree.map, shape) if only_shapes else mesh.replicate
  call = jax.eval_shape if only_shapes else lambda function: jax.jit(function)()
  made = lambda init, *arguments: place(call(partial(init, *arguments)))
  generator = made(init_generator, components, 0, 0)
  student, taught = (made(init_student, components, IMAGE, None, seed) for seed in (0, 1))
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (num_images, *IMAGE), np.uint8)
  labels = rng.integers(10, 20, num_images).astype(np.int32)
  classes = Classes(np.repeat(np.arange(10, dtype=np.int32), 10), np.int32(1))
  data = place(PhaseData(images, labels, classes, (), np.uint32(0))).replace(teachers=(freeze(taught, generator),))
  return Setting(config, components, student, generator, data, images)


class Part(NamedTuple):
  """A kind of step with its arguments."""

  step: Step
  state: TrainState
  inputs: PyTree  # of all steps, with a leading axis of steps
  data: PhaseData
  images: int  # a step


def parts(here: Setting, steps: int) -> dict[str, Part]:
  """Every kind in STEPS, with the inputs of so many steps."""
  method, batch_size = methods.get(here.config), here.config.student.batch_size
  c = here.config.inversion
  rates = ConstantRate(c.lr, c.steps, c.batch_size)
  base = methods.get(load_config('cifar100:method=base')).first[0]
  untaught, imageless = here.data.replace(teachers=()), here.data.replace(images=None, labels=None)
  batches = np.broadcast_to(here.images[:EVALUATED], (steps, EVALUATED, *IMAGE))
  logits = partial(predict, here.components, method)
  evaluate = Step(lambda state, _, batch, data: (state, logits(freeze(state), batch, data.classes)))

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


class Kind(NamedTuple):
  """A compiled kind of step, ready to be timed."""

  run: Callable[[], Any]  # runs `steps` more steps and waits for them
  steps: int
  images: int  # a step
  program: dict  # what the compiler says of one step, see `said`
  compile_seconds: float


def kinds(fields: dict, scan_steps: int, kernels: Kernels | None = None) -> dict[str, Kind]:
  """Every kind of step, compiled as runs compile it; `scan_steps` in one scan, or single steps if 0 (CPU)."""
  here = setting(fields, jax.devices(), TASK_IMAGES, kernels)
  return {name: compiled(part, scan_steps) for name, part in parts(here, scan_steps or 1).items()}


def compiled(part: Part, scan_steps: int) -> Kind:
  step, state, inputs, data, images = part
  single, seconds = _compiled(Chunk(step), state, jax.tree.map(lambda leaf: leaf[:1], inputs), data)
  chunk = Chunk(step, scan_steps=scan_steps)
  if scan_steps:
    _, seconds = _compiled(chunk, state, inputs, data)
  now = jax.tree.map(jnp.copy, state)  # a chunk reuses the buffers of the state that it is given

  def run():
    nonlocal now
    now, metrics = jax.block_until_ready(chunk(now, inputs, data))
    return metrics

  return Kind(run, scan_steps or 1, images, said(single, state), seconds)


def _compiled(chunk: Chunk, *arguments: PyTree) -> tuple[Any, float]:
  """(the compiled function, seconds that it took)."""
  began = time.perf_counter()
  program = chunk.lower(*arguments).compile()
  return program, time.perf_counter() - began


def said(program: Any, state: TrainState) -> dict[str, Any]:
  """What the compiler says of a program: bytes and costs on each device, kernels, collectives.

  `donated` counts the arrays of the state, `aliased` those whose memory is reused. A GPU's compiler gives no costs.
  """
  memory, cost = program.memory_analysis(), program.cost_analysis() or {}
  sizes = {part: getattr(memory, f'{part}_size_in_bytes') for part in ('argument', 'output', 'alias', 'temp')}
  return {
    'bytes_a_device': sizes,
    'gflop_a_device': cost.get('flops', 0) / 1e9 or None,
    'gb_moved_a_device': cost.get('bytes accessed', 0) / 1e9 or None,
    'donated': len(jax.tree.leaves(state)),
    **hlo.read(program.as_text() or ''),
  }


def cpu_device() -> Any:
  """Raises UserError if JAX_PLATFORMS excludes the CPU."""
  try:
    return jax.devices('cpu')[0]
  except RuntimeError:
    platforms = os.environ.get('JAX_PLATFORMS', '')
    raise UserError(
      f'JAX_PLATFORMS={platforms} excludes the CPU, which counts FLOPs; set it to {platforms},cpu'
    ) from None


def flops(fields: dict) -> dict[str, float]:
  """FLOPs of a step of each kind, a device's share, before it is compiled.

  Counted on the CPU, with the forms of operations of this host's devices: XLA counts none of a GPU's convolutions.
  """
  cpu, kernels = cpu_device(), kernels_for(DataMesh(jax.devices()))
  with jax.default_device(cpu):
    here = setting(fields, [cpu], TASK_IMAGES, kernels)
    lowered = {name: Chunk(one.step).lower(*one[1:4]) for name, one in parts(here, 1).items()}
  return {name: (one.cost_analysis() or {})['flops'] / jax.device_count() for name, one in lowered.items()}
