"""The variational autoencoder of deep generative replay."""

from collections.abc import Sequence
from functools import partial
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp

from abd_jax.models.resnet import fan_in_uniform


class VAE(nn.Module):
  """Strided 4x4 convolutions to a Gaussian code, and back.

  (images f[n, *image_shape] in [0, 1], key) -> (logits of the reconstruction, mean, log variance f[n, latent]). The
  authors' has widths (64, 128, 512) and latent 1024: 28,722,179 parameters on 32x32x3.
  """

  widths: Sequence[int]
  latent: int
  image_shape: tuple[int, int, int]  # sides are multiples of 2^len(widths)

  def setup(self):
    height, width, channels = self.image_shape
    halvings = len(self.widths)
    # As released, the first step up halves the width, unlike the encoder's last step.
    ups = (*(self.widths[-1] // 2, *self.widths[-3::-1])[: halvings - 1], channels)
    self.start = (height >> halvings, width >> halvings, self.widths[-1])

    def layer(kind, fan_in, *args, **kwargs):
      return kind(*args, **kwargs, kernel_init=fan_in_uniform(fan_in), bias_init=fan_in_uniform(fan_in))

    down, up = (partial(layer, kind) for kind in (nn.Conv, nn.ConvTranspose))
    shape = dict(kernel_size=(4, 4), strides=(2, 2))
    inputs = (channels, *self.widths[:-1])
    self.encoder = [down(16 * n, w, **shape, padding=1) for n, w in zip(inputs, self.widths, strict=True)]
    self.mean, self.log_var = (layer(nn.Dense, prod(self.start), self.latent) for _ in range(2))
    self.expand = layer(nn.Dense, self.latent, prod(self.start))
    # The authors' framework uses the output width as the fan-in of a transposed convolution.
    self.decoder = [up(16 * w, w, **shape, padding='SAME') for w in ups]

  def __call__(self, images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = images
    for conv in self.encoder:
      x = nn.relu(conv(x))
    x = x.reshape(len(x), -1)
    mean, log_var = self.mean(x), self.log_var(x)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return self.decode(mean + jnp.exp(0.5 * log_var) * noise), mean, log_var

  def decode(self, code: jax.Array) -> jax.Array:
    """Codes f[n, latent] -> logits of images f[n, *image_shape]."""
    x = self.expand(code).reshape(len(code), *self.start)
    for k, conv in enumerate(self.decoder):
      x = conv(x if k == 0 else nn.relu(x))
    return x
