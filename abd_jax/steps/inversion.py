"""Dreaming: trains a generator by inverting a frozen classifier, and samples it in place of old data."""

from typing import Any

import jax
import jax.numpy as jnp

from abd_jax import losses
from abd_jax.models.cast_and_fold import Narrow, with_narrow
from abd_jax.models.generator import stop_redundant_bias_gradients
from abd_jax.models.norm import batch_and_stored_stats, update_running_stats
from abd_jax.state import FrozenModel, PhaseData, TrainState
from abd_jax.steps.chunks import Step
from abd_jax.steps.components import Components, apply_update, in_precision_of
from abd_jax.steps.rng import stream

PyTree = Any


def init_generator(components: Components, seed: int, task: int | jax.Array) -> TrainState:
  """A fresh generator; `task` varies its weights, for methods that start a new one for each task."""
  key = jax.random.fold_in(stream(seed, 'generator_init'), task)
  variables = components.generator.init(key, components.generator.draw(key, 2), train=False)
  params = variables['params']
  return TrainState(params, variables.get('batch_stats', {}), components.adam.init(params), jnp.int32(0), {})


def noise(components: Components, key: jax.Array, size: int) -> jax.Array:
  """`size` inputs of the generator, split over devices."""
  return components.constrain(components.generator.draw(key, size))


def sample(components: Components, variables: PyTree, key: jax.Array, size: int) -> jax.Array:
  """`size` dreamed images in normalised space, f[size, h, w, c]; the generator in evaluation mode."""
  images = components.generator.apply(variables, noise(components, key, size), train=False)
  return jax.lax.stop_gradient(components.constrain(images))


def make_inversion_step(components: Components, settings) -> Step:
  """The step of Eq. 7, one of Adam: of the generator's TrainState, lr f32[] and PhaseData, with metrics of f32[].

  The teacher, `data.teachers[0]`, normalises with its running statistics while the moments of its inputs are
  read (Eq. 4); the generator is in training mode. `settings` is config.inversion.
  """
  weights = {
    'content': settings.content_weight,
    'diversity': settings.diversity_weight,
    'stat': settings.stat_weight,
    'prior': settings.prior_weight,
  }
  batch_size, temperature, sigma = settings.batch_size, settings.temperature, settings.prior_sigma
  normalised = settings.diversity == 'normalised'

  def run(state: TrainState, copies: Narrow, lr: jax.Array, given: tuple[FrozenModel, jax.Array, jax.Array]):
    teacher, seen, key = given
    z = noise(components, jax.random.fold_in(key, state.step), batch_size)

    def objective(params):
      variables = {'params': stop_redundant_bias_gradients(params), 'batch_stats': state.batch_stats}
      images, updates = components.generator.apply(variables, z, train=True, mutable=['moments'])
      images = components.constrain(images)
      (_, logits), read = components.model.apply(teacher.variables, images, train=False, mutable=['moments'])
      terms = {
        'content': losses.content(logits, seen, temperature),
        'diversity': losses.label_diversity(logits, seen, normalised),
        'stat': losses.stat_alignment(batch_and_stored_stats(teacher.batch_stats, read['moments'])),
        'prior': losses.smoothness(images, sigma),
      }
      total = losses.weighted_sum(terms, weights)
      return total, (terms | {'loss': total}, updates.get('moments', {}))

    grads, (metrics, moments) = jax.grad(objective, has_aux=True)(with_narrow(state.params, copies))
    grads = in_precision_of(state.params, grads)
    direction, opt_state = components.adam.update(grads, state.opt_state, state.params)
    state = state.replace(
      params=apply_update(state.params, direction, lr),
      batch_stats=update_running_stats(state.batch_stats, moments, 0.9),
      opt_state=opt_state,
      step=state.step + 1,
    )
    return state, metrics

  def prepare(data: PhaseData) -> tuple[FrozenModel, jax.Array, jax.Array]:
    return components.as_read(data.teachers[0]), data.classes.seen, stream(data.seed, 'generator')

  return Step(run, components.copies, prepare)


def picture(components: Components, size: int, variables: PyTree, data: PhaseData) -> tuple[jax.Array, jax.Array]:
  """(dreams f[size, h, w, c] in [0, 1] of the generator's `variables`, labels i32[size]), sorted by label.

  Labels are the newest teacher's, among the classes it has seen.
  """
  key = jax.random.fold_in(stream(data.seed, 'picture'), data.classes.task)
  images = sample(components, variables, key, size)
  _, logits = components.model.apply(data.teachers[0].variables, images, train=False)
  labels = jnp.argmax(losses.mask_logits(logits, data.classes.seen), axis=-1)
  order = jnp.argsort(labels)
  return components.images.denormalise(images)[order], labels[order]
