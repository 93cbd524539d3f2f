"""LwF synthetic: Learning without Forgetting whose distillation also sees dreamed images (the paper's section 6)."""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.fields import weight
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {'weight': weight(0.1)}  # of the distillation
READS = ('lwf',)


def make(config) -> Method:
  def loss(inputs: LossInputs):
    classes, logits = inputs.classes, inputs.student.logits
    ce = losses.mean_over(losses.cross_entropy(logits, inputs.labels, classes.seen), inputs.is_real)
    old_logits = inputs.teachers[0].logits
    kd = jnp.mean(losses.distillation(logits, old_logits, classes.old, config.lwf.temperature))
    return ce + config.lwf_synthetic.weight * kd, {'ce': ce, 'kd': kd}

  schedule = student_schedule(config.student)
  later = Phase(loss, **schedule, teachers=1, dreams=True)
  return Method(first=(Phase(base.loss, **schedule),), later=(later,))
