"""Colour jitter of raw images inside jit, equal to Pillow's ImageEnhance bit for bit."""

import jax
import jax.numpy as jnp

# Parts of 65,536 that red, green and blue have in the luma of ITU-R BT.601, as in Pillow's convert('L').
_LUMA = (19595, 38470, 7471)


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
  """ImageEnhance.Brightness: each image of uint8[b, h, w, c] blended with black; `factor` f32[b], 1 changes nothing."""
  return _blend(jnp.int32(0), images, factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
  """ImageEnhance.Contrast: the same with the image's mean grey instead of black; c is 3 or 1."""
  return _blend(_mean_grey(images), images, factor)


def jitter(
  key: jax.Array, images: jax.Array, *, brightness_width: float = 63 / 255, contrast_width: float = 0.8
) -> jax.Array:
  """Changes brightness and contrast of each image at random, in random order, rounding after each as Pillow does.

  Args:
    key: of the draws; each image has its own.
    images: uint8[b, h, w, c] of values 0..255; c is 3 or 1.
    brightness_width: factors are uniform in 1 +- this, but never negative. 0 leaves the brightness as it is.
    contrast_width: likewise. The defaults are the paper's.

  Returns:
    uint8[b, h, w, c].
  """
  brightness_key, contrast_key, order_key = jax.random.split(key, 3)
  b = images.shape[0]
  brightness_factor = _draw_factor(brightness_key, b, brightness_width)
  contrast_factor = _draw_factor(contrast_key, b, contrast_width)
  contrast_first = jax.random.bernoulli(order_key, jnp.float32(0.5), (b,))
  for is_contrast in (contrast_first, ~contrast_first):
    grey = jnp.where(is_contrast, _mean_grey(images), 0)
    images = _blend(grey, images, jnp.where(is_contrast, contrast_factor, brightness_factor))
  return images


def _draw_factor(key: jax.Array, b: int, width: float) -> jax.Array:
  return jax.random.uniform(key, (b,), jnp.float32, max(0.0, 1 - width), 1 + width)


def _mean_grey(images: jax.Array) -> jax.Array:
  """int32[b]: each image's mean luma, rounded half up. One channel is broadcast: the weights sum to 1."""
  channels = jnp.unstack(jnp.broadcast_to(images, (*images.shape[:-1], 3)).astype(jnp.int32), axis=-1)
  # Added one by one: a GPU then reduces once, not along the channels and again over the image.
  red, green, blue = (part * channel for part, channel in zip(_LUMA, channels, strict=True))
  luma = (red + green + blue + 2**15) >> 16
  n = luma.shape[1] * luma.shape[2]
  return (2 * jnp.sum(luma, (1, 2), dtype=jnp.int32) + n) // (2 * n)


def _blend(grey: jax.Array, images: jax.Array, factor: jax.Array) -> jax.Array:
  """Image.blend: grey + factor * (image - grey) in float32, clipped and truncated; int32[b] or [], uint8, f32[b].

  Pillow rounds the product before it adds. Compilers like to fuse the two into one instruction that does not,
  and pixels that come near a whole number then differ. So the factor is split into two halves of 12 bits: their
  products are exact, their sum is the rounded product either way, and no product is left next to the last sum.
  """
  factor = factor.astype(jnp.float32)
  bits = jax.lax.bitcast_convert_type(factor, jnp.uint32)
  high = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFF000), jnp.float32)
  low = factor - high
  grey, high, low = (jnp.reshape(x, (-1, 1, 1, 1)) for x in (grey, high, low))
  difference = (images.astype(jnp.int32) - grey).astype(jnp.float32)
  blended = grey.astype(jnp.float32) + (high * difference + low * difference)
  return jnp.clip(blended, 0, 255).astype(jnp.uint8)
