"""abd_jax.losses: golden numbers of the specification, the NumPy restatement, gradients, and NaN traps."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from abd_jax import losses

FEATURES, KERNEL, BIAS, TEACHER_FEATURES, TEACHER_KERNEL, LABELS, IS_REAL, OLD, SEEN = reference.golden_inputs()
TEACHER_LOGITS = TEACHER_FEATURES @ TEACHER_KERNEL + BIAS[None]
NEW = SEEN & ~OLD
HIDDEN = np.sin(np.arange(16.0)).reshape(2, 2, 2, 2).transpose(0, 2, 3, 1)
IMAGE = np.sin(0.37 * np.arange(108.0)).reshape(1, 3, 6, 6).transpose(0, 2, 3, 1)


def abd_terms(features, kernel, where=None):
  balance = losses.task_balance(LABELS, OLD, SEEN)
  return {
    'local': 0.4 * losses.local_cross_entropy(features @ kernel + BIAS[None], LABELS, IS_REAL, NEW),
    'ft': losses.finetune_cross_entropy(features, kernel, BIAS, LABELS, balance, where),
    'kd': losses.weighted_feature_distillation(features, TEACHER_FEATURES, TEACHER_KERNEL, OLD),
  }


def abd_total(features, kernel):
  return losses.weighted_sum(abd_terms(features, kernel), {'kd': 0.1})


class GoldenTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_always_be_dreaming(self):
    terms = self.variant(abd_terms)(FEATURES, KERNEL)
    chex.assert_shape(list(terms.values()), ())
    golden = {'local': 0.02709759, 'ft': 1.05771044, 'kd': 0.00351771}
    chex.assert_trees_all_close(terms, golden, rtol=1e-4)
    chex.assert_trees_all_close(abd_total(FEATURES, KERNEL), 1.08515980, rtol=1e-4)
    chex.assert_trees_all_close(abd_terms(FEATURES, KERNEL, SEEN)['ft'], 0.73103334, rtol=1e-4)

  def test_gradients_of_always_be_dreaming(self):
    features, kernel = jax.jit(jax.grad(abd_total, (0, 1)))(FEATURES, KERNEL)
    norms = [np.linalg.norm(g) for g in (features, features[:4], features[4:], kernel)]
    half_a_digit = 5e-7
    np.testing.assert_allclose(norms, [0.049057, 0.048971, 0.002902, 0.284680], rtol=1e-4, atol=half_a_digit)

  @chex.variants(with_jit=True, without_jit=True)
  def test_inversion(self):
    def terms(logits, hidden, image):
      mean, stored_mean, stored_var = hidden.mean((0, 1, 2)), jnp.array([0.1, -0.2]), jnp.array([0.5, 2.0])
      var = jnp.square(hidden - mean[None, None, None]).mean((0, 1, 2))
      return {
        'content': losses.content(logits, OLD),
        'diversity': losses.label_diversity(logits, OLD),
        'stat': losses.stat_alignment([(mean, var, stored_mean, stored_var)]),
        'prior': losses.smoothness(image),
      }

    golden = {'content': 1.097043, 'diversity': 0.004914, 'stat': 0.464402, 'prior': 0.50773996}
    terms = self.variant(terms)(*map(jnp.float32, (TEACHER_LOGITS, HIDDEN, IMAGE)))
    chex.assert_shape(list(terms.values()), ())
    chex.assert_trees_all_close(terms, golden, rtol=1e-4)


def restated():
  """{name: (ours, theirs, where)}: scalar functions of one array, and an array to compare them at."""
  rng = np.random.default_rng(0)
  logits, teacher = 3 * rng.normal(size=(2, 6, 7))
  features, teacher_features = rng.normal(size=(2, 6, 4))
  kernel, bias = rng.normal(size=(4, 7)), rng.normal(size=7)
  # Not in a row, so that nothing may depend on where classes lie.
  old, new = np.array([0, 1, 0, 0, 1, 1, 0], bool), np.array([0, 0, 1, 0, 0, 0, 1], bool)
  seen, is_real, labels = old | new, np.array([1, 1, 0, 1, 0, 0], bool), np.array([2, 6, 1, 2, 5, 4])
  layers = np.stack([rng.normal(size=(2, 3)), rng.uniform(0.1, 3, size=(2, 3))], axis=1)
  stored = np.stack([rng.normal(size=(2, 3)), rng.uniform(0.1, 3, size=(2, 3))], axis=1)
  tree = lambda layers: {str(i): {'mean': layer[0], 'var': layer[1]} for i, layer in enumerate(layers)}
  balance = losses.task_balance(labels, old, seen)
  class_weights = reference.balancing_weights(old, seen)
  # Numbered in learning order, and unequal; the last is not learnt yet.
  task_of_class = np.array([0, 0, 0, 1, 2, 2, 3])
  images, codes = rng.uniform(size=(6, 2, 4, 1)), rng.normal(size=(2, 6, 5))
  pixels, row_weights = rng.normal(size=(6, 2, 4, 1)), rng.uniform(size=6)
  r = reference

  def same(x, name, *args, theirs=None):
    """The functions of `name` here and there, `theirs` if it is another, of their first argument; means over rows."""
    there = getattr(r, theirs or name)
    return (lambda x: jnp.mean(getattr(losses, name)(x, *args))), (lambda x: np.mean(there(x, *args))), x

  def finetune(where):
    return (
      lambda w: losses.finetune_cross_entropy(features, w, bias, labels, balance, where),
      lambda w: r.finetune_cross_entropy(features @ w + bias, labels, class_weights, where),
      kernel,
    )

  def weighted(reduction):
    return (
      lambda f: losses.weighted_feature_distillation(f, teacher_features, kernel, old, reduction),
      lambda f: r.weighted_feature_distillation(f, teacher_features, kernel, old, bias, reduction),
      features,
    )

  return {
    'cross_entropy': same(logits, 'cross_entropy', labels, theirs='per_sample_cross_entropy'),
    'cross_entropy, seen': same(logits, 'cross_entropy', labels, seen, theirs='base_cross_entropy'),
    'label_diversity': same(logits, 'label_diversity', seen),
    'label_diversity, entropy': (
      lambda z: losses.label_diversity(z, seen, normalised=False),
      lambda z: (r.label_diversity(z, seen) - 1) * np.log(5),
      logits,
    ),
    'content': same(logits, 'content', seen),
    'content, T=3': same(logits, 'content', seen, 3.0),
    'stat_alignment': (
      lambda x: losses.stat_alignment([(*a, *b) for a, b in zip(x, stored, strict=True)]),
      lambda x: r.stat_alignment(tree(x), tree(stored)),
      layers,
    ),
    'smoothness': same(rng.normal(size=(2, 6, 5, 3)), 'smoothness'),
    'distillation': same(logits, 'distillation', teacher, old, 2.0, theirs='softmax_kd'),
    'distillation_by_task': (
      lambda z: jnp.mean(losses.distillation_by_task(z, teacher, task_of_class, 4, task_of_class < 2, 6, 3.0)),
      lambda z: r.kd_by_task(z, teacher, task_of_class, 2, 6, 3.0),
      logits,
    ),
    'zero_padded': same(logits, 'zero_padded_distillation', teacher, old, seen, 3.0, theirs='zero_padded_kd'),
    'multi_class_distillation': (
      lambda z: jnp.mean(losses.multi_class_distillation(z, teacher, labels, old, new)),
      lambda z: r.lwf_mc(z, teacher, labels, old, seen),
      logits,
    ),
    'hard_distillation': same(logits, 'hard_distillation', teacher, is_real, old, theirs='hard_kd'),
    'relational_distillation': same(features, 'relational_distillation', teacher_features[:, :3], theirs='relation'),
    'weighted_cross_entropy': same(logits, 'weighted_cross_entropy', labels, np.arange(1.0, 8.0), seen),
    'variational_bound, reconstruction': (
      lambda x: losses.variational_bound(images, x, *codes, row_weights),
      lambda x: r.variational_bound(images, x, *codes, row_weights),
      pixels,
    ),
    'variational_bound, code': (
      lambda x: losses.variational_bound(images, pixels, *x, row_weights),
      lambda x: r.variational_bound(images, pixels, *x, row_weights),
      codes,
    ),
    'local_cross_entropy': same(logits, 'local_cross_entropy', labels, is_real, new),
    'feature_distillation': (
      lambda f: losses.feature_distillation(f, teacher_features),
      lambda f: r.feature_distillation(f, teacher_features, 'sum'),
      features,
    ),
    'weighted_feature_distillation, mean': weighted('mean'),
    'weighted_feature_distillation, sum': weighted('sum'),
    'finetune_cross_entropy, all': finetune(None),
    'finetune_cross_entropy, seen': finetune(seen),
  }


# The restatement slices where the package masks: masking equals slicing, in value and gradient.
@pytest.mark.parametrize('name', restated())
def test_value_and_gradient_equal_the_restatement(name):
  with jax.enable_x64(True):
    ours, theirs, x = restated()[name]
    value, gradient = jax.jit(jax.value_and_grad(ours))(x)
    np.testing.assert_allclose(value, theirs(x), rtol=1e-11)
    np.testing.assert_allclose(gradient, reference.complex_gradient(theirs, x), rtol=1e-9, atol=1e-14)


def test_weighted_feature_distillation_never_reaches_the_teachers_head():
  loss = lambda f, kernel: losses.weighted_feature_distillation(f, TEACHER_FEATURES, kernel, OLD)
  features, kernel = jax.jit(jax.grad(loss, (0, 1)))(FEATURES, KERNEL)
  assert features.all() and not kernel.any()


def peaked(column, columns=4, rows=3, by=1e4):
  """Logits f[rows, columns], `by` in one column, 0 elsewhere."""
  return np.where(np.arange(columns) == column, by, 0.0) * np.ones((rows, 1))


def first(k, columns=4):
  return np.arange(columns) < k


SURE = 1e34 * np.array([[1, -1, 1, 1]] * 3)
# {name: (loss, where, value)}
TRAPS = {
  'diversity of one class': (lambda z: losses.label_diversity(z, first(1)), peaked(1), 0.0),
  'diversity, underflow': (lambda z: losses.label_diversity(z, first(3)), peaked(0), 1.0),
  'distillation, at odds': (lambda z: losses.distillation(z, peaked(0), first(3)).mean(), peaked(1), 5e3),
  'local, dreams of old classes': (
    lambda z: losses.local_cross_entropy(z, np.array([2, 0, 1]), np.array([True, False, False]), ~first(2)),
    peaked(0),
    math.log(2),
  ),
  'by task, without classes': (
    lambda z: losses.distillation_by_task(z, peaked(0), np.array([0, 0, 3, 3]), 4, first(2), 2).mean(),
    peaked(1),
    5e3,
  ),
  'zero padded, new class': (
    lambda z: losses.zero_padded_distillation(z, peaked(0), first(2), first(3)).mean(),
    peaked(2),
    5e3,
  ),
  'binary, beyond range': (
    lambda z: losses.multi_class_distillation(z, SURE, np.full(3, 3), first(2), ~first(2)).mean(),
    SURE,
    1e34,  # of class 2, which is no label and yet sure
  ),
  'relation, two rows alike': (
    lambda f: losses.relational_distillation(f, np.eye(3)),
    np.eye(3)[[0, 0, 2]],
    reference.relation(np.eye(3)[[0, 0, 2]], np.eye(3)),
  ),
  'weighted, labels not counted': (
    lambda z: losses.weighted_cross_entropy(z, np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0, 1.0]), first(2)),
    peaked(0),
    1e4,
  ),
  'bound, sure pixels': (
    lambda x: losses.variational_bound(np.ones((3, 2, 2, 1)), x.reshape(3, 2, 2, 1), *np.zeros((2, 3, 5)), np.ones(3)),
    peaked(0, by=-1e4),
    2.5e3 + 0.75 * math.log(2),
  ),
  'statistics, no variance': (
    lambda v: losses.stat_alignment([(np.zeros(2), v, np.zeros(2), np.zeros(2))]),
    np.zeros(2),
    0.0,
  ),
  'weighted, nothing old': (
    lambda f: losses.weighted_feature_distillation(f, TEACHER_FEATURES, KERNEL, np.zeros(8, bool)),
    FEATURES,
    0.0,
  ),
}


@pytest.mark.parametrize('name', TRAPS)
def test_value_and_gradient_are_finite(name):
  loss, x, expected = TRAPS[name]
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(x))
  chex.assert_tree_all_finite((value, gradient))
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
