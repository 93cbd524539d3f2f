"""Dreaming: a generator is trained by inverting a frozen classifier, and then sampled in place of lost data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import losses, optim
from abd_jax.kit import Kit
from abd_jax.models.generator import hold_cancelled_biases
from abd_jax.models.norm import absorb, pair
from abd_jax.state import Context, TrainState

PyTree = Any

# Every random number of a run comes from one of these streams of its seed.
STREAMS = ('student_init', 'generator_init', 'student', 'generator', 'picture', 'start_task')


def stream(seed: int | jax.Array, name: str) -> jax.Array:
  """The key of a named stream. `seed` is a number, not a key: keys cannot be placed on several hosts."""
  return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))


def init_generator(kit: Kit, seed: int, task: int | jax.Array) -> TrainState:
  """A fresh generator; `task` varies its weights where each task starts a new one."""
  key = jax.random.fold_in(stream(seed, 'generator_init'), task)
  variables = kit.generator.init(key, kit.generator.draw(key, 2), train=False)
  params = variables['params']
  return TrainState(params, variables.get('batch_stats', {}), kit.adam.init(params), jnp.int32(0), {})


def noise(kit: Kit, key: jax.Array, size: int) -> jax.Array:
  """`size` inputs of the generator, split over devices."""
  return kit.constrain(kit.generator.draw(key, size))


def sample(kit: Kit, variables: PyTree, key: jax.Array, size: int) -> jax.Array:
  """`size` dreamed images in normalised space, f[size, h, w, c]; the generator in evaluation mode."""
  images = kit.generator.apply(variables, noise(kit, key, size), train=False)
  return jax.lax.stop_gradient(kit.constrain(images))


class ConstantRate:
  """The inputs of inversion's steps: one learning rate for all. `config` is config.inversion."""

  def __init__(self, config):
    self._lr = config.lr if config.what == 'generator' else config.pixel_lr
    self.steps, self.images = config.steps, config.batch_size

  def __call__(self, start: int, stop: int) -> np.ndarray:
    """lr f32[stop - start]."""
    return np.full(stop - start, self._lr, np.float32)


def make_inversion_step(kit: Kit, config):
  """step(TrainState of the generator, lr f32[], Context) -> (TrainState, metrics): Eq. 7, one Adam step.

  The teacher, `context.teachers[0]`, normalises with its running statistics while the moments of its inputs are
  read (Eq. 4); the generator is in training mode. `config` is config.inversion.
  """
  weights = {
    'content': config.content_weight,
    'diversity': config.diversity_weight,
    'stat': config.stat_weight,
    'prior': config.prior_weight,
  }
  batch_size, temperature, sigma = config.batch_size, config.temperature, config.prior_sigma
  normalised = config.diversity == 'normalised'

  def step(state: TrainState, lr: jax.Array, context: Context):
    z = noise(kit, jax.random.fold_in(stream(context.seed, 'generator'), state.step), batch_size)
    teacher, seen = context.teachers[0], context.classes.seen

    def objective(params):
      variables = {'params': hold_cancelled_biases(params), 'batch_stats': state.batch_stats}
      images, updates = kit.generator.apply(variables, z, train=True, mutable=['moments'])
      images = kit.constrain(images)
      (_, logits), read = kit.model.apply(teacher.variables, images, train=False, mutable=['moments'])
      terms = {
        'content': losses.content(logits, seen, temperature),
        'diversity': losses.label_diversity(logits, seen, normalised),
        'stat': losses.stat_alignment(pair(teacher.batch_stats, read['moments'])),
        'prior': losses.smoothness(images, sigma),
      }
      total = losses.weighted_sum(terms, weights)
      return total, (terms | {'loss': total}, updates.get('moments', {}))

    grads, (metrics, moments) = jax.grad(objective, has_aux=True)(state.params)
    direction, opt_state = kit.adam.update(grads, state.opt_state, state.params)
    state = state.replace(
      params=optim.apply_update(state.params, direction, lr),
      batch_stats=absorb(state.batch_stats, moments, 0.9),
      opt_state=opt_state,
      step=state.step + 1,
    )
    return state, metrics

  return step


def make_picture(kit: Kit, size: int):
  """picture(generator variables, Context) -> (images f[size, h, w, c] in [0, 1], labels i32[size]).

  Labels are the newest teacher's, among the classes it has seen; images are sorted by label.
  """

  def picture(variables: PyTree, context: Context):
    key = jax.random.fold_in(stream(context.seed, 'picture'), context.classes.task)
    images = sample(kit, variables, key, size)
    _, logits = kit.model.apply(context.teachers[0].variables, images, train=False)
    labels = jnp.argmax(losses.mask_logits(logits, context.classes.seen), axis=-1)
    order = jnp.argsort(labels)
    return kit.images.denormalise(images)[order], labels[order]

  return picture
