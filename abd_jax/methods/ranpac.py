"""RanPAC: a trunk that stays as it is, read by a ridge regression on random features (McDonnell et al., NeurIPS 2023).

Features f[d] become h = relu(f P), f[m], with a random P that is drawn once. The sums of h h^T and of h by class are
kept, so the regression of one-hot labels on h is that of all images so far, whatever the order of the tasks. With
config.model.trainable other than 'none' the first task trains the trunk, as the paper's first session does. The
ridge is chosen once, by a fifth of the first task's images; the paper chooses it anew in each task. The outputs
estimate one-hot labels, so their softmax ranks classes but is no probability.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve

from abd_jax.fields import Number
from abd_jax.methods import base
from abd_jax.methods.types import Method, Phase, TaskEnd, student_schedule

SETTINGS = {
  'features': Number(2000, 0, 20000),  # random ones, m, whose squared number is kept; 0: the trunk's own
}
RECIPE = {'model.trainable': 'none'}

# Ridges to choose from, times the mean of the diagonal of sum h h^T. NumPy: to import a method starts no device.
SHARES = np.float32(10.0 ** np.arange(1.0, -5.5, -0.5))
HELD = 5  # of the first task's images every fifth is held out


def make(config) -> Method:
  seed = config.seed if config.seed >= 0 else config.trial
  learns = config.model.trainable != 'none'
  return Method(
    first=(Phase(base.loss, **student_schedule(config.student)) if learns else base.STILL,),
    later=(base.STILL,),
    statistics_init=partial(init, config.ranpac.features, seed),
    end_task=end_task,
    logits=lambda output, classes: _lifted(output.features, output.statistics) @ output.statistics['kernel'],
  )


def init(features: int, seed: int, width: int, classes: int) -> dict[str, jax.Array]:
  """Sums f[m, m] and f[m, c], a head f[m, c], a ridge f[] (0: not chosen yet) and P f[d, m], if there is one."""
  size = features or width
  kept = {'products': jnp.zeros((size, size)), 'sums': jnp.zeros((size, classes)), 'ridge': jnp.zeros(())}
  if features:
    kept['projection'] = jax.random.normal(jax.random.key(seed), (width, features))
  return kept | {'kernel': jnp.zeros((size, classes))}


def _lifted(features: jax.Array, statistics: dict[str, jax.Array]) -> jax.Array:
  """f[n, m] of features f[n, d]."""
  return jax.nn.relu(features @ statistics['projection']) if 'projection' in statistics else features


def end_task(task: TaskEnd) -> dict[str, jax.Array]:
  """The sums with the task's images added, and the head that follows from them."""
  kept = task.statistics
  mine = task.there & (task.kinds == 0)
  rows = jnp.where(mine[:, None], _lifted(task.new, kept), 0.0)
  targets = jax.nn.one_hot(task.labels, kept['sums'].shape[1]) * mine[:, None]
  ridge = jax.lax.cond(kept['ridge'] > 0, lambda: kept['ridge'], lambda: chosen_ridge(rows, targets, mine))
  products, sums = kept['products'] + rows.T @ rows, kept['sums'] + rows.T @ targets
  return kept | {'products': products, 'sums': sums, 'ridge': ridge, 'kernel': solved(products, sums, ridge)}


def solved(products: jax.Array, sums: jax.Array, ridge: jax.Array) -> jax.Array:
  """The regression's kernel f[m, c]. ridge: f[], a share of the mean of the diagonal of `products`."""
  level = jnp.trace(products) / len(products)
  level = jnp.where(level > 0, ridge * level, 1.0)  # features that are all zero: a kernel of zeros
  return cho_solve(cho_factor(products + level * jnp.eye(len(products))), sums)


def chosen_ridge(rows: jax.Array, targets: jax.Array, mine: jax.Array) -> jax.Array:
  """The share in SHARES whose regression errs least on held-out rows, in squares; the largest of several.

  rows: f[n, m]. targets: f[n, c]. mine: bool[n], the rows that count; the others hold zeros.
  """
  held = mine & (jnp.cumsum(mine) % HELD == 0)
  train = jnp.where(held[:, None], 0.0, rows)
  products, sums = train.T @ train, train.T @ targets

  def error(share: jax.Array) -> jax.Array:
    misses = jnp.where(held[:, None], rows @ solved(products, sums, share) - targets, 0.0)
    total = jnp.sum(jnp.square(misses))
    return jnp.where(jnp.isfinite(total), total, jnp.inf)  # where rounding leaves no positive definite sum

  return jnp.asarray(SHARES)[jnp.argmin(jax.lax.map(error, SHARES))]
