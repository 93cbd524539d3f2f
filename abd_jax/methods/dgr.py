"""Deep generative replay (Shin et al., 2017) as released: a variational autoencoder dreams, trained with the student.

Images stay in [0, 1]. The autoencoder and the student take the same SGD step on the same batch: new images and the
previous autoencoder's samples, labelled by the previous student.
"""

from typing import Any

import jax
import jax.numpy as jnp

from abd_jax import losses
from abd_jax.errors import UserError
from abd_jax.fields import Number, Numbers
from abd_jax.methods.types import LossInputs, Method, Phase, student_schedule
from abd_jax.models.vae import VAE

SETTINGS = {
  'widths': Numbers((64, 128, 512), 1, 65536, range(1, 17)),  # channels of the autoencoder
  'latent': Number(1024, 1, 65536),  # length of its code
}
READS = ('lwf',)
RECIPE = {'data.mean': (0.0, 0.0, 0.0), 'data.std': (1.0, 1.0, 1.0), 'student.weight_decay': 0.0}


def make(config) -> Method:
  data, net = config.data, config.generator
  if any(data.mean) or set(data.std) != {1.0}:
    raise UserError(
      "method 'dgr' needs images in [0, 1]: ask for it after the colon, as in --config=FILE.py:method=dgr."
    )
  height, width = (side * 2 ** len(net.widths) for side in net.start[:2])
  vae: Any = VAE(tuple(config.dgr.widths), config.dgr.latent, (height, width, len(data.mean)))

  def extra_init(key, num_classes):
    return {'vae': vae.init(key, jnp.zeros((1, *vae.image_shape)), key)['params']}

  def dream(teacher, key, size):
    code = jax.random.normal(key, (size, vae.latent))
    return jax.nn.sigmoid(vae.apply({'params': teacher.extra['vae']}, code, method='decode'))

  def loss(inputs: LossInputs):
    student, classes = inputs.student, inputs.classes
    weights = losses.task_balance(inputs.labels, classes.old, classes.seen)
    ce = jnp.mean(weights * losses.cross_entropy(student.logits, inputs.labels, classes.seen))
    image_logits, mean, log_var = vae.apply({'params': student.extra['vae']}, inputs.images, inputs.key)
    terms = {'ce': ce, 'vae': losses.variational_bound(inputs.images, image_logits, mean, log_var, weights)}
    if inputs.teachers:
      kd = losses.distillation(student.logits, inputs.teachers[0].logits, classes.old, config.lwf.temperature)
      terms['kd'] = losses.mean_over(kd, ~inputs.is_real)
    return losses.weighted_sum(terms, {'kd': config.lwf.weight}), terms

  common: dict[str, Any] = dict(trainable=('backbone', 'head', 'vae'), **student_schedule(config.student))
  later = Phase(loss, **common, teachers=1, dreams=True, dreamer=dream)
  return Method(first=(Phase(loss, **common),), later=(later,), extra_init=extra_init)
