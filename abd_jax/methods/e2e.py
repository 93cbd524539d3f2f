"""End-to-end incremental learning (Castro et al., 2018), as the paper runs it: no augmentation beyond the common.

Stage one learns from the new images and the memory and distils each old task's classes apart; then the memory takes
in the new classes, and stage two balances the head on the memory alone, held also by a copy of stage one's model.
"""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.data.memory import ExemplarPolicy, memory_only, nearest_order, task_and_memory
from abd_jax.fields import Choice, rate
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {
  'balanced_lr': rate(1e-3),  # of the second stage
  'new_target': Choice('stage_one', 'released'),  # what new classes are held to; 'released': a wrong tensor
}
READS = ('lwf', 'memory')


def make(config) -> Method:
  weight, temperature = config.lwf.weight, config.lwf.temperature

  def by_task(inputs: LossInputs, teacher, total):
    classes, logits = inputs.classes, inputs.student.logits
    per_example = losses.distillation_by_task(
      logits, teacher.logits, classes.task_of_class, config.tasks, classes.old, total, temperature
    )
    return jnp.mean(per_example)

  def first_stage(inputs: LossInputs):
    ce, metrics = base.loss(inputs)
    kd = by_task(inputs, inputs.teachers[0], jnp.sum(inputs.classes.old))
    return ce + weight * kd, metrics | {'kd': kd}

  def balanced_stage(inputs: LossInputs):
    stage_one, previous = inputs.teachers
    classes, total = inputs.classes, jnp.sum(inputs.classes.seen)
    ce, metrics = base.loss(inputs)
    kd = by_task(inputs, previous, total)
    target = stage_one.logits
    if config.e2e.new_target == 'released':  # a slip: the previous model's first task, one old class per new one
      target = jnp.roll(previous.logits, jnp.sum(classes.old), axis=-1)
    new = jnp.mean(losses.distillation(inputs.student.logits, target, classes.new, temperature))
    kd_new = jnp.sum(classes.new) / total * new
    return ce + weight * (kd + kd_new), metrics | {'kd': kd, 'kd_new': kd_new}

  schedule = student_schedule(config.student)
  stage = Phase(first_stage, **schedule, data=task_and_memory, teachers=1, freeze_after=True)
  second = schedule | {'lr': config.e2e.balanced_lr}
  balanced = Phase(balanced_stage, **second, data=memory_only, teachers=2, trainable=('head',))
  memory = ExemplarPolicy(nearest_order, by_features=True)
  return Method(first=(Phase(base.loss, **schedule),), later=(stage, balanced), memory=memory)
