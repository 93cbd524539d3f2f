"""Every compiled function of a run, made once: tasks differ only in the arrays they are given."""

import functools
import os
from typing import Any, NamedTuple

import jax

from abd_jax import inversion, loop, student
from abd_jax.kit import Kit
from abd_jax.methods import Method, Phase
from abd_jax.sharding import Placement

PICTURED = 64  # dreams in a picture; rounded up to a multiple of the devices


class Programs(NamedTuple):
  new_student: Any  # () -> TrainState
  new_generator: Any  # (task) -> TrainState
  reset_optimizer: Any  # TrainState -> TrainState
  start_task: Any  # (TrainState, seed, Classes) -> TrainState; None for most methods
  train: dict[Phase, loop.Chunk]
  invert: loop.Chunk
  predict: Any  # (Teacher, images, Classes) -> i32[b, 5]
  embed: Any  # (Teacher, images) -> f[b, d]
  picture: Any  # (generator variables, Context) -> (images, labels)


def make_programs(
  config, kit: Kit, method: Method, image_shape: tuple[int, ...], seed: int, place: Placement
) -> Programs:
  """On GPU and TPU, chunks of `config.chunk_steps` steps are one scan; on CPU steps run one by one."""
  scan_steps = 0 if jax.default_backend() == 'cpu' else config.chunk_steps

  def compiled(function):
    return jax.jit(in_full(function), out_shardings=place.replicated)

  def chunk(step):
    return loop.make_chunk(in_full(step), scan_steps=scan_steps, out_sharding=place.replicated)

  return Programs(
    new_student=compiled(lambda: student.init_student(kit, image_shape, method.extra_init, seed)),
    new_generator=compiled(lambda task: inversion.init_generator(kit, seed, task)),
    reset_optimizer=compiled(lambda state: student.reset_optimizer(kit, state)),
    start_task=compiled(student.make_start_task(kit, method)) if method.start_task else None,
    train={phase: chunk(student.make_train_step(kit, phase)) for phase in {*method.first, *method.later}},
    invert=chunk(inversion.make_inversion_step(kit, config.inversion)),
    predict=compiled(student.make_predict(kit, method)),
    embed=compiled(student.make_embed(kit)),
    picture=compiled(inversion.make_picture(kit, -(-PICTURED // place.size) * place.size)),
  )


def in_full(function):
  """`function` with float32 products in full: neither TF32 on GPU nor a single bfloat16 pass on TPU."""

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    with jax.default_matmul_precision('highest'):
      return function(*args, **kwargs)

  return wrapped


def use_compilation_cache(directory: str) -> None:
  """Keeps compiled programs in `directory`, unless JAX_COMPILATION_CACHE_DIR names another.

  A resumed run starts sooner, and on GPU computes the same bits: another compilation may choose other kernels.
  """
  jax.config.update('jax_compilation_cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR') or directory)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
