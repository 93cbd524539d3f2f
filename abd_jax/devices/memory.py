"""How much memory this process may use, asked before a run begins, and what a compiled step takes of a device's.

Too little of it hangs or aborts what needs it.
"""

import os
import resource
from pathlib import Path
from typing import Any

import jax

from abd_jax.errors import UserError

GIB = 2**30
RESIDENT = GIB // 2  # what the smallest run keeps in memory
ADDRESSES = 2 * GIB  # what JAX and its threads reserve of the address space, little of which they use
_CGROUP = (Path('/sys/fs/cgroup/memory.max'), Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'))


def check_memory(images: int = 0) -> None:
  """Raises UserError if a run cannot have what it needs. images: bytes of those it keeps on the host."""
  allowed, limit = resource.getrlimit(resource.RLIMIT_AS)[0], 'ulimit -v allows'
  if allowed != resource.RLIM_INFINITY:
    _compare(ADDRESSES + images, allowed, limit)
  _compare(RESIDENT + images, _physical(), 'this machine, or the container, has')


def _compare(needed: int, there: int, limit: str) -> None:
  if there < needed:
    raise UserError(
      f'a run needs at least {needed / GIB:.1f} GiB of memory, but {limit} {there / GIB:.1f}. Allow it more, or lower '
      'config.data.device_mib so that images are streamed.'
    )


def _physical() -> int:
  """Bytes of this machine, or of the container."""
  sizes = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for file in _CGROUP:
    try:
      sizes.append(int(file.read_text()))
    except (OSError, ValueError):  # no such file, or no limit: 'max'
      continue
  return min(sizes)


def bytes_of(program: Any) -> int:
  """What a compiled program (jax.stages.Compiled) takes on each device, arguments included; 0 if that is unknown."""
  analysis = program.memory_analysis()
  if analysis is None:  # not every backend has one
    return 0
  sizes = (getattr(analysis, f'{part}_size_in_bytes') for part in ('argument', 'output', 'temp', 'generated_code'))
  return sum(sizes) - analysis.alias_size_in_bytes


def device_bytes() -> int:
  """The memory of each device; 0 if that is unknown."""
  device = jax.local_devices()[0]
  return _physical() if device.platform == 'cpu' else (device.memory_stats() or {}).get('bytes_limit', 0)


def in_units(size: int) -> str:
  """Bytes as in '1.2 GiB'."""
  if not size:
    return 'unknown memory'
  return f'{size / GIB:.1f} GiB' if size >= GIB else f'{size / 2**20:.0f} MiB'
