"""The form of each expensive operation for each kind of device; all forms are equal up to rounding."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from abd_jax.data.augment import Crop, crop_by_choice, crop_by_index
from abd_jax.devices.mesh import DataMesh
from abd_jax.models.moments import TWO_PASSES, Statistics, in_sums

Conv = Callable[..., jax.Array]  # can replace jax.lax.conv_general_dilated in flax.linen.Conv
plain_conv: Conv = jax.lax.conv_general_dilated
PIECE = 32  # images; with whole batches of 128 or 256, XLA on CPU takes about twice as long per image


def conv_on_cpu(images: jax.Array, kernel: jax.Array, strides, padding, **kwargs) -> jax.Array:
  """A convolution without dilation for a single CPU, which computes the weight gradient over pieces of the batch."""

  def plain(images, kernel):
    return plain_conv(images, kernel, strides, padding, **kwargs)

  @jax.custom_vjp
  def conv(images, kernel):
    return plain(images, kernel)

  def forward(images, kernel):
    return plain(images, kernel), (images, kernel)

  def backward(saved, gradient):
    images, kernel = saved
    if images.dtype == jnp.bfloat16 and tuple(strides) == (1, 1):
      # A forward convolution by the turned kernel: oneDNN, whose bfloat16 is fast, takes no reversed window.
      around = [(n - 1 - low, n - 1 - high) for n, (low, high) in zip(kernel.shape, padding, strict=False)]
      to_images = plain_conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3), strides, around, **kwargs)
    else:
      (to_images,) = jax.vjp(lambda images: plain(images, kernel), images)[1](gradient)
    pieces = [slice(start, start + PIECE) for start in range(0, images.shape[0], PIECE)]
    to_kernel = [jax.vjp(lambda k, p=p: plain(images[p], k), kernel)[1](gradient[p])[0] for p in pieces]
    return to_images, sum(to_kernel)

  conv.defvjp(forward, backward)
  return conv(images, kernel)


def upsample_conv_of_four(conv: Conv) -> Conv:
  """Doubles the resolution to the nearest pixel, then convolves: [b, h, w, c] -> [b, 2h, 2w, width].

  The kernel is 3x3, padded by 1. Each doubled pixel's window holds 2x2 different ones, so the kernel's rows and
  columns are added up first: 4 products in place of 9, in the gradients too. Best on CPU.
  """

  def doubled(images: jax.Array, kernel: jax.Array, strides, padding, **kwargs) -> jax.Array:
    del padding  # 1 on each side, split below

    def fold(kernel, axis):  # for even and for odd pixels
      one, two, three = jnp.split(kernel, 3, axis)
      return jnp.concatenate([one, two + three], axis), jnp.concatenate([one + two, three], axis)

    def line(row, kernel):
      pixels = [
        conv(images, part, strides, ((1 - row, row), (1 - column, column)), **kwargs)
        for column, part in enumerate(fold(kernel, 1))
      ]
      return jnp.stack(pixels, axis=3)

    lines = jnp.stack([line(row, part) for row, part in enumerate(fold(kernel, 0))], axis=2)
    b, h, _, w, _, width = lines.shape
    return lines.reshape(b, 2 * h, 2 * w, width)

  return doubled


def upsample_conv_of_one(images: jax.Array, kernel: jax.Array, strides, padding, **kwargs) -> jax.Array:
  """The same as ONE convolution of the images with zeros between their pixels, which GPU and TPU have built in.

  Repeating each pixel equals putting a zero behind it and adding the pixel before; a 4x4 kernel includes that sum.
  """
  del padding  # 1 on each side; 2 for the wider kernel

  def spread(kernel, axis):
    behind, before = [[(0, 0)] * kernel.ndim for _ in range(2)]
    behind[axis], before[axis] = (0, 1), (1, 0)
    return jnp.pad(kernel, behind) + jnp.pad(kernel, before)

  kwargs['lhs_dilation'] = (2, 2)
  return plain_conv(images, spread(spread(kernel, 0), 1), strides, ((2, 2), (2, 2)), **kwargs)


class Kernels(NamedTuple):
  conv: Conv = plain_conv
  upsample_conv: Conv = upsample_conv_of_four(plain_conv)
  statistics: Statistics = TWO_PASSES
  crop: Crop = crop_by_index
  folds: bool = False  # whether batch norms of teachers become part of their convolutions


def kernels_for(mesh: DataMesh) -> Kernels:
  """The forms for the devices of the mesh, which may not be those of this process."""
  if mesh.platform != 'cpu':
    on_tpu = mesh.platform == 'tpu'
    gather = mesh.gather_by_sum if on_tpu else mesh.gather
    statistics = in_sums(mesh.size, gather, one_pass=not on_tpu)
    crop = crop_by_choice if on_tpu else crop_by_index
    return Kernels(plain_conv, upsample_conv_of_one, statistics, crop, folds=True)
  if mesh.size == 1:
    return Kernels(conv_on_cpu, upsample_conv_of_four(conv_on_cpu))
  return Kernels()
