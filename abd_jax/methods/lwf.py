"""Learning without Forgetting (Li and Hoiem, 2016): distils the frozen model's softmax on the new images."""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.fields import Number, weight
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {  # of the softmax distillation in every method that has one
  'weight': weight(1.0),
  'temperature': Number(2.0, 1e-3, 1e9),
}


def make(config) -> Method:
  def loss(inputs: LossInputs):
    ce, metrics = base.loss(inputs)
    old_logits = inputs.teachers[0].logits
    per_example = losses.distillation(inputs.student.logits, old_logits, inputs.classes.old, config.lwf.temperature)
    kd = jnp.mean(per_example)
    return ce + config.lwf.weight * kd, metrics | {'kd': kd}

  schedule = student_schedule(config.student)
  return Method(first=(Phase(base.loss, **schedule),), later=(Phase(loss, **schedule, teachers=1),))
