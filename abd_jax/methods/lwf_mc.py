"""LwF.MC: learning without forgetting by one binary classifier per class (the baseline of Rebuffi et al., 2017)."""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule


def make(config) -> Method:
  def loss(inputs: LossInputs):
    classes = inputs.classes
    # No class is old in the first task, so that there nothing is read off the stand-in.
    teacher = (*inputs.teachers, inputs.student)[0].logits
    bce = losses.multi_class_distillation(inputs.student.logits, teacher, inputs.labels, classes.old, classes.new)
    return jnp.mean(bce), {'bce': jnp.mean(bce)}

  schedule = student_schedule(config.student)
  return Method(first=(Phase(loss, **schedule),), later=(Phase(loss, **schedule, teachers=1),))
