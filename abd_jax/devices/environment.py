"""Facts about where a run runs: versions, commit, devices and memory."""

import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax

from abd_jax.errors import UserError

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')
GIB = 2**30
RESIDENT = GIB // 2  # what the smallest run keeps in memory
_CGROUP = (Path('/sys/fs/cgroup/memory.max'), Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'))


def environment(count: int | None = None) -> dict:
  """Versions, device and commit, for results.json. count: how many devices are used, if not all."""
  first = jax.devices()[0]
  return {
    'versions': {'python': platform.python_version()} | {name: version(name) for name in PACKAGES},
    'device': {
      'platform': first.platform,
      'kind': first.device_kind,
      'count': jax.device_count() if count is None else count,
      'cpu_cores': os.cpu_count(),
      'cpu_model': _cpu_model(),
    },
    'commit': _commit(),
  }


def _cpu_model() -> str:
  """The processor's name: results differ in their last bits from one model to another."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
  """The commit of the running code, with '+' if files other than results differ from it; None outside a checkout.

  An installed package may lie in the checkout of another project, which does not track it.
  """
  git = lambda *words: subprocess.run(
    ['git', '--no-optional-locks', *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
  ).stdout.strip()
  try:
    git('ls-files', '--error-unmatch', __file__)
    changed = git('status', '--porcelain', '--', ':/', ':(top,exclude)experiments/results')
    return git('rev-parse', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return None


def peak_memory() -> dict[str, int]:
  """Most bytes so far: 'host' of this process, 'device' of its first device if that counts them."""
  unit = 1 if platform.system() == 'Darwin' else 1024
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  stats = jax.local_devices()[0].memory_stats() or {}
  return {'host': host} | ({'device': stats['peak_bytes_in_use']} if 'peak_bytes_in_use' in stats else {})


def check_memory(images: int = 0) -> None:
  """Raises UserError if this process may use too little memory for a run, which would hang or abort.

  images: bytes of the images that the run keeps on the host.
  """
  least, there = RESIDENT + images, _physical()
  if there < least:
    raise UserError(
      f'a run needs at least {least / GIB:.1f} GiB of memory, but this machine, or the container, has '
      f'{there / GIB:.1f}. Allow it more, or lower config.data.device_mib so that images are streamed.'
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
