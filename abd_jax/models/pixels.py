"""The images themselves as parameters, which inversion can train in place of a generator."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


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
