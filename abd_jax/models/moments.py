"""Ways to compute the statistics of a batch norm's input; they are equal up to rounding.

`TWO_PASSES`: the mean, then the mean square of the difference; JAX's derivatives. Best where kernel launches are free.
`in_sums`: with a derivative of two sums and one pass over the input, for GPU and TPU; on GPU one pass for both moments.

Here x is f[b, ..., c] and statistics are those of the GLOBAL batch, per channel: f32[c], or f64[c] of f64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Statistics(NamedTuple):
  moments: Callable[[Array], tuple[Array, Array]]  # x -> (mean, biased variance)
  # (x, scale or None, bias or None, epsilon) -> (x normalised by its own moments, mean, biased variance)
  normalise: Callable[[Array, Array | None, Array | None, float], tuple[Array, Array, Array]]


def widen(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row(vector: Array, x: Array) -> Array:
  """A value per channel, [c], shaped to broadcast over x: [1, ..., c]."""
  return vector.reshape(*(1,) * (x.ndim - 1), -1)


def apply(x: Array, mean: Array, var: Array, scale: Array | None, bias: Array | None, epsilon: float) -> Array:
  """x normalised by these moments, in its own dtype."""
  factor = jax.lax.rsqrt(var + epsilon)
  if scale is not None:
    factor = factor * scale
  y = (widen(x) - _row(mean, x)) * _row(factor, x)
  return (y if bias is None else y + _row(bias, x)).astype(x.dtype)


def _two_passes(x: Array) -> tuple[Array, Array]:
  wide, axes = widen(x), tuple(range(x.ndim - 1))
  mean = wide.mean(axes)
  # E[x^2] - E[x]^2 loses most digits of a small variance, and Eq. 5 takes its log.
  return mean, jnp.square(wide - _row(mean, x)).mean(axes)


def _normalise_in_two_passes(x, scale, bias, epsilon):
  mean, var = _two_passes(x)
  return apply(x, mean, var, scale, bias, epsilon), mean, var


TWO_PASSES = Statistics(_two_passes, _normalise_in_two_passes)


def in_sums(shards: int, gather: Callable[[Array], Array], *, one_pass: bool) -> Statistics:
  """Statistics of batches split evenly over `shards` devices; `gather` puts a whole array [shards, ...] on each.

  one_pass: computes two sums (both moments, or both of the derivative) in one reduction, one launch fewer on a GPU. A
  TPU fuses a sum with the convolution before it, unless it is of pairs or needs a value of the convolution first.

  In one pass each shard subtracts one of its own values, the pivot, before it squares: the variance is E[d^2] - E[d]^2
  of the differences d from it. Its relative error is that of the sums, about 1e-6, times 1 + E[d]^2 / var, which does
  not depend on the mean. A constant channel has variance 0. Means and variances of the shards are combined in two
  passes, after one collective.
  """
  of_shard, sums = (_in_one_pass, _sums_of_pairs) if one_pass else (_two_passes, _sums)

  def moments(x: Array) -> tuple[Array, Array]:
    if shards == 1:
      return of_shard(x)
    parts = x.reshape(shards, x.shape[0] // shards, *x.shape[1:])
    mean, var = jnp.unstack(gather(jnp.stack(jax.vmap(of_shard)(parts), 1)), axis=1)
    whole = mean.mean(0)
    return whole, (var + jnp.square(mean - whole[None])).mean(0)

  return Statistics(_differentiable(moments), _normalise_at_once(moments, sums))


def _in_one_pass(x: Array) -> tuple[Array, Array]:
  wide, count = widen(x), x.size // x.shape[-1]
  pivot = wide[(0, *(side // 2 for side in x.shape[1:-1]))]  # the centre, as corners may be padding
  from_pivot = wide - _row(pivot, x)
  first, second = (total / count for total in _sums_of_pairs(from_pivot, jnp.square(from_pivot)))
  return pivot + first, jnp.maximum(second - jnp.square(first), 0)


def _sums(a: Array, b: Array) -> tuple[Array, Array]:
  """The sums of two arrays per channel."""
  axes = tuple(range(a.ndim - 1))
  return a.sum(axes), b.sum(axes)


def _sums_of_pairs(a: Array, b: Array) -> tuple[Array, Array]:
  """The same in one reduction: XLA would not merge the later stages of two."""
  zero = jnp.zeros((), a.dtype)
  return jax.lax.reduce((a, b), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), range(a.ndim - 1))


def _differentiable(moments: Callable) -> Callable:
  """`moments` with the derivative of the exact moments, which needs no reduction."""

  def forward(x):
    mean, var = moments(x)
    return (mean, var), (x, mean)

  def backward(saved, gradients):
    (x, mean), (to_mean, to_var) = saved, gradients
    count = x.size // x.shape[-1]
    return (((_row(to_mean, x) + 2 * _row(to_var, x) * (widen(x) - _row(mean, x))) / count).astype(x.dtype),)

  differentiable = jax.custom_vjp(moments)
  differentiable.defvjp(forward, backward)
  return differentiable


def _normalise_at_once(moments: Callable, sums: Callable) -> Callable:
  """Statistics.normalise, whose derivative is two sums in one pass and one pass over x."""

  def normalise(x, scale, bias, epsilon):
    mean, var = moments(x)
    return apply(x, mean, var, scale, bias, epsilon), mean, var

  def forward(x, scale, bias, epsilon):
    y, mean, var = normalise(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, bias, mean, var)

  def backward(epsilon, saved, gradients):
    x, scale, bias, mean, var = saved
    to_y, to_mean, to_var = gradients
    count = x.size // x.shape[-1]
    to_y, centred, inverse = widen(to_y), widen(x) - _row(mean, x), jax.lax.rsqrt(var + epsilon)
    total, along = sums(to_y, to_y * centred)
    factor = inverse if scale is None else inverse * scale
    constant = (to_mean - factor * total) / count
    slope = (2 * to_var - factor * jnp.square(inverse) * along) / count
    to_x = (_row(factor, x) * to_y + _row(slope, x) * centred + _row(constant, x)).astype(x.dtype)
    to_scale = None if scale is None else (along * inverse).astype(scale.dtype)
    return to_x, to_scale, None if bias is None else total.astype(bias.dtype)

  differentiable = jax.custom_vjp(normalise, nondiff_argnums=(3,))
  differentiable.defvjp(forward, backward)
  return differentiable
