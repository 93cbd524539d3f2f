"""R-DFCIL, relation-guided representation learning for data-free class-incremental learning (Gao et al., ECCV 2022).

New classes are learnt among themselves, old logits are held on dreamed images, and the angles between the features of
real ones are held through two learned maps. Then the head alone is finetuned on both, seldom labels weighing more:
labels are counted through both stages. Heads have no bias, and real and dreamed images pass batch norm apart.
"""

from typing import Any

import jax
import jax.numpy as jnp

from abd_jax import losses
from abd_jax.fields import Share, count, rate
from abd_jax.methods.types import LossInputs, Method, Output, Phase, student_schedule
from abd_jax.models.resnet import fan_in_uniform

SETTINGS = {
  'finetune_epochs': count(40),  # of the second stage
  'finetune_lr': rate(5e-3),
}
# Its authors' settings for CIFAR-100, where the config has 250 epochs and 10,000 steps.
RECIPE = {
  'student.epochs': Share(0.64),
  'student.milestones': Share((0.32, 0.48), of='student.epochs'),
  'student.weight_decay': 5e-4,
  'inversion.steps': Share(0.5),
  'inversion.warm_start': False,
  'data.brightness': 0.0,
  'data.contrast': 0.0,
  'data.pad_value': 'mean',
  'model.variant': 'rdfcil',
  'rdfcil.finetune_epochs': Share(0.16, of='student.epochs'),
}
_ON_IMAGENET = {
  'student.epochs': Share(0.9),  # 90
  'student.milestones': Share((0.3, 0.6), of='student.epochs'),
  'student.batch_size': 64,
  'student.weight_decay': 1e-4,
  'inversion.steps': Share(0.2),  # 10,000
  'data.pad_value': 'black',
  'model.variant': 'imagenet',
  'rdfcil.finetune_epochs': Share(0.3, of='student.epochs'),
}
RECIPE_ON = {
  'tiny_imagenet': {'student.weight_decay': 2e-4},
  'imagenet50': _ON_IMAGENET,
  'imagenet100': _ON_IMAGENET,
}


def factors(classes):
  """(cross-entropy's, logit distillation's, relation's): they adapt to how many classes are old, and new."""
  old, new = jnp.sum(classes.old), jnp.sum(classes.new)
  a, b = jnp.log2(new / 2 + 1), jnp.sqrt(old / new)
  return 0.5 * (1 + 1 / a) / b, 0.15 * a * b, 0.5 * a * b


def logits_of(output: Output):
  return output.features @ output.kernel


def feature_maps(key, width: int):
  """Linear maps of features f[n, width] to twice as many, for the student's and the teacher's."""
  keys, init = jax.random.split(key, 4), fan_in_uniform(width)
  one = lambda k: {'kernel': init(keys[k], (width, 2 * width)), 'bias': init(keys[k + 1], (2 * width,))}
  return {'student': one(0), 'teacher': one(2)}


def count_labels(extra, labels):
  return extra | {'counts': extra['counts'].at[labels].add(1.0)}


def distill(inputs: LossInputs):
  old_logits = logits_of(inputs.teachers[0])
  return losses.hard_distillation(logits_of(inputs.student), old_logits, inputs.is_real, inputs.classes.old)


def mapped(output: Output, layer):
  return output.features[::2] @ layer['kernel'] + layer['bias'][None]  # of real images: every other row


def first_loss(inputs: LossInputs):
  ce = jnp.mean(losses.cross_entropy(logits_of(inputs.student), inputs.labels, inputs.classes.seen))
  return ce, {'ce': ce}


def learning(inputs: LossInputs):
  student, teacher, classes = inputs.student, inputs.teachers[0], inputs.classes
  ce_factor, kd_factor, relation_factor = factors(classes)
  ce = losses.local_cross_entropy(logits_of(student), inputs.labels, inputs.is_real, classes.new)
  kd, maps = distill(inputs), student.extra['maps']
  relation = losses.relational_distillation(mapped(student, maps['student']), mapped(teacher, maps['teacher']))
  total = ce_factor * ce + kd_factor * kd + relation_factor * relation
  return total, {'ce': ce, 'kd': kd, 'relation': relation}


def finetuning(inputs: LossInputs):
  counts, (_, kd_factor, _) = jax.lax.stop_gradient(inputs.student.extra['counts']), factors(inputs.classes)
  weights = jnp.max(counts) / jnp.maximum(counts, 1.0)
  ce = losses.weighted_cross_entropy(logits_of(inputs.student), inputs.labels, weights, inputs.classes.seen)
  kd = distill(inputs)
  return 0.5 * ce + kd_factor * kd, {'ce': ce, 'kd': kd}


def make(config) -> Method:
  c = config.rdfcil
  fresh_maps = lambda key: feature_maps(key, config.model.widths[-1])

  def extra_init(key, num_classes):
    return {'maps': fresh_maps(key), 'counts': jnp.zeros(num_classes)}

  def start_task(params, extra, key, classes):
    kernel, (head_key, key) = params['head']['kernel'], jax.random.split(key)
    rows = 1e-3 * jax.random.normal(head_key, kernel.shape, kernel.dtype)
    head = {'kernel': jnp.where(classes.new[None], rows, kernel), 'bias': jnp.zeros_like(params['head']['bias'])}
    return params | {'head': head}, {'maps': fresh_maps(key), 'counts': jnp.zeros_like(extra['counts'])}

  schedule = student_schedule(config.student)
  first = Phase(first_loss, **schedule)
  dreaming: dict[str, Any] = dict(teachers=1, dreams=True, joint_bn=False, observe=count_labels)
  learn = Phase(learning, **schedule, **dreaming, trainable=('backbone', 'head', 'maps'))
  only_head: dict[str, Any] = dict(trainable=('head',), bn_passes=0, reset_optimizer=False)
  finetune = Phase(finetuning, c.finetune_epochs, c.finetune_lr, **dreaming, **only_head)
  return Method(first=(first,), later=(learn, finetune), extra_init=extra_init, start_task=start_task)
