"""No key is drawn from twice: jax_debug_key_reuse over a step of every method, of inversion, a picture and features."""

from functools import partial

import jax
import numpy as np
import pytest
from conftest import TINY

from abd_jax import methods
from abd_jax.devices.mesh import DataMesh
from abd_jax.state import Classes, PhaseData, freeze
from abd_jax.steps import inversion, student
from abd_jax.steps.components import make_components
from abd_jax.steps.inputs import StudentInputs

SHAPE, CLASSES = (8, 8, 1), 4
NUMBERS = np.arange(CLASSES, dtype=np.int32)


@pytest.fixture(autouse=True)
def checked():
  with jax.debug_key_reuse(True):
    yield


def scene(method):
  """(components, method, phase data of the second of two tasks, a student, a generator) on the smallest networks."""
  from configs.digits import get_config

  config = get_config(f'tasks=3,method={method}').unlock()
  config.update_from_flattened_dict(TINY | {'model.blocks': (1,), 'model.widths': (4,), 'dgr.widths': (4, 4)})
  config.update_from_flattened_dict({'dgr.latent': 4, 'inversion.batch_size': 4, 'data.brightness': 0.0})
  kind, mesh = methods.get(config), DataMesh(jax.local_devices()[:1])
  components = make_components(config, CLASSES, SHAPE, mesh)
  learner = student.init_student(components, SHAPE, kind, 0)
  generator = inversion.init_generator(components, 0, 0)
  teacher = freeze(learner, generator)
  images = np.random.default_rng(0).integers(0, 17, (8, *SHAPE), dtype=np.uint8)
  data = PhaseData(
    images, np.tile(NUMBERS[2:], 4), Classes(NUMBERS // 2, np.int32(1)), (teacher, teacher), np.uint32(0)
  )
  return config, components, kind, data, learner, generator


def test_a_key_that_is_drawn_from_twice_is_noticed():
  def twice(key):
    return jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))

  with pytest.raises(jax.errors.KeyReuseError):
    jax.jit(twice)(jax.random.key(0))


# Each compiles steps of its own, which takes seconds.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in methods.available() if name != 'abd']


@pytest.mark.parametrize('name', ['abd', *OTHERS])
def test_a_step_of_every_phase_of_a_method(name):
  _, components, kind, data, learner, _ = scene(name)
  for phase in {*kind.first, *kind.later}:
    step = jax.jit(student.make_train_step(components, phase))
    inputs = StudentInputs(np.float32(0.1), np.arange(8, dtype=np.int32))
    step(learner, inputs, data.replace(teachers=data.teachers[: phase.teachers]))
  if kind.start_task:
    jax.jit(partial(student.start_task, kind.start_task))(learner, np.uint32(0), data.classes)


@pytest.mark.parametrize('what', ['generator', 'pixels'])
def test_a_step_of_inversion_a_picture_and_the_features_of_a_task(what):
  config, *_ = scene('abd')
  config.inversion.what = what
  components = make_components(config, CLASSES, SHAPE, None)
  learner, generator = student.init_student(components, SHAPE, None, 0), inversion.init_generator(components, 0, 0)
  data = PhaseData(None, None, Classes(NUMBERS // 2, np.int32(1)), (freeze(learner),), np.uint32(0))
  jax.jit(inversion.make_inversion_step(components, config.inversion))(generator, np.float32(1e-3), data)
  jax.jit(partial(inversion.picture, components, 4))(generator.variables, data)
  images = np.zeros((4, *SHAPE), np.uint8)
  jax.jit(partial(student.embed_by_both, components))(freeze(learner, generator), freeze(learner), images, data, 0)
