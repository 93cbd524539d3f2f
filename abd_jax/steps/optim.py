"""Optimizers without a learning rate: it is an argument of the step, so that no schedule forces a recompile."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

PyTree = Any


def sgd(momentum: float, weight_decay: float) -> optax.GradientTransformation:
  """SGD with momentum and COUPLED weight decay on all parameters (paper, section 7), before the rate."""
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum))


def adam() -> optax.GradientTransformation:
  """Adam (0.9, 0.999, 1e-8), before the rate."""
  return optax.scale_by_adam()


def apply_update(params: PyTree, direction: PyTree, lr: jax.Array) -> PyTree:
  """params - lr * direction, leaf by leaf, in the parameters' own precision."""
  return jax.tree.map(lambda p, d: p - (lr * d).astype(p.dtype), params, direction)


def in_precision_of(params: PyTree, gradients: PyTree) -> PyTree:
  """The gradients, which may be of narrower copies of the parameters, in the parameters' dtypes."""
  return jax.tree.map(lambda p, g: g.astype(p.dtype), params, gradients)


def learning_rates(lr: float, milestones: Sequence[int], epochs: np.ndarray) -> np.ndarray:
  """f32[k]: `lr` divided by ten from the start of each 0-based milestone epoch on, for each of `epochs` i32[k]."""
  drops = (np.asarray(epochs)[:, None] >= np.asarray(milestones, int)[None, :]).sum(1)
  return (lr * 0.1**drops).astype(np.float32)
