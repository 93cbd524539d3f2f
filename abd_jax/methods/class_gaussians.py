"""Class Gaussians: features of ABD or LwF, read by carried class means and covariances, dreams as sensors.

While a class's images are there, the mean and covariance of its features are measured. At the end of every later task
they are carried to the new model by a weighted linear regression from old to new features. It sees what both models
make of the new images, of their augmented copies, and of dreams, which lie where the old classes are. Discriminant
analysis on the carried Gaussians replaces the trained head. `with_gaussians` does this for any method.

With turns='first' the features of the first task also tell by how much an image is turned, as in PASS (Zhu et al., CVPR
2021): a class turned by 90, 180 or 270 degrees counts as another class, with a head of its own that nobody reads later.

Near relatives carry class means alone, as semantic drift compensation (Yu et al., CVPR 2020), or by the new images
alone.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from abd_jax import losses
from abd_jax.errors import UserError
from abd_jax.fields import Choice
from abd_jax.methods import abd, base, lwf
from abd_jax.methods.types import LossInputs, Method, TaskEnd
from abd_jax.models.resnet import fan_in_uniform

SETTINGS = {
  'trunk': Choice('abd', 'lwf'),  # whose training
  'turns': Choice('first', 'none'),  # 'first': the first task also learns its images turned, four times as many
}
READS = ('abd', 'lwf')
RECIPE = {'head': 'gaussians', 'lwf.weight': 3.0, 'lwf.local_classes': 'new'}

FULL = 256  # features; with more, all classes share one covariance
ZERO = 1e-20  # a smaller mean of variances or median of distances counts as none


def make(config) -> Method:
  method = {'abd': abd, 'lwf': lwf}[config.class_gaussians.trunk].make(config)
  if config.class_gaussians.turns == 'none':
    return method
  first = replace(method.first[0], loss=turned_loss, turns=True, trainable=('backbone', 'head', 'turned'))
  return replace(method, first=(first,), extra_init=partial(turned_head, config.model.widths[-1]))


def turned_head(width: int, key: jax.Array, classes: int) -> dict[str, dict[str, jax.Array]]:
  """The head of the classes turned by 90, 180 and 270 degrees: a kernel f[d, 3c] and a bias f[3c]."""
  keys, init = jax.random.split(key), fan_in_uniform(width)
  return {'turned': {'kernel': init(keys[0], (width, 3 * classes)), 'bias': init(keys[1], (3 * classes,))}}


def turned_loss(inputs: LossInputs):
  """Cross-entropy over the classes seen, each four times: upright and turned."""
  student, turn = inputs.student, jnp.arange(len(inputs.labels)) % 4
  of_turned = student.features @ student.extra['turned']['kernel'] + student.extra['turned']['bias'][None]
  logits = jnp.concatenate([student.logits, of_turned], axis=1)
  labels = inputs.labels + turn * student.logits.shape[1]
  ce = jnp.mean(losses.cross_entropy(logits, labels, jnp.tile(inputs.classes.seen, 4)))
  return ce, {'ce': ce}


def with_gaussians(method: Method, settings, still: bool) -> Method:
  """`method`, predicting by carried class Gaussians; with a generator if dreams are sensors.

  settings: config.gaussians. still: whether the trunk stays as it is. Then nothing is trained: not the head either,
  which nobody reads, nor a generator. Raises UserError for an upper bound, which carries nothing.
  """
  if method.offline:
    raise UserError('an upper bound has a new model for each task: expected config.head=trained.')
  if still:
    method = Method(first=(base.STILL,), later=(base.STILL,))
  return replace(
    method,
    statistics_init=partial(init, own_share=settings.own_share),
    end_task=partial(end_task, settings),
    logits=lambda output, classes: scores(output.features, output.statistics),
    generator=settings.dreams > 0 and not still,
  )


def init(width: int, classes: int, own_share: float = 0.0) -> dict[str, jax.Array]:
  """Means f[c, d], covariances f[c, d, d] (f[1, d, d] if d > FULL), and a head. Unseen classes: 0.

  The head is a kernel f[d, c] and a bias f[c]; with own_share > 0: roots f[c, d, d], offsets f[c, d], a bias f[c].
  """
  covariances = jnp.zeros((classes if width <= FULL else 1, width, width))
  head = {'kernel': jnp.zeros((width, classes)), 'bias': jnp.zeros(classes)}
  if own_share and width <= FULL:
    head = {'roots': covariances, 'offsets': jnp.zeros((classes, width)), 'bias': jnp.zeros(classes)}
  return {'means': jnp.zeros((classes, width)), 'covariances': covariances} | head


def scores(features: jax.Array, statistics: dict[str, jax.Array]) -> jax.Array:
  """The logits f[n, c] of features f[n, d]."""
  if 'kernel' in statistics:
    return features @ statistics['kernel'] + statistics['bias'][None]
  apart = jnp.einsum('cij,nj->nci', statistics['roots'], features) - statistics['offsets'][None]
  return statistics['bias'][None] - jnp.sum(jnp.square(apart), axis=2) / 2


def end_task(settings, task: TaskEnd) -> dict[str, jax.Array]:
  """The statistics in the features of the newest model. settings: config.gaussians."""
  before, classes = task.statistics, task.classes
  means, covariances = before['means'], before['covariances']
  shared = len(covariances) < len(means)
  weights = task.there * jnp.where(task.kinds < 2, 1.0, settings.dreams)
  measures = task.there & (task.kinds <= ('images', 'copies').index(settings.measured))

  def one(total, c):
    mean, covariance = means[c], covariances[0 if shared else c]
    kept = (
      lambda: (jnp.zeros_like(mean), jnp.zeros_like(covariance)),
      lambda: measured(task.new, measures & (task.labels == c)),
      lambda: carried(mean, covariance, task.old, task.new, weights, settings),
    )
    mean, covariance = jax.lax.switch(classes.new[c] + 2 * classes.old[c], kept)
    covariance = (covariance + covariance.T) / 2  # as it is but for rounding
    return total + covariance, (mean, None if shared else covariance)

  total, (means, covariances) = jax.lax.scan(one, jnp.zeros_like(covariances[0]), jnp.arange(len(means)))
  average = total / jnp.sum(classes.seen)
  if 'roots' in before:
    mixed = settings.own_share * covariances + (1 - settings.own_share) * average[None]
    head = quadratic_discriminant(means, classes.seen, mixed, settings.head_shrinkage)
  else:
    head = discriminant(means, classes.seen, average, settings.head_shrinkage)
  return {'means': means, 'covariances': average[None] if shared else covariances} | head


def measured(features: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean f[d] and covariance f[d, d], divided by their number, of the rows `where` bool[n] of f[n, d]."""
  weights = where / jnp.sum(where)
  mean = weights @ features
  return mean, _second_moment(features - mean[None], weights)


def carried(
  mean: jax.Array, covariance: jax.Array, old: jax.Array, new: jax.Array, weights: jax.Array, settings: Any
) -> tuple[jax.Array, jax.Array]:
  """A class's mean f[d] and covariance f[d, d] of old features as they are among new ones.

  A ridge regression of new - old on old, weighted towards samples near the class; what it leaves over is added to the
  covariance. Its offset is not penalised, so the means of both sides are taken off first.

  old, new: f[n, d] of the same samples. weights: f[n], 0 for rows that do not count.
  """
  offset, moved = old - mean[None], new - old
  root = jnp.linalg.cholesky(_shrunk(covariance, 1.0, settings.distance_shrinkage))
  distances = jnp.sum(jnp.square(solve_triangular(root, offset.T, lower=True)), axis=0)
  weights = closeness(distances, weights)
  ridge = _share(settings.ridge, weights @ jnp.mean(jnp.square(offset), axis=1))
  offset_mean, moved_mean = weights @ offset, weights @ moved
  around, moved = offset - offset_mean[None], moved - moved_mean[None]
  identity, weighted = jnp.eye(len(mean)), (around * weights[:, None]).T
  slope = cho_solve(cho_factor(weighted @ around + ridge * identity), weighted @ moved)
  change = identity + slope
  spread = change.T @ covariance @ change + _second_moment(moved - around @ slope, weights)
  return mean + moved_mean - offset_mean @ slope, spread


def closeness(distances: jax.Array, weights: jax.Array) -> jax.Array:
  """Weights f[n] that sum to 1 and fall with squared distances f[n] from the nearest, on the scale of their median."""
  there = weights > 0
  ordered, count = jnp.sort(jnp.where(there, distances, jnp.inf)), jnp.sum(there)
  median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
  excess = jnp.where(there, distances - ordered[0], 0.0)
  near = weights * jnp.exp(-excess / (2 * jnp.maximum(median, ZERO)))
  return near / jnp.sum(near)


def discriminant(means: jax.Array, seen: jax.Array, covariance: jax.Array, shrinkage: float) -> dict[str, jax.Array]:
  """The head of linear discriminant analysis, kernel f[d, c] and bias f[c], of equally likely classes `seen` bool[c].

  Means are taken from their centre, which adds the same to all logits: else large numbers cancel in them.
  """
  centre = jnp.sum(means, axis=0) / jnp.sum(seen)
  apart = jnp.where(seen[:, None], means - centre[None], 0.0)
  kernel = cho_solve(cho_factor(_shrunk(covariance, 1.0 - shrinkage, shrinkage)), apart.T)
  return {'kernel': kernel, 'bias': -jnp.sum((means + centre[None]).T * kernel, axis=0) / 2}


def quadratic_discriminant(
  means: jax.Array, seen: jax.Array, covariances: jax.Array, shrinkage: float
) -> dict[str, jax.Array]:
  """The head that compares log densities of equally likely classes, each with its covariance of f[c, d, d].

  A class's logit is bias - |root x - offset|^2 / 2: root the inverse of its covariance's Cholesky factor.
  """

  def one(mean, covariance):
    factor = jnp.linalg.cholesky(_shrunk(covariance, 1.0 - shrinkage, shrinkage))
    root = solve_triangular(factor, jnp.eye(len(mean)), lower=True)
    return root, root @ mean, -jnp.sum(jnp.log(jnp.diagonal(factor)))

  found = dict(zip(('roots', 'offsets', 'bias'), jax.vmap(one)(means, covariances), strict=True))
  kept = lambda leaf: jnp.where(seen.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)
  return jax.tree.map(kept, found)


def _second_moment(rows: jax.Array, weights: jax.Array) -> jax.Array:
  return (rows * weights[:, None]).T @ rows


def _shrunk(matrix: jax.Array, own: float, share: float) -> jax.Array:
  """f[d, d]: `own` times the matrix, plus a share of its mean diagonal element along the diagonal."""
  return own * matrix + _share(share, jnp.trace(matrix) / len(matrix)) * jnp.eye(len(matrix))


def _share(share: float, level: jax.Array) -> jax.Array:
  """A share of the mean variance `level`. If that is zero: 1, so that the sum with a zero matrix is invertible."""
  return jnp.where(level > ZERO, share * level, 1.0)
