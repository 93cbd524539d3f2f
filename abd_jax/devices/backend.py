"""What JAX is told before a run: precision of products, and where compiled programs are kept."""

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from abd_jax.errors import UserError


def devices(local: bool = False) -> Sequence[Any]:
  """All of them, or this process's. Raises UserError if JAX finds none where it was told to look."""
  try:
    return jax.local_devices() if local else jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter: of a platform whose plugin is not installed
    asked = os.environ.get('JAX_PLATFORMS', '')
    reason = (str(error) or 'its plugin is not installed').splitlines()[0].partition(' (set ')[0][:160]
    raise UserError(
      f'JAX finds no device of JAX_PLATFORMS={asked} ({reason}). Unset it, or install what it needs: abd-jax doctor.'
    ) from error


def pin_numbers() -> None:
  """Sets what environment variables may have set and results depend on: random numbers and the width of types."""
  jax.config.update('jax_default_prng_impl', 'threefry2x32')
  jax.config.update('jax_threefry_partitionable', True)
  jax.config.update('jax_enable_x64', False)


def full_precision_matmul(function):
  """`function` with float32 products in full: neither TF32 on GPU nor a single bfloat16 pass on TPU."""

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    with jax.default_matmul_precision('highest'):
      return function(*args, **kwargs)

  return wrapped


def use_compilation_cache(directory: str) -> None:
  """Keeps compiled programs in `directory`, unless JAX_COMPILATION_CACHE_DIR names another.

  A resumed run starts sooner, and on GPU computes the same bits: another compilation may choose other kernels. Where
  they cannot be kept nothing is told: all else goes on.
  """
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
  jax.config.update('jax_compilation_cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR') or directory)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
