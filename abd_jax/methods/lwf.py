"""Learning without Forgetting (Li and Hoiem, 2016): distils the frozen model's softmax on the new images."""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.fields import Choice, Number, weight
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {  # of the softmax distillation in every method that has one
  'weight': weight(1.0),
  'temperature': Number(2.0, 1e-3, 1e9),
  'local_classes': Choice('seen', 'new'),  # of LwF's cross-entropy; 'new': new images among new classes, ABD's Eq. 11
}


def make(config) -> Method:
  def loss(inputs: LossInputs):
    logits, classes = inputs.student.logits, inputs.classes
    ce, metrics = base.loss(inputs)
    if config.lwf.local_classes == 'new':
      ce = losses.local_cross_entropy(logits, inputs.labels, classes.new[inputs.labels], classes.new)
    kd = jnp.mean(losses.distillation(logits, inputs.teachers[0].logits, classes.old, config.lwf.temperature))
    return ce + config.lwf.weight * kd, metrics | {'ce': ce, 'kd': kd}

  schedule = student_schedule(config.student)
  return Method(first=(Phase(base.loss, **schedule),), later=(Phase(loss, **schedule, teachers=1),))
