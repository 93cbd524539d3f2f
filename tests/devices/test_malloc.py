"""abd_jax.devices.malloc: a step's temporaries are not fetched from the system anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from abd_jax.devices.malloc import keep_freed_memory
assert {called}() if {called} else True
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jnp.sort(jnp.sin(x)).sum())
x = jnp.ones((2**24,))
for _ in range(6):
  step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
  step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')
@pytest.mark.slow
def test_later_steps_need_far_fewer_new_pages():
  faults = {}
  for called in ('keep_freed_memory', 'None'):
    program = PROGRAM.format(called=called)
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    faults[called] = int(done.stdout)
  assert 3 * faults['keep_freed_memory'] < faults['None'] > 10_000, faults
