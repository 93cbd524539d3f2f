"""Every compiled function of a run, made once: only the arrays differ between tasks."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax.devices.backend import full_precision_matmul
from abd_jax.devices.mesh import DataMesh
from abd_jax.methods.types import Method, Phase, TaskEnd
from abd_jax.state import Classes, TrainState
from abd_jax.steps import inversion, student
from abd_jax.steps.chunks import Chunk
from abd_jax.steps.components import Components

PICTURED = 64  # dreams in a picture; rounded up to a multiple of the devices


class CompiledSteps(NamedTuple):
  new_student: Callable[[], TrainState]
  new_generator: Callable[[int], TrainState]  # of the 0-based task
  reset_optimizer: Callable[[TrainState], TrainState]
  start_task: Callable[[TrainState, np.uint32, Classes], TrainState] | None  # None for most methods
  train: dict[Phase, Chunk]
  invert: Chunk
  predict: Callable[..., jax.Array]  # (FrozenModel, images, Classes) -> f[b, c]
  embed: Callable[..., jax.Array]  # (FrozenModel, images) -> f[b, d]
  embed_by_both: Callable[..., tuple[jax.Array, jax.Array]]  # (old, new, images, PhaseData, batch) -> 2 x f[b, k, d]
  end_task: Callable[[TaskEnd], Any] | None  # None for most methods
  picture: Callable[..., tuple[jax.Array, jax.Array]]  # (generator's variables, PhaseData) -> (images, labels)


def compile_steps(
  config, components: Components, method: Method, image_shape: tuple[int, ...], seed: int, mesh: DataMesh
) -> CompiledSteps:
  """On GPU and TPU, chunks of `config.chunk_steps` steps are one scan; on CPU steps run one by one."""
  scan_steps = 0 if mesh.platform == 'cpu' else config.chunk_steps

  def compiled(function):
    return jax.jit(full_precision_matmul(function), out_shardings=mesh.replicated)

  def chunk(step):
    return Chunk(step, scan_steps=scan_steps, out_sharding=mesh.replicated)

  return CompiledSteps(
    new_student=compiled(lambda: student.init_student(components, image_shape, method, seed)),
    new_generator=compiled(lambda task: inversion.init_generator(components, seed, task)),
    reset_optimizer=compiled(lambda state: student.reset_optimizer(components, state)),
    start_task=compiled(partial(student.start_task, method.start_task)) if method.start_task else None,
    train={phase: chunk(student.make_train_step(components, phase)) for phase in {*method.first, *method.later}},
    invert=chunk(inversion.make_inversion_step(components, config.inversion)),
    predict=compiled(partial(student.predict, components, method)),
    embed=compiled(partial(student.embed, components)),
    embed_by_both=compiled(partial(student.embed_by_both, components)),
    end_task=compiled(method.end_task) if method.end_task else None,
    picture=compiled(partial(inversion.picture, components, -(-PICTURED // mesh.size) * mesh.size)),
  )
