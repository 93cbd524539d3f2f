"""BiC, large-scale incremental learning by bias correction (Wu et al., 2019), as the paper runs it.

Stage one distils on new and stored images; stage two learns, on images held out of it, one scale and one offset of
the new classes' logits. Evaluation uses them; the released code forgets them there (config.bic.evaluate='raw').
"""

import jax.numpy as jnp
import numpy as np

from abd_jax import losses
from abd_jax.data.memory import ExemplarPolicy, Pool, herding_order
from abd_jax.errors import UserError
from abd_jax.fields import Choice, Number, rate
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Output, Phase, student_schedule

SETTINGS = {
  'held_out': Number(0.1, 0, 1),  # share of the memory that the second stage learns from
  'bias_lr': rate(1e-3),  # of the second stage
  'evaluate': Choice('corrected', 'raw'),  # through the bias layers; 'raw': without them, as the released code does
}
READS = ('lwf', 'memory')

IDENTITY = {'scale': 1.0, 'offset': 0.0}


def corrected(output: Output, task_of_class, newest):
  """Logits f[n, c] through the bias layers of a model whose newest task is `newest`."""

  def of_class(name):
    return jnp.where(task_of_class == newest, output.extra['bias'][name], output.extra['past'][name][task_of_class])

  return of_class('scale')[None] * output.logits + of_class('offset')[None]


def first_of_each_class(pool: Pool, share: float) -> np.ndarray:
  """Rows of the first k images of every class, k so that old classes give up `share` of the memory."""
  old, seen = np.unique(pool.labels[pool.is_memory]), np.unique(pool.labels)
  k = int(share * pool.is_memory.sum() + 1e-6) // len(old)
  short = min(np.sum(pool.labels == c) for c in seen)
  if not 0 < k < short:
    raise UserError(
      f'BiC holds {k} images of each class out of a memory of {pool.is_memory.sum()}, and the smallest class has '
      f'{short}. Change config.memory or config.bic.held_out so that it is at least 1 and less than that.'
    )
  return np.concatenate([np.flatnonzero(pool.labels == c)[:k] for c in seen])


def make(config) -> Method:
  def extra_init(key, num_classes):
    past = {name: jnp.full(config.tasks + 1, value, jnp.float32) for name, value in IDENTITY.items()}
    return {'bias': {name: jnp.float32(value) for name, value in IDENTITY.items()}, 'past': past}

  def start_task(params, extra, key, classes):
    """The layer of the task before goes to the past, where nothing trains it, and a fresh one comes in."""
    past = {name: extra['past'][name].at[classes.task - 1].set(extra['bias'][name]) for name in IDENTITY}
    return params, {
      'bias': {name: jnp.full_like(extra['bias'][name], IDENTITY[name]) for name in IDENTITY},
      'past': past,
    }

  def held_out(pool, rng):
    return first_of_each_class(pool, config.bic.held_out)

  def rest(pool, rng):
    return np.setdiff1d(np.arange(len(pool.labels)), held_out(pool, rng))

  def logits_of(inputs: LossInputs):
    return corrected(inputs.student, inputs.classes.task_of_class, inputs.classes.task)

  def first_stage(inputs: LossInputs):
    classes, logits = inputs.classes, logits_of(inputs)
    r = jnp.sum(classes.old) / jnp.sum(classes.seen)
    teacher = corrected(inputs.teachers[0], classes.task_of_class, classes.task - 1)
    ce = jnp.mean(losses.cross_entropy(logits, inputs.labels, classes.seen))
    kd = jnp.mean(losses.distillation(logits, teacher, classes.old, config.lwf.temperature))
    return (1.0 - r) * ce + r * kd, {'ce': ce, 'kd': kd}

  def second_stage(inputs: LossInputs):
    ce = jnp.mean(losses.cross_entropy(logits_of(inputs), inputs.labels, inputs.classes.seen))
    return ce, {'ce': ce}

  schedule = student_schedule(config.student)
  stage_one = Phase(first_stage, **schedule, data=rest, teachers=1)
  second = schedule | {'lr': config.bic.bias_lr}
  predict = lambda output, classes: corrected(output, classes.task_of_class, classes.task)
  return Method(
    first=(Phase(base.loss, **schedule),),
    later=(stage_one, Phase(second_stage, **second, data=held_out, trainable=('bias',))),
    extra_init=extra_init,
    start_task=start_task,
    logits=predict if config.bic.evaluate == 'corrected' else None,
    memory=ExemplarPolicy(herding_order, by_features=True),
  )
