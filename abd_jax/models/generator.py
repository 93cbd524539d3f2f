"""What inversion trains: a generator of images in the classifier's normalised space, or the images themselves."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from abd_jax.models.kernels import Conv, Kernels
from abd_jax.models.norm import GAMMA_INITS, BatchNorm
from abd_jax.models.resnet import fan_in_uniform

# In the authors' code the second positional argument of their inner batch norms, meant as a momentum, is epsilon.
INNER_EPSILON = 0.8


class Generator(nn.Module):
  """Linear, batch norm, then [upsample x2, convolution, batch norm, leaky ReLU] per width, to an image.

  z f32[b, latent] -> f32[b, h, w, channels] with h, w = start * 2^len(widths); each channel leaves an affine-free
  batch norm, so over a batch it is about N(0, 1), as normalised images are. The authors' CIFAR generator is
  latent 1000, start (8, 8, 128), widths (128, 64): 8,423,939 parameters.
  """

  latent: int
  start: Sequence[int]
  widths: Sequence[int]
  channels: int
  gamma_init: str = 'ones'
  kernels: Kernels = Kernels()
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def draw(self, key: jax.Array, size: int) -> jax.Array:
    """z ~ N(0, I), f[size, latent]."""
    return jax.random.normal(key, (size, self.latent), self.param_dtype)

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    common: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    same: dict[str, Any] = dict(statistics=self.kernels.statistics, param_dtype=self.param_dtype)
    norm = partial(BatchNorm, gamma_init=GAMMA_INITS[self.gamma_init], **same)

    def conv(width: int, x: jax.Array, name: str, how: Conv = self.kernels.conv) -> jax.Array:
      init = fan_in_uniform(9 * x.shape[-1])
      shape = dict(kernel_size=(3, 3), padding=((1, 1), (1, 1)), conv_general_dilated=how)
      return nn.Conv(width, **shape, kernel_init=init, bias_init=init, name=name, **common)(x)

    height, width, depth = self.start
    init = fan_in_uniform(self.latent)
    wide = dict(dtype=self.param_dtype, param_dtype=self.param_dtype)  # only convolutions are narrow
    x = nn.Dense(height * width * depth, kernel_init=init, bias_init=init, name='project', **wide)(z)
    x = norm(name='norm')(x.reshape(-1, height, width, depth), train)
    for i, features in enumerate(self.widths):
      x = conv(features, x, f'conv{i}', self.kernels.upsample_conv)
      x = nn.leaky_relu(norm(epsilon=INNER_EPSILON, name=f'norm{i}')(x, train), 0.2)
    x = jnp.tanh(conv(self.channels, x, 'to_image').astype(self.param_dtype))
    return norm(affine=False, name='norm_out')(x, train)


class Pixels(nn.Module):
  """A fixed set of images as parameters, f[count, h, w, c] from N(0, 1): indices i32[b] -> f[b, h, w, c]."""

  count: int
  image_shape: tuple[int, int, int]
  param_dtype: Any = jnp.float32

  def draw(self, key: jax.Array, size: int) -> jax.Array:
    return jax.random.randint(key, (size,), 0, self.count, jnp.int32)

  @nn.compact
  def __call__(self, index: jax.Array, train: bool) -> jax.Array:
    shape = (self.count, *self.image_shape)
    return self.param('pixels', nn.initializers.normal(1.0), shape, self.param_dtype)[index]


def stop_redundant_bias_gradients(params: dict) -> dict:
  """The parameters without a gradient into biases that a batch norm removes.

  The exact gradient is zero; Adam would turn its rounding error into steps of the size of the learning rate.
  """
  hold = lambda layer: layer | {'bias': jax.lax.stop_gradient(layer['bias'])}
  return {name: hold(layer) if name.startswith('conv') else layer for name, layer in params.items()}
