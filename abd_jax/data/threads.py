"""The threads that decode images, shared by the whole process: Pillow lets go of the interpreter while it works."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor


def count() -> int:
  """One for each core that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@functools.cache
def pool() -> ThreadPoolExecutor:
  return ThreadPoolExecutor(count(), 'decode')
