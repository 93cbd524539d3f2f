"""Always Be Dreaming (Smith et al., ICCV 2021), Eq. 15.

Dreamed images stand in for the old data. The new classes are learnt among themselves (Eq. 11), features that the
old heads use are held in place on real and dreamed images (Eq. 13), and only the head learns to tell old from new
(Eq. 14), so that nothing rewards telling real from dreamed.

The ablations of Table 3 are fields of config.abd. What the paper leaves open is settled so that each takes away one
thing and leaves the others as they are:
- balance='none', no task balancing: every weight of Eq. 14 is 1, and so is that of Eq. 11 (1 - r as released).
- local_classes='seen', standard cross-entropy: the softmax of Eq. 11 runs over all classes seen and reaches their
  heads; it is still of real images alone, with the same weight.
- kd_images='dreamed' or 'real', no distillation of the other kind: Eq. 13 loses those rows. Its mean stays one over all
  rows, so the rows that are left weigh what they did.
- ft_weight=0, no fine-tuning: without Eq. 14 the old classes' heads keep their values but for weight decay.
"""

import jax.numpy as jnp

from abd_jax import losses
from abd_jax.fields import Choice, Number, weight
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {
  'kd_weight': weight(0.1),  # lambda_kd
  'ft_weight': weight(1.0),  # lambda_ft; the paper's Table F says 0.1, its text and the released code 1
  'first_softmax': Choice('all', 'seen'),  # released: the first task's softmax runs over all classes of the head
  'ft_softmax': Choice('all', 'seen'),  # released: so does Eq. 14's; 'seen': as in the paper
  'local_classes': Choice('new', 'seen'),  # Eq. 11; ablation 'seen': standard cross-entropy of real images
  'local_weight': Choice('balanced', 'one'),  # released: Eq. 11 times new / seen classes; 'one': as in Eq. 15
  'kd_images': Choice('both', 'real', 'dreamed'),  # Eq. 13; the other two are ablations, with the mean over all images
  'balance': Choice('tasks', 'none'),  # weights of Eq. 14; ablation 'none': all are 1, and so is that of Eq. 11
  'kd_reduction': Choice('mean', 'sum'),  # released: over old classes; 'sum': the squared norm of Eq. 13
  'bn_passes': Number(2, 1, 100),  # released: two forward passes fold each batch into the running statistics twice
}


def make(config) -> Method:
  c = config.abd
  weights = {'kd': c.kd_weight, 'ft': c.ft_weight}

  def first_loss(inputs: LossInputs):
    where = inputs.classes.seen if c.first_softmax == 'seen' else None
    ce = jnp.mean(losses.cross_entropy(inputs.student.logits, inputs.labels, where))
    return ce, {'ce': ce}

  def later_loss(inputs: LossInputs):
    student, teacher, classes = inputs.student, inputs.teachers[0], inputs.classes
    classes_of_local = classes.new if c.local_classes == 'new' else classes.seen
    local = losses.local_cross_entropy(student.logits, inputs.labels, inputs.is_real, classes_of_local)
    rows = {'both': None, 'real': inputs.is_real, 'dreamed': ~inputs.is_real}[c.kd_images]
    kd = losses.weighted_feature_distillation(
      student.features, teacher.features, teacher.kernel, classes.old, c.kd_reduction, rows
    )
    balance = jnp.ones_like(student.logits[:, 0])
    if c.balance == 'tasks':
      balance = losses.task_balance(inputs.labels, classes.old, classes.seen)
    where = classes.seen if c.ft_softmax == 'seen' else None
    ft = losses.finetune_cross_entropy(student.features, student.kernel, student.bias, inputs.labels, balance, where)
    if c.local_weight == 'balanced' and c.balance == 'tasks':
      # As released: the balancing weight of the new classes, 1 - r.
      local = local * (jnp.sum(classes.new) / jnp.sum(classes.seen))
    terms = {'ce': local, 'kd': kd, 'ft': ft}
    return losses.weighted_sum(terms, weights), terms

  schedule = student_schedule(config.student)
  return Method(
    first=(Phase(first_loss, **schedule),),
    later=(Phase(later_loss, **schedule, teachers=1, dreams=True, bn_passes=c.bn_passes),),
  )
