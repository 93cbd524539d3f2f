"""Every equation of the paper as one pure function of arrays.

Shapes: `b` batch, `n` joined batch (real and dreamed), `d` features, `c` classes of the whole run. Old, new and
seen classes are bool[c] masks over a head of fixed width: equal in value and gradient to slicing it. Equations
are numbered as in Smith et al., "Always Be Dreaming" (ICCV 2021); "released" is the authors' code.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

# Not -inf: its gradients are NaN.
NEVER = -1e30


def mask_logits(logits: Array, where: Array | None) -> Array:
  """Logits f[n, c] with the classes outside `where` bool[c] made impossible."""
  return logits if where is None else jnp.where(where[None], logits, NEVER)


def cross_entropy(logits: Array, labels: Array, where: Array | None = None) -> Array:
  """Softmax cross-entropy per example, f[n], over the classes `where` bool[c] (all if None).

  A label outside `where` costs 1e30: select such rows away with jnp.where, never by multiplying.
  """
  log_p = jax.nn.log_softmax(mask_logits(logits, where))
  return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def mean_over(values: Array, where: Array) -> Array:
  """The mean of the values f[n] in rows `where` bool[n]; f[]."""
  return jnp.sum(jnp.where(where, values, 0.0)) / jnp.sum(where)


# Inversion: equations 1 to 7.


def label_diversity(logits: Array, seen: Array, normalised: bool = True) -> Array:
  """Eq. 1: minus the entropy of the batch-mean prediction, f[].

  normalised: 1 - H/ln K, as released (in [0, 1]; 0 for a uniform mean); otherwise -H as in the paper. Zero for K = 1.
  """
  # In log space: the mean probability of a class may underflow, and p ln p has a NaN gradient at zero.
  log_p = jax.nn.log_softmax(mask_logits(logits, seen))
  log_mean = jax.nn.logsumexp(log_p, axis=0) - math.log(logits.shape[0])
  safe = jnp.where(seen, log_mean, 0.0)
  negative_entropy = jnp.sum(jnp.where(seen, jnp.exp(safe) * safe, 0.0))
  if not normalised:
    return negative_entropy
  k = jnp.sum(seen)
  log_k = jnp.log(jnp.where(k > 1, k, 2).astype(logits.dtype))
  return jnp.where(k > 1, 1.0 + negative_entropy / log_k, 0.0)


def content(logits: Array, seen: Array, temperature: float = 1e3) -> Array:
  """Eq. 2 and 3: cross-entropy of the predictions with their own argmax, logits DIVIDED by temperature; f[]."""
  labels = jnp.argmax(mask_logits(logits, seen), axis=-1)
  return jnp.mean(cross_entropy(logits / temperature, labels, seen))


def batch_norm_divergence(mean: Array, var: Array, stored_mean: Array, stored_var: Array) -> Array:
  """Eq. 5: KL(N(stored) || N(batch)), averaged over channels; all f[c], variances biased; f[].

  1e-8 is added to both variances, as released.
  """
  var, stored_var = var + 1e-8, stored_var + 1e-8
  log_ratio = 0.5 * jnp.log(var / stored_var)
  return jnp.mean(log_ratio - 0.5 * (1.0 - (stored_var + jnp.square(stored_mean - mean)) / var))


def stat_alignment(layers: Sequence[tuple[Array, Array, Array, Array]]) -> Array:
  """Eq. 4: Eq. 5 averaged over the layers, each (mean, var, stored mean, stored var); f[]."""
  return sum(batch_norm_divergence(*layer) for layer in layers) / len(layers)  # pyright: ignore[reportReturnType]


def smoothness(images: Array, sigma: float = math.sqrt(2.0)) -> Array:
  """Eq. 6: mean squared difference between images f[b, h, w, ch] and their 5x5 Gaussian blur; f[].

  Reflected edges. The released kernel, meant as sigma 1, is a Gaussian of sigma sqrt(2).
  """
  weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-2, 3)]
  weights = [w / sum(weights) for w in weights]
  blurred = images
  for axis in (1, 2):
    pad = [(0, 0)] * 4
    pad[axis] = (2, 2)
    padded = jnp.pad(blurred, pad, mode='reflect')
    size = images.shape[axis]
    shifts = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(5))
    blurred = sum(w * shifted for w, shifted in zip(weights, shifts, strict=True))
  return jnp.mean(jnp.square(images - blurred))


# Distillation of softmax and sigmoid outputs: LwF and its kin.


def distillation(student: Array, teacher: Array, where: Array, temperature: float = 2.0) -> Array:
  """Softmax distillation per example, f[n]: cross-entropy of logits f[n, c] with the teacher's, over `where`.

  Both are divided by the temperature; no T^2 factor and no subtraction of the teacher's entropy, as released.
  """
  q = jax.nn.softmax(mask_logits(teacher / temperature, where))
  log_p = jax.nn.log_softmax(mask_logits(student / temperature, where))
  return -jnp.sum(jnp.where(where[None], q * log_p, 0.0), axis=-1)


def distillation_by_task(
  student: Array,
  teacher: Array,
  task_of_class: Array,
  num_tasks: int,
  old: Array,
  total: Array,
  temperature: float = 2.0,
) -> Array:
  """Softmax distillation within each old task's classes, weighted by their share of `total` i32[]; f[n].

  task_of_class: i32[c], of num_tasks tasks; old: bool[c]. As in end-to-end incremental learning (Castro et al., 2018).
  """

  def one(task: Array) -> Array:
    where = old & (task_of_class == task)
    return jnp.sum(where) / total * distillation(student, teacher, where, temperature)

  return jnp.sum(jax.vmap(one)(jnp.arange(num_tasks)), axis=0)


def zero_padded_distillation(
  student: Array, teacher: Array, old: Array, seen: Array, temperature: float = 2.0
) -> Array:
  """Eq. 9, per example, f[n]: the teacher's softmax over `old` against the student's over `seen` classes.

  The teacher gives new classes probability zero, which tells the student that these images are not of them.
  """
  q = jax.nn.softmax(mask_logits(teacher / temperature, old))
  log_p = jax.nn.log_softmax(mask_logits(student / temperature, seen))
  return -jnp.sum(jnp.where(old[None], q * log_p, 0.0), axis=-1)


def multi_class_distillation(logits: Array, teacher: Array, labels: Array, old: Array, new: Array) -> Array:
  """Binary cross-entropies per example, summed over seen classes, f[n] (LwF.MC, as Rebuffi et al., 2017).

  Targets: the teacher's sigmoid for old classes, one-hot labels for new ones.
  """
  targets = jnp.where(old[None], jax.nn.sigmoid(teacher), jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
  per_class = -(targets * jax.nn.log_sigmoid(logits) + (1.0 - targets) * jax.nn.log_sigmoid(-logits))
  return jnp.sum(jnp.where((old | new)[None], per_class, 0.0), axis=-1)


# Always Be Dreaming: equations 11 to 15.


def local_cross_entropy(logits: Array, labels: Array, is_real: Array, new: Array) -> Array:
  """Eq. 11: cross-entropy of the real rows over the new classes alone; mean over them, f[].

  is_real: bool[n]. Dreamed rows take no part: real against dreamed is nothing this loss could learn.
  """
  return mean_over(cross_entropy(logits, labels, new), is_real)


def feature_distillation(features: Array, teacher_features: Array) -> Array:
  """Eq. 12: squared distance of features f[n, d] to the teacher's, mean over the batch; f[]."""
  return jnp.mean(jnp.sum(jnp.square(features - teacher_features), axis=-1))


def weighted_feature_distillation(
  features: Array,
  teacher_features: Array,
  teacher_kernel: Array,
  old: Array,
  reduction: str = 'mean',
  rows: Array | None = None,
) -> Array:
  """Eq. 13: feature differences weighted by the teacher's old heads, kernel f[d, c]; mean over the batch, f[].

  reduction over the old classes: 'mean' as released, 'sum' for the paper's squared norm. rows: bool[n], those that
  count (None: all); the mean stays one over all. The heads' bias cancels.
  """
  difference = (features - teacher_features) @ jax.lax.stop_gradient(teacher_kernel)
  squared = jnp.sum(jnp.where(old[None], jnp.square(difference), 0.0), axis=-1)
  squared = squared if rows is None else jnp.where(rows, squared, 0.0)
  return jnp.mean(squared) / (jnp.maximum(jnp.sum(old), 1) if reduction == 'mean' else 1.0)


def task_balance(labels: Array, old: Array, seen: Array) -> Array:
  """Weights of Eq. 14, f[n]: r for old labels and 1 - r for new ones, r = old classes / seen classes.

  With as many dreamed rows as real ones, every seen class then carries the same weight in expectation.
  """
  r = jnp.sum(old) / jnp.sum(seen)
  return jnp.where(old[labels], r, 1.0 - r)


def finetune_cross_entropy(
  features: Array, kernel: Array, bias: Array, labels: Array, weights: Array, where: Array | None
) -> Array:
  """Eq. 14: weighted cross-entropy that reaches only the head (kernel f[d, c], bias f[c]); mean over rows, f[].

  where: softmax over these classes: None for all of the head as released, the seen ones as in the paper.
  """
  logits = jax.lax.stop_gradient(features) @ kernel + bias[None]
  return jnp.mean(weights * cross_entropy(logits, labels, where))


def weighted_sum(terms: dict[str, Array], weights: dict[str, float]) -> Array:
  """Eq. 7 and 15: the total of named terms, each times its weight (1 where none is given)."""
  return sum(weights.get(name, 1.0) * term for name, term in terms.items())  # pyright: ignore[reportReturnType]


# Relation-guided representation learning: R-DFCIL (Gao et al., ECCV 2022).


def hard_distillation(logits: Array, teacher: Array, is_real: Array, old: Array) -> Array:
  """Mean absolute difference of old classes' raw logits f[n, c], over the dreamed rows; f[]."""
  difference = jnp.where(old[None] & ~is_real[:, None], jnp.abs(logits - teacher), 0.0)
  return jnp.sum(difference) / (jnp.sum(~is_real) * jnp.maximum(jnp.sum(old), 1))


def cosine_of_angles(features: Array) -> Array:
  """Cosines f[n, n, n] of the angle at row j between rows i and k, at [j, i, k]; zero where two rows coincide.

  Rows nearer than 1e-12 coincide.
  """
  difference = features[None] - features[:, None]
  squared = jnp.sum(jnp.square(difference), axis=-1, keepdims=True)
  # The norm of a zero vector has a NaN gradient, that of a tiny one may overflow.
  apart = squared > 1e-24
  unit = jnp.where(apart, difference * jax.lax.rsqrt(jnp.where(apart, squared, 1.0)), 0.0)
  return jnp.einsum('jid,jkd->jik', unit, unit)


def relational_distillation(features: Array, teacher_features: Array) -> Array:
  """Mean over all ordered triplets of rows of the absolute difference of their angles' cosines; f[n, d], f[].

  Degenerate triplets count as zero.
  """
  return jnp.mean(jnp.abs(cosine_of_angles(features) - cosine_of_angles(teacher_features)))


def weighted_cross_entropy(logits: Array, labels: Array, weights: Array, where: Array) -> Array:
  """Cross-entropy over the classes `where`, mean of the rows weighted by their class's `weights` f[c]; f[]."""
  per_row = weights[labels]
  return jnp.sum(per_row * cross_entropy(logits, labels, where)) / jnp.sum(per_row)


# Deep generative replay (Shin et al., 2017).


def variational_bound(images: Array, logits: Array, mean: Array, log_var: Array, weights: Array) -> Array:
  """Minus the evidence bound of images f[n, h, w, ch] in [0, 1], per pixel, as released; f[].

  logits: f[n, h, w, ch] of the reconstructed images; mean, log_var: f[n, latent]; weights f[n] apply to the
  reconstruction alone.
  """
  per_pixel = -(images * jax.nn.log_sigmoid(logits) + (1.0 - images) * jax.nn.log_sigmoid(-logits))
  reconstruction = jnp.mean(weights * jnp.mean(per_pixel, axis=(1, 2, 3)))
  divergence = -0.5 * jnp.sum(1.0 + log_var - jnp.square(mean) - jnp.exp(log_var), axis=-1)
  return reconstruction + jnp.mean(divergence) / images[0].size
