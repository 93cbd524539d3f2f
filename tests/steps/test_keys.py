"""No key is drawn from twice: jax_debug_key_reuse over a step of every method, of inversion, a picture and features."""

from functools import partial

import jax
import made_up
import numpy as np
import pytest
from conftest import TINY

from abd_jax import methods
from abd_jax.config import changed, load_config
from abd_jax.devices.mesh import DataMesh
from abd_jax.state import freeze
from abd_jax.steps import inversion, student
from abd_jax.steps.inputs import StudentInputs

SMALL = TINY | {
  'model.blocks': (1,), 'model.widths': (4,), 'inversion.batch_size': 4, 'dgr.widths': (4, 4), 'dgr.latent': 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def checked():
  with jax.debug_key_reuse(True):
    yield


def scene(method, **fields):
  """(config, method, components, student, generator, data of the second of two tasks) on the smallest networks."""
  config = changed(load_config(f'digits:method={method}'), SMALL | fields)
  kind, task_of_class = methods.get(config), np.array([0, 0, 1, 1], np.int32)
  mesh = DataMesh(jax.local_devices()[:1])
  return config, kind, *made_up.second_task(config, task_of_class, (8, 8, 1), mesh, kind)


def test_a_key_that_is_drawn_from_twice_is_noticed():
  def twice(key):
    return jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))

  with pytest.raises(jax.errors.KeyReuseError):
    jax.jit(twice)(jax.random.key(0))


# Each compiles steps of its own, which takes seconds.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in methods.available() if name != 'abd']


@pytest.mark.parametrize('name', ['abd', *OTHERS])
def test_a_step_of_every_phase_of_a_method(name):
  _, kind, components, learner, _, data = scene(name)
  for phase in {*kind.first, *kind.later}:
    step = jax.jit(student.make_train_step(components, phase))
    inputs = StudentInputs(np.float32(0.1), np.arange(8, dtype=np.int32))
    step(learner, inputs, data.replace(teachers=data.teachers[: phase.teachers]))
  if kind.start_task:
    jax.jit(partial(student.start_task, kind.start_task))(learner, np.uint32(0), data.classes)


@pytest.mark.parametrize('what', ['generator', 'pixels'])
def test_a_step_of_inversion_a_picture_and_the_features_of_a_task(what):
  config, _, components, learner, generator, data = scene('abd', **{'inversion.what': what})
  step = jax.jit(inversion.make_inversion_step(components, config.inversion))
  step(generator, np.float32(1e-3), data.replace(teachers=data.teachers[:1]))
  jax.jit(partial(inversion.picture, components, 4))(generator.variables, data)
  old, new = freeze(learner, generator), freeze(learner)
  jax.jit(partial(student.embed_by_both, components))(old, new, data.images[:4], data, 0)
