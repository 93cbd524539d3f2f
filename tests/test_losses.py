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

  def test_finetuning_over_the_seen_classes(self):
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


def test_the_restatement_gives_the_golden_numbers_too():
  for name, value, golden, digit in reference.golden_numbers():
    np.testing.assert_allclose(value, golden, rtol=1e-5, atol=digit / 2, err_msg=name)


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

  def same(name, *args):
    """The function of this name here and there, of its first argument."""
    return (lambda x: getattr(losses, name)(x, *args)), (lambda x: getattr(r, name)(x, *args))

  def finetune(where):
    return lambda w: losses.finetune_cross_entropy(features, w, bias, labels, balance, where)

  def weighted(reduction):
    return lambda f: losses.weighted_feature_distillation(f, teacher_features, kernel, old, reduction)

  return {
    'cross_entropy': (
      lambda z: jnp.mean(losses.cross_entropy(z, labels)),
      lambda z: np.mean(r.per_sample_cross_entropy(z, labels)),
      logits,
    ),
    'cross_entropy, seen': (
      lambda z: jnp.mean(losses.cross_entropy(z, labels, seen)),
      lambda z: r.base_cross_entropy(z, labels, seen),
      logits,
    ),
    'label_diversity': (*same('label_diversity', seen), logits),
    'label_diversity, entropy': (
      lambda z: losses.label_diversity(z, seen, normalised=False),
      lambda z: (r.label_diversity(z, seen) - 1) * np.log(5),
      logits,
    ),
    'content': (*same('content', seen), logits),
    'content, T=3': (*same('content', seen, 3.0), logits),
    'stat_alignment': (
      lambda x: losses.stat_alignment([(*a, *b) for a, b in zip(x, stored, strict=True)]),
      lambda x: r.stat_alignment(tree(x), tree(stored)),
      layers,
    ),
    'smoothness': (*same('smoothness'), rng.normal(size=(2, 6, 5, 3))),
    'distillation': (
      lambda z: jnp.mean(losses.distillation(z, teacher, old, 2.0)),
      lambda z: r.softmax_kd(z, teacher, old, 2.0),
      logits,
    ),
    'distillation_by_task': (
      lambda z: jnp.mean(losses.distillation_by_task(z, teacher, task_of_class, 4, task_of_class < 2, 6, 3.0)),
      lambda z: r.kd_by_task(z, teacher, task_of_class, 2, 6, 3.0),
      logits,
    ),
    'zero_padded_distillation': (
      lambda z: jnp.mean(losses.zero_padded_distillation(z, teacher, old, seen, 3.0)),
      lambda z: r.zero_padded_kd(z, teacher, old, seen, 3.0),
      logits,
    ),
    'multi_class_distillation': (
      lambda z: jnp.mean(losses.multi_class_distillation(z, teacher, labels, old, new)),
      lambda z: r.lwf_mc(z, teacher, labels, old, seen),
      logits,
    ),
    'hard_distillation': (
      lambda z: losses.hard_distillation(z, teacher, is_real, old),
      lambda z: r.hard_kd(z, teacher, ~is_real, old),
      logits,
    ),
    'relational_distillation': (
      lambda f: losses.relational_distillation(f, teacher_features[:, :3]),
      lambda f: r.relation(f, teacher_features[:, :3]),
      features,
    ),
    'weighted_cross_entropy': (*same('weighted_cross_entropy', labels, np.arange(1.0, 8.0), seen), logits),
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
    'local_cross_entropy': (*same('local_cross_entropy', labels, is_real, new), logits),
    'feature_distillation': (
      lambda f: losses.feature_distillation(f, teacher_features),
      lambda f: r.feature_distillation(f, teacher_features, 'sum'),
      features,
    ),
    'weighted_feature_distillation, mean': (
      weighted('mean'),
      lambda f: r.weighted_feature_distillation(f, teacher_features, kernel, old, bias),
      features,
    ),
    'weighted_feature_distillation, sum': (
      weighted('sum'),
      lambda f: r.weighted_feature_distillation(f, teacher_features, kernel, old, bias, 'sum'),
      features,
    ),
    'finetune_cross_entropy, all': (
      finetune(None),
      lambda w: r.finetune_cross_entropy(features @ w + bias, labels, class_weights),
      kernel,
    ),
    'finetune_cross_entropy, seen': (
      finetune(seen),
      lambda w: r.finetune_cross_entropy(features @ w + bias, labels, class_weights, seen),
      kernel,
    ),
  }


# The restatement slices where the package masks: masking equals slicing, in value and gradient.
@pytest.mark.parametrize('name', restated())
def test_value_and_gradient_equal_the_restatement(name):
  with jax.enable_x64(True):
    ours, theirs, x = restated()[name]
    value, gradient = jax.jit(jax.value_and_grad(ours))(x)
    np.testing.assert_allclose(value, theirs(x), rtol=1e-11)
    np.testing.assert_allclose(gradient, reference.complex_gradient(theirs, x), rtol=1e-9, atol=1e-14)


class GradientTest(chex.TestCase):
  def test_finetuning_never_reaches_features(self):
    balance = np.where(IS_REAL, 0.6, 0.4)
    loss = lambda *args: losses.finetune_cross_entropy(*args, LABELS, balance, None)
    features, kernel, bias = jax.jit(jax.grad(loss, (0, 1, 2)))(FEATURES, KERNEL, BIAS)
    assert not features.any()
    assert kernel.any(0).all() and bias.all()

  def test_weighted_feature_distillation_never_reaches_the_teachers_head(self):
    loss = lambda f, kernel: losses.weighted_feature_distillation(f, TEACHER_FEATURES, kernel, OLD)
    features, kernel = jax.jit(jax.grad(loss, (0, 1)))(FEATURES, KERNEL)
    assert features.all() and not kernel.any()


def peaked(column, columns=4, rows=3, by=1e4):
  """Logits f[rows, columns], `by` in one column, 0 elsewhere."""
  return np.where(np.arange(columns) == column, by, 0.0) * np.ones((rows, 1))


def first(k, columns=4):
  return np.arange(columns) < k


SURE = np.array([[1e4, -1e4, 1e4, 1e4]] * 3)
TINY_STATS = (np.zeros(2), np.ones(2))
# {name: (loss, where, value)}
TRAPS = {
  'diversity of one class': (lambda z: losses.label_diversity(z, first(1)), peaked(1), 0.0),
  'diversity, underflow': (lambda z: losses.label_diversity(z, first(3)), peaked(0), 1.0),
  'diversity, underflow, entropy': (lambda z: losses.label_diversity(z, first(3), False), peaked(0), 0.0),
  'diversity, uniform': (lambda z: losses.label_diversity(z, first(3)), peaked(3), 0.0),
  'content, huge logits': (lambda z: losses.content(z, first(3)), peaked(0, by=1e8), 0.0),
  'distillation, agreeing': (lambda z: losses.distillation(z, peaked(0), first(3)).sum(), peaked(0), 0.0),
  'distillation, at odds': (lambda z: losses.distillation(z, peaked(0), first(3)).mean(), peaked(1), 5e3),
  'distillation, one class': (lambda z: losses.distillation(z, peaked(1), first(1)).sum(), peaked(0), 0.0),
  'cross entropy, masked peak': (
    lambda z: losses.cross_entropy(z, np.zeros(3, int), first(3)).mean(),
    peaked(3),
    math.log(3),
  ),
  'cross entropy, at odds': (lambda z: losses.cross_entropy(z, np.zeros(3, int)).mean(), peaked(1), 1e4),
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
  'by task, one class each': (
    lambda z: losses.distillation_by_task(z, peaked(0), np.arange(4), 4, first(3), 3).mean(),
    peaked(1),
    0.0,
  ),
  'zero padded, agreeing': (
    lambda z: losses.zero_padded_distillation(z, peaked(0), first(2), first(3)).mean(),
    peaked(0),
    0.0,
  ),
  'zero padded, new class': (
    lambda z: losses.zero_padded_distillation(z, peaked(0), first(2), first(3)).mean(),
    peaked(2),
    5e3,
  ),
  'binary, agreeing': (
    lambda z: losses.multi_class_distillation(z, SURE, np.full(3, 3), first(2), ~first(2)).mean(),
    SURE,
    1e4,  # of class 2, which is no label and yet sure
  ),
  'binary, at odds': (
    lambda z: losses.multi_class_distillation(z, -SURE, np.full(3, 3), first(2), ~first(2)).mean(),
    SURE,
    3e4,
  ),
  'binary, beyond range': (
    lambda z: losses.multi_class_distillation(z, 1e30 * SURE, np.full(3, 3), first(2), ~first(2)).mean(),
    1e30 * SURE,
    1e34,
  ),
  'hard, no difference': (
    lambda z: losses.hard_distillation(z, peaked(0), np.zeros(3, bool), first(2)),
    peaked(0),
    0.0,
  ),
  'angles, all rows alike': (lambda f: jnp.sum(losses.cosine_of_angles(f)), np.ones((4, 3)), 0.0),
  # Of the 27 triplets, 1 at each of 2 equal rows is between the third row and itself, and 4 are at the third row.
  'angles, two rows alike': (lambda f: jnp.sum(losses.cosine_of_angles(f)), np.eye(3)[[0, 0, 2]], 6.0),
  'relation, all rows alike': (
    lambda f: losses.relational_distillation(f, np.ones((4, 3))),
    np.ones((4, 3)),
    0.0,
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
    lambda v: losses.stat_alignment([(np.zeros(2), v, *TINY_STATS)]),
    np.zeros(2),
    0.5e8 + 0.5 * math.log(1e-8),
  ),
  'statistics, no variance at all': (
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


@pytest.mark.parametrize('num_old, num_new', [(6, 2), (2, 6), (4, 4)])
def test_task_balance_gives_every_class_the_same_weight(num_old, num_new):
  classes = np.arange(10)
  old, seen = classes < num_old, classes < num_old + num_new
  # As many dreamed rows as real ones, each over its classes evenly.
  labels = np.concatenate([np.resize(classes[old], 24), np.resize(classes[seen & ~old], 24)])
  weights = losses.task_balance(labels, old, seen)
  chex.assert_shape(weights, (48,))
  per_class = np.bincount(labels, weights)
  np.testing.assert_allclose(per_class, 24 / (num_old + num_new), rtol=1e-6)
