"""Batch normalisation whose input moments can be read.

Inversion matches the moments of every layer's input against the stored statistics (Eq. 4), and training
folds the same moments into them. So the layer never updates its statistics itself: it writes the moments of
its input into the collection 'moments', and the step decides how to use them (`update_running_stats`,
`batch_and_stored_stats`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from abd_jax.models.moments import TWO_PASSES, Statistics, apply

PyTree = Any
Initializer = Callable[..., jax.Array]

GAMMA_INITS: dict[str, Initializer] = {
  'ones': nn.initializers.ones,
  # The default of torch 1.0.1, which the authors used: U(0, 1).
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
  statistics: Statistics = TWO_PASSES
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = (x.shape[-1],)
    stored_mean = self.variable('batch_stats', 'mean', jnp.zeros, width, self.param_dtype)
    stored_var = self.variable('batch_stats', 'var', jnp.ones, width, self.param_dtype)
    scale = bias = None
    if self.affine:
      scale = self.param('scale', self.gamma_init, width, self.param_dtype)
      bias = self.param('bias', nn.initializers.zeros, width, self.param_dtype)
    # Initialisation uses a batch that may not divide over the devices.
    reads_moments = self.is_mutable_collection('moments') and not self.is_initializing()
    moments: Any = None
    if train:
      y, *moments = self.statistics.normalise(x, scale, bias, self.epsilon)
    else:
      # Moments first: on CPU the last bit of their derivatives depends on the order.
      moments = self.statistics.moments(x) if reads_moments else None
      y = apply(x, stored_mean.value, stored_var.value, scale, bias, self.epsilon)
    if reads_moments:
      mean, var = moments
      self.put_variable('moments', 'mean', mean)
      self.put_variable('moments', 'var', var)
      self.put_variable('moments', 'count', jnp.asarray(x.size // x.shape[-1], mean.dtype))
    return y


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
