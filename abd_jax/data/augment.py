"""Colour jitter, random flip and crop, and normalisation of raw images, inside jit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Crop = Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]
# Parts of 65,536 that red, green and blue have in the luma of ITU-R BT.601, as in Pillow's convert('L').
_LUMA = (19595, 38470, 7471)


def crop_by_index(images: jax.Array, offsets: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Window of `shape` (h, w, c) out of each image [b, H, W, c], at `offsets` int32[b, 2] (top, left)."""
  crop_one = lambda image, offset: jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), shape)
  return jax.vmap(crop_one)(images, offsets)


def crop_by_choice(images: jax.Array, offsets: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The same window, chosen among all that there are: rows, then columns. TPUs take indices one image at a time."""
  for axis, side in enumerate(shape[:2], 1):
    start = offsets[:, axis - 1].reshape(-1, 1, 1, 1)
    windows = [jax.lax.slice_in_dim(images, k, k + side, axis=axis) for k in range(images.shape[axis] - side + 1)]
    images = windows[0]
    for k, window in enumerate(windows[1:], 1):
      images = jnp.where(start == k, window, images)
  return images


@dataclass(frozen=True)
class Augment:
  """Pure functions between raw pixels uint8[b, h, w, c] and the network's input dtype[b, h, w, c] of one data set.

  Attributes:
    max_value: raw value of white: 255, or 16 for digits.
    mean: per channel (or one for all), of the images scaled to [0, 1].
    std: likewise.
    pad: pixels added on each side before the crop back to h x w; offsets are uniform in 0..2*pad.
    flip: whether to mirror each image left-right with probability 1/2.
    pad_value: of the added pixels: 'black', raw 0, or 'mean', 0 after normalising.
    brightness: factors of the colour jitter, drawn for each image, are uniform in 1 +- this; for images of
      values 0..255 only. 0: none.
    contrast: likewise.
    crop: the way of cropping: all give the same.
    dtype: of the results.
  """

  max_value: float
  mean: float | Sequence[float]
  std: float | Sequence[float]
  pad: int
  flip: bool
  pad_value: str = 'black'
  brightness: float = 0.0
  contrast: float = 0.0
  crop: Crop = crop_by_index
  dtype: Any = jnp.float32

  def _scale(self) -> tuple[np.ndarray, np.ndarray]:
    """(mean, deviation) as f[1, 1, 1, c], in at least float32: bfloat16 rounds pixel/255 before the mean is off."""
    wide = jnp.promote_types(self.dtype, jnp.float32)
    row = lambda values: np.asarray(values, wide).reshape(1, 1, 1, -1)
    return row(self.mean), row(self.std)

  def normalise(self, images: jax.Array) -> jax.Array:
    """Raw images as the input for evaluation."""
    centre, spread = self._scale()
    return ((images.astype(centre.dtype) / self.max_value - centre) / spread).astype(self.dtype)

  def denormalise(self, images: jax.Array) -> jax.Array:
    """Normalised images clipped to [0, 1], for pictures."""
    centre, spread = self._scale()
    return jnp.clip(images.astype(centre.dtype) * spread + centre, 0, 1).astype(self.dtype)

  def augment(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Raw images jittered, flipped, cropped, then normalised."""
    flip_key, crop_key = jax.random.split(key)
    if self.brightness or self.contrast:
      # A key besides those two, so that flips and crops are the same with and without jitter.
      jitter_key = jax.random.fold_in(key, 2)
      images = jitter(jitter_key, images, brightness_width=self.brightness, contrast_width=self.contrast)
    if self.flip:
      # Dtypes are spelled out, here and below, so that the draws are the same under jax_enable_x64.
      flipped = jax.random.bernoulli(flip_key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
      images = jnp.where(flipped, images[:, :, ::-1], images)
    return self._cropped(crop_key, images)

  def copied(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Raw images mirrored, or cropped where no image is flipped; then normalised."""
    return self.normalise(images[:, :, ::-1]) if self.flip else self._cropped(key, images)

  def _cropped(self, key: jax.Array, images: jax.Array) -> jax.Array:
    if not self.pad:
      return self.normalise(images)
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * self.pad + 1, jnp.int32)
    pixels = self.normalise(images) if self.pad_value == 'mean' else images
    around = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
    pixels = self.crop(jnp.pad(pixels, around), offsets, images.shape[1:])
    return pixels if self.pad_value == 'mean' else self.normalise(pixels)


# Colour jitter, equal to Pillow's ImageEnhance bit for bit.


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
  draw = lambda key, width: jax.random.uniform(key, (b,), jnp.float32, max(0.0, 1 - width), 1 + width)
  brightness_factor, contrast_factor = draw(brightness_key, brightness_width), draw(contrast_key, contrast_width)
  contrast_first = jax.random.bernoulli(order_key, jnp.float32(0.5), (b,))
  for is_contrast in (contrast_first, ~contrast_first):
    grey = jnp.where(is_contrast, _mean_grey(images), 0)
    images = _blend(grey, images, jnp.where(is_contrast, contrast_factor, brightness_factor))
  return images


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
