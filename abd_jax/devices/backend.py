"""Settings of JAX and of the process, made before a run begins."""

import ctypes
import functools
import os
import platform
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from abd_jax.errors import UserError, reason

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt(3)


def devices(local: bool = False) -> Sequence[Any]:
  """All devices, or those of this process. Raises UserError if JAX finds none of the platform in JAX_PLATFORMS."""
  try:
    return jax.local_devices() if local else jax.devices()
  except (RuntimeError, AssertionError) as error:  # AssertionError: the platform's plugin is not installed
    asked = os.environ.get('JAX_PLATFORMS', '')
    why = reason(Exception(str(error).partition(' (set ')[0] or 'its plugin is not installed'))
    raise UserError(
      f'JAX finds no device of JAX_PLATFORMS={asked} ({why}). Unset it, or install what it needs: abd-jax doctor.'
    ) from error


def pin_numbers() -> None:
  """Sets the random number generator and the width of types, which environment variables could have changed."""
  jax.config.update('jax_default_prng_impl', 'threefry2x32')
  jax.config.update('jax_threefry_partitionable', True)
  jax.config.update('jax_enable_x64', False)


def full_precision_matmul(function):
  """`function` with products in full float32: neither TF32 on GPU nor a single bfloat16 pass on TPU."""

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    with jax.default_matmul_precision('highest'):
      return function(*args, **kwargs)

  if isinstance(function, functools.partial):  # profiles and logs name programs after their functions
    wrapped.__name__ = function.func.__name__
  return wrapped


def use_compilation_cache(directory: str) -> None:
  """Keeps compiled programs in `directory`, unless JAX_COMPILATION_CACHE_DIR names another.

  A resumed run starts sooner, and on GPU computes the same bits: another compilation may choose other kernels. If the
  folder cannot be written, programs are not kept and nothing else changes.
  """
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
  jax.config.update('jax_compilation_cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR') or directory)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def keep_freed_memory() -> bool:
  """Lets glibc keep freed memory; call it before JAX starts its threads. False on systems without glibc.

  XLA on CPU allocates the temporaries of each step anew. By default the system takes freed memory back at once, and
  returning a gigabyte of it costs a large training step up to half of its time.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all(mallopt(option, value) for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
