"""Facts about where a run ran."""

import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')


def cpu_model() -> str:
  """The processor's name, as results differ in their last bits from one to another."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> dict[str, int]:
  """Most bytes so far: 'host' of this process, 'device' on its first device where that counts them."""
  unit = 1 if platform.system() == 'Darwin' else 1024
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  stats = jax.local_devices()[0].memory_stats() or {}
  return {'host': host} | ({'device': stats['peak_bytes_in_use']} if 'peak_bytes_in_use' in stats else {})


def device(count: int | None = None) -> dict:
  """What a run computes on, and how many of it; count: if not all that there are."""
  first = jax.devices()[0]
  return {
    'platform': first.platform,
    'kind': first.device_kind,
    'count': jax.device_count() if count is None else count,
    'cpu_cores': os.cpu_count(),
    'cpu_model': cpu_model(),
  }


def _version(package: str) -> str | None:
  try:
    return version(package)
  except PackageNotFoundError:  # a benchmark needs no data sets
    return None


def environment(count: int | None = None) -> dict:
  """Versions, device and commit, for results.json. count: as of `device`."""
  return {
    'versions': {'python': platform.python_version()} | {name: _version(name) for name in PACKAGES},
    'device': device(count),
    'commit': _commit(),
  }


def _commit() -> str | None:
  """The commit of the code that runs, '+' appended if files but results differ from it; None outside a checkout.

  An installed package may lie in the checkout of something else, which does not track it.
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
