"""The same numbers on one device and eight, scanned and looped, in chunks of any length."""

import contextlib
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from abd_jax import methods
from abd_jax.config import changed, default, load_config
from abd_jax.devices.mesh import DataMesh
from abd_jax.methods import base, class_gaussians
from abd_jax.methods.types import TaskEnd
from abd_jax.models.kernels import kernels_for
from abd_jax.state import freeze
from abd_jax.steps import chunks, inversion, student
from abd_jax.steps.inputs import EpochIndices, rows_of_task

STEPS, ROWS, TASK_OF_CLASS = 20, np.arange(20), np.repeat(np.arange(3, dtype=np.int32), 2)
FIELDS = {
  'model.blocks': (1,), 'model.widths': (4,), 'generator.latent': 8, 'generator.start': (4, 4, 8),
  'generator.widths': (4,), 'student.batch_size': 8, 'student.epochs': 10, 'student.milestones': (1, 2),
  'student.lr': 0.02, 'inversion.batch_size': 16,
}  # fmt: skip


def build(devices, dtype=jnp.float32, kernels='cpu'):
  """Components, later ABD phase, data of the second of three tasks, fresh states: all on `devices` devices.

  kernels: those for this kind of device, whatever the devices are.
  """
  c = changed(load_config('digits'), FIELDS)
  mesh = DataMesh(jax.devices()[:devices])
  target = SimpleNamespace(platform=kernels, size=mesh.size, gather=mesh.gather, gather_by_sum=mesh.gather_by_sum)
  given = dict(wide=dtype, kernels=kernels_for(target))
  components, *states = made_up.second_task(c, TASK_OF_CLASS, (8, 8, 1), mesh, **given)
  return c, mesh, components, methods.get(c).later[0], *mesh.replicate(states)


@functools.cache
def compiled(devices, scan_steps, dtype, kernels):
  """build() and the chunks of both kinds of step."""
  c, mesh, components, phase, *states = build(devices, dtype, kernels)
  make = lambda step: chunks.Chunk(step, scan_steps=scan_steps, out_sharding=mesh.replicated)
  made = (
    make(student.make_train_step(components, phase)),
    make(inversion.make_inversion_step(components, c.inversion)),
  )
  return c, phase, made, states


def twenty_steps(devices, chunk_steps, scan_steps, kernels='cpu', dtype=jnp.float32):
  """Student and generator states after twenty ABD and twenty inversion steps."""
  c, phase, (train, invert), (learner, generator, data) = compiled(devices, scan_steps, dtype, kernels)

  def run(chunk, state, inputs):
    state = jax.tree.map(jnp.copy, state)  # a chunk reuses its state's buffers
    *_, (state, _, _) = chunks.run(chunk, state, data, inputs, range(STEPS), chunk_steps)
    return jax.device_get((state.params, state.batch_stats))

  indices = EpochIndices((0, 1, 0), ROWS, c.student.batch_size, phase)
  assert indices.steps == STEPS
  rates = lambda start, stop: np.full(stop - start, c.inversion.lr, np.float32)
  return {'student': run(train, learner, indices), 'generator': run(invert, generator, rates)}


def difference(a, b):
  """Largest relative difference (L2) over parameters and over statistics, of student and generator."""
  worst = 0.0
  for kind in a:
    for part, other in zip(a[kind], b[kind], strict=True):
      flat, flat_other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (part, other))
      worst = max(worst, np.linalg.norm(flat - flat_other) / np.linalg.norm(flat))
  return worst


# Devices, steps in a chunk, steps in a compiled scan: shorter chunks run step by step; whose kernels.
WAYS = {
  'chunks of 3, step by step': (1, 3, 0, 'cpu'),
  'as on one GPU, scans of 6 and a rest': (1, 6, 6, 'gpu'),
  'as on eight TPU chips': (8, 10, 0, 'tpu'),
}
SLOW = WAYS | {'eight devices, scans of 4': (8, 4, 4, 'cpu')}


@pytest.mark.parametrize(
  ('dtype', 'bound', 'ways'),
  [
    pytest.param(jnp.float64, 1e-8, WAYS, id='float64'),
    pytest.param(jnp.float32, 1e-3, SLOW, id='float32', marks=pytest.mark.slow),
  ],
)
def test_devices_scan_and_chunks_do_not_change_the_result(dtype, bound, ways):
  with jax.enable_x64(True) if dtype == jnp.float64 else contextlib.nullcontext():
    expected = twenty_steps(1, STEPS, 0, dtype=dtype)
    assert jax.tree.leaves(expected)[0].dtype == dtype
    for name, way in ways.items():
      assert difference(expected, twenty_steps(*way, dtype=dtype)) <= bound, name


def test_class_statistics_are_the_same_on_eight_devices():
  found = []
  for devices in (1, 8):
    _, mesh, components, _, learner, _, data = build(devices)
    embed = jax.jit(functools.partial(student.embed_by_both, components), out_shardings=mesh.replicated)
    features = embed(data.teachers[0], freeze(learner), np.asarray(data.images)[:16], data, np.int32(0))
    rows = mesh.replicate(rows_of_task(np.asarray(data.labels)[:16], *jax.device_get(features), 20))
    rows |= {'classes': data.classes, 'statistics': mesh.replicate(class_gaussians.init(4, 6))}
    method = class_gaussians.with_gaussians(base.make(default()), default().gaussians, still=False)
    end_task = jax.jit(method.end_task, out_shardings=mesh.replicated)
    found.append(end_task(TaskEnd(**rows)))
  assert all(leaf.sharding.is_fully_replicated and leaf.any() for leaf in found[1].values())
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()), *found)


def test_a_gather_by_sum_lays_each_devices_row_everywhere_to_the_bit():
  mesh = DataMesh(jax.devices()[:8])
  of_sizes = np.logspace(-4, 4, 8)[:, None, None] * np.random.default_rng(0).standard_normal((8, 2, 3))
  rows = of_sizes.astype(np.float32)
  split = jax.device_put(rows, mesh.split)
  program = jax.jit(mesh.gather_by_sum).lower(split).compile()
  assert 'all-reduce' in program.as_text() and 'all-gather' not in program.as_text()
  found = program(split)
  assert found.sharding == mesh.replicated and np.array_equal(found, rows)


def test_eight_devices_split_the_batch_and_replicate_the_rest():
  c, mesh, components, phase, learner, _, data = build(8)
  shapes, inputs = [], EpochIndices((0, 1, 0), ROWS, c.student.batch_size, phase)
  constrain = lambda x: shapes.append(x.shape) or mesh.constrain(x)
  step = student.make_train_step(components._replace(constrain=constrain), phase)
  state, _ = chunks.Chunk(step, out_sharding=mesh.replicated)(learner, inputs(0, 1), data)
  assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
  assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
  assert (c.student.batch_size, 8, 8, 1) in shapes


@pytest.mark.parametrize('scan_steps', [0, 4])
def test_a_step_is_traced_once_and_a_resumed_loop_keeps_to_the_absolute_grid_of_chunks(scan_steps):
  traces = []

  def run(state, copies, x, data):
    traces.append(1)
    return state + x * data, {'sum': state.sum() + 0 * copies}

  step = chunks.Step(run, copies=lambda state: 2 * state.sum(), prepare=lambda data: 2 * data)
  chunk = chunks.Chunk(step, scan_steps=scan_steps)
  inputs = lambda start, stop: np.arange(start, stop, dtype=np.float32)
  done = list(chunks.run(chunk, jnp.zeros(3), jnp.float32(2), inputs, range(1, 11), 4))
  np.testing.assert_allclose(done[-1][0], 4 * np.arange(11).sum() * np.ones(3))
  assert [(stop, len(metrics['sum'])) for _, metrics, stop in done] == [(4, 3), (8, 4), (11, 3)]
  assert len(traces) == 1
