"""Memory of a CPU process."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt(3)


def keep_freed_memory() -> bool:
  """Lets glibc keep freed memory; call it before JAX starts its threads. False on systems without glibc.

  XLA on CPU allocates a step's temporaries anew each time. By default the system takes them back at once, and giving
  out a fresh gigabyte costs a large step of training up to half of its time.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all(mallopt(option, value) for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
