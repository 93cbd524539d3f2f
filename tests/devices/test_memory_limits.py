"""abd_jax.devices.memory: too little of it is told before a run begins."""

import resource

import pytest

from abd_jax.devices import memory
from abd_jax.errors import UserError


@pytest.fixture
def machine(monkeypatch):
  """machine(GiB of ulimit -v or None, GiB there are)."""

  def make(limit, there):
    soft = resource.RLIM_INFINITY if limit is None else int(limit * memory.GIB)
    monkeypatch.setattr(memory.resource, 'getrlimit', lambda which: (soft, soft))
    monkeypatch.setattr(memory, '_physical', lambda: int(there * memory.GIB))

  return make


def test_enough_is_silent(machine):
  machine(None, 1)
  memory.check_memory()
  machine(4, 2)
  memory.check_memory(memory.GIB)


@pytest.mark.parametrize(
  ('limit', 'there', 'images', 'words'),
  [
    (1.5, 8, 0, 'at least 2.0 GiB of memory, but ulimit -v allows 1.5'),
    (None, 0.25, 0, 'has 0.2'),
    (None, 4, 6, 'has 4.0'),
  ],
)
def test_too_little_is_one_line_with_both_numbers(machine, limit, there, images, words):
  machine(limit, there)
  with pytest.raises(UserError, match=words) as error:
    memory.check_memory(images * memory.GIB)
  assert '\n' not in str(error.value) and 'config.data.device_mib' in str(error.value)


def test_this_machine_has_some():
  assert memory._physical() > 2**28


def test_a_build_asks_for_its_images(tiny_config, monkeypatch):
  from abd_jax.run import plan as build

  asked = []
  monkeypatch.setattr(build, 'check_memory', asked.append)
  plan = build.build(tiny_config())
  tests = len(plan.stream.test_labels(2))
  assert asked == [(2 * 512 + tests) * 64]  # a task of 300 images is padded to 512
  assert build.build(tiny_config(data__device_mib=0)).image_bytes() == 0
