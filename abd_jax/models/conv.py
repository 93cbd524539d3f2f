"""Convolution for a single CPU: XLA's, its weight gradient taken piece by piece."""

import jax

PIECE = 32  # images; whole batches of 128 or 256 take XLA about twice as long for each image


def conv_on_cpu(images: jax.Array, kernel: jax.Array, *args, **kwargs) -> jax.Array:
  """`jax.lax.conv_general_dilated` of images [b, ...], equal up to the order in which gradients are summed."""

  def plain(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, *args, **kwargs)

  @jax.custom_vjp
  def conv(images, kernel):
    return plain(images, kernel)

  def forward(images, kernel):
    return plain(images, kernel), (images, kernel)

  def backward(saved, gradient):
    images, kernel = saved
    (to_images,) = jax.vjp(lambda images: plain(images, kernel), images)[1](gradient)
    pieces = [slice(start, start + PIECE) for start in range(0, images.shape[0], PIECE)]
    to_kernel = [jax.vjp(lambda k, p=p: plain(images[p], k), kernel)[1](gradient[p])[0] for p in pieces]
    return to_images, sum(to_kernel)

  conv.defvjp(forward, backward)
  return conv(images, kernel)
