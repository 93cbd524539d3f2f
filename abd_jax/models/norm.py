"""Batch normalisation whose input moments can be read.

Inversion matches the moments of every layer's input against the stored statistics (Eq. 4), and training
folds the same moments into them. So the layer never updates its statistics itself: it writes the moments of
its input into the collection 'moments', and the step decides what becomes of them (`update_running_stats`,
`batch_and_stored_stats`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any
Initializer = Callable[..., jax.Array]

GAMMA_INITS: dict[str, Initializer] = {
  'ones': nn.initializers.ones,
  # What the authors' pinned torch 1.0.1 drew: U(0, 1).
  'uniform': lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype),
}


class BatchNorm(nn.Module):
  """Normalises over every axis but the last.

  Collections: 'batch_stats' {mean, var: f32[c]} is read when `train` is False; 'moments' {mean, var: f32[c],
  count: f32[]} is written whenever it is mutable: the biased moments of the input over the GLOBAL batch and
  the number of values behind each.
  """

  epsilon: float = 1e-5
  affine: bool = True
  gamma_init: Initializer = nn.initializers.ones
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = (x.shape[-1],)
    stored_mean = self.variable('batch_stats', 'mean', jnp.zeros, width, self.param_dtype)
    stored_var = self.variable('batch_stats', 'var', jnp.ones, width, self.param_dtype)
    row = lambda vector: vector.reshape(*(1,) * (x.ndim - 1), -1)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    reads_moments = self.is_mutable_collection('moments')
    if train or reads_moments:
      axes = tuple(range(x.ndim - 1))
      mean = wide.mean(axes)
      # Two passes: E[x^2] - E[x]^2 loses most digits of a small variance, and Eq. 5 takes its log.
      var = jnp.square(wide - row(mean)).mean(axes)
      if reads_moments:
        self.put_variable('moments', 'mean', mean)
        self.put_variable('moments', 'var', var)
        self.put_variable('moments', 'count', jnp.asarray(x.size // x.shape[-1], mean.dtype))
    if not train:
      mean, var = stored_mean.value, stored_var.value
    scale = jax.lax.rsqrt(var + self.epsilon)
    if self.affine:
      scale = scale * self.param('scale', self.gamma_init, width, self.param_dtype)
    y = (wide - row(mean)) * row(scale)
    if self.affine:
      y = y + row(self.param('bias', nn.initializers.zeros, width, self.param_dtype))
    return y.astype(x.dtype)


def _is_layer(tree: PyTree) -> bool:
  return isinstance(tree, dict) and 'mean' in tree


def update_running_stats(batch_stats: PyTree, moments: PyTree, decay: float | jax.Array) -> PyTree:
  """Running statistics after one more batch: decay * stored + (1 - decay) * batch.

  The variance absorbed is the unbiased one (n / (n - 1)), as in the authors' framework.
  """

  def one(stored, batch):
    unbiased = batch['var'] * (batch['count'] / (batch['count'] - 1))
    return {
      'mean': decay * stored['mean'] + (1 - decay) * batch['mean'],
      'var': decay * stored['var'] + (1 - decay) * unbiased,
    }

  return jax.tree.map(one, batch_stats, moments, is_leaf=_is_layer)


def batch_and_stored_stats(
  batch_stats: PyTree, moments: PyTree
) -> list[tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
  """One (batch mean, biased batch var, stored mean, stored var) per batch norm, each f32[c]."""
  one = lambda stored, batch: (batch['mean'], batch['var'], stored['mean'], stored['var'])
  paired = jax.tree.map(one, batch_stats, moments, is_leaf=_is_layer)
  return jax.tree.leaves(paired, is_leaf=lambda x: isinstance(x, tuple))
