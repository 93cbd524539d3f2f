"""DeepInversion (Yin et al., 2020) as the paper runs it for class-incremental learning, Eq. 8 and 9.

Cross-entropy on real images, softmax distillation on real and dreamed ones, where the teacher gives the new classes
probability zero. As released, that is so of dreamed images only, and real ones are distilled over the old classes
alone; deep_inversion.kd_real='padded' treats both alike, as the equations do.
"""

from abd_jax import losses
from abd_jax.fields import Choice
from abd_jax.losses import mean_over
from abd_jax.methods import base
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule

SETTINGS = {
  'kd_real': Choice('old', 'padded'),  # released: over old classes alone; 'padded': new ones have probability 0, Eq. 9
}
READS = ('lwf',)


def make(config) -> Method:
  c = config.lwf

  def loss(inputs: LossInputs):
    classes, is_real = inputs.classes, inputs.is_real
    logits, old_logits = inputs.student.logits, inputs.teachers[0].logits
    ce = mean_over(losses.cross_entropy(logits, inputs.labels, classes.seen), is_real)
    padded = losses.zero_padded_distillation(logits, old_logits, classes.old, classes.seen, c.temperature)
    of_real = padded
    if config.deep_inversion.kd_real == 'old':
      of_real = losses.distillation(logits, old_logits, classes.old, c.temperature)
    real, dreamed = mean_over(of_real, is_real), mean_over(padded, ~is_real)
    return ce + c.weight * (real + dreamed), {'ce': ce, 'kd_real': real, 'kd_dreamed': dreamed}

  schedule = student_schedule(config.student)
  later = Phase(loss, **schedule, teachers=1, dreams=True)
  return Method(first=(Phase(base.loss, **schedule),), later=(later,))
