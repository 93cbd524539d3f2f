"""Colour jitter, random flip and crop, and normalisation of raw images, inside jit."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.data.jitter import jitter

Crop = Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]


class Augment(NamedTuple):
  """Three pure functions between raw pixels and the network's input; b, h, w, c are any sizes.

  Attributes:
    augment: (key, uint8[b, h, w, c] raw pixels) -> dtype[b, h, w, c], each image jittered, flipped and
      cropped at random, then normalised.
    normalise: uint8[b, h, w, c] raw pixels -> dtype[b, h, w, c]; the input for evaluation.
    denormalise: normalised float[b, h, w, c] -> dtype[b, h, w, c] clipped to [0, 1]; for pictures.
  """

  augment: Callable[[jax.Array, jax.Array], jax.Array]
  normalise: Callable[[jax.Array], jax.Array]
  denormalise: Callable[[jax.Array], jax.Array]


def crop_by_index(images: jax.Array, offsets: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Window of `shape` (h, w, c) out of each image [b, H, W, c], at `offsets` int32[b, 2] (top, left)."""

  def crop_one(image: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), shape)

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


def make_augment(
  *,
  max_value: float,
  mean: float | Sequence[float],
  std: float | Sequence[float],
  pad: int,
  pad_value: str = 'black',
  flip: bool,
  brightness: float = 0.0,
  contrast: float = 0.0,
  crop: Crop = crop_by_index,
  dtype: jnp.dtype = jnp.float32,
) -> Augment:
  """Builds the augmentation of one data set.

  Args:
    max_value: raw value of white: 255, or 16 for digits.
    mean: per channel (or one for all), of the images scaled to [0, 1].
    std: likewise.
    pad: pixels added on each side before the crop back to h x w; offsets are uniform in 0..2*pad.
    pad_value: of those pixels: 'black', raw 0, or 'mean', 0 after normalising.
    flip: whether to mirror each image left-right with probability 1/2.
    brightness: factors of the colour jitter, drawn for each image, are uniform in 1 +- this; for images of
      values 0..255 only. 0: none.
    contrast: likewise.
    crop: the way of cropping: all give the same.
    dtype: of the results.
  """
  # Arithmetic in at least float32: bfloat16 rounds pixel/255 before the mean is taken off.
  wide = jnp.promote_types(dtype, jnp.float32)
  centre, spread = (np.asarray(value, wide).reshape(1, 1, 1, -1) for value in (mean, std))

  def normalise(images: jax.Array) -> jax.Array:
    return ((images.astype(wide) / max_value - centre) / spread).astype(dtype)

  def denormalise(images: jax.Array) -> jax.Array:
    return jnp.clip(images.astype(wide) * spread + centre, 0, 1).astype(dtype)

  def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    flip_key, crop_key = jax.random.split(key)
    if brightness or contrast:
      # A key besides those two, so that flips and crops are the same with and without jitter.
      jitter_key = jax.random.fold_in(key, 2)
      images = jitter(jitter_key, images, brightness_width=brightness, contrast_width=contrast)
    if flip:
      # Dtypes are spelled out, here and below, so that the draws are the same under jax_enable_x64.
      flipped = jax.random.bernoulli(flip_key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
      images = jnp.where(flipped, images[:, :, ::-1], images)
    if pad:
      offsets = jax.random.randint(crop_key, (images.shape[0], 2), 0, 2 * pad + 1, jnp.int32)
      pixels = normalise(images) if pad_value == 'mean' else images
      pixels = crop(jnp.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0))), offsets, images.shape[1:])
      return pixels if pad_value == 'mean' else normalise(pixels)
    return normalise(images)

  return Augment(augment, normalise, denormalise)
