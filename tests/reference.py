"""Independent NumPy restatement of two 'Always Be Dreaming' training steps (float64, complex-step gradients).

The test oracle: plain arrays and nested dicts, no automatic differentiation. Every function also takes
complex input; decisions (max, argmax, ReLU) look at the real part only, so Im f(x + ih) / h is the
exact derivative.
Shapes: N samples, D features, M classes, C channels, H, W pixels. Images are NHWC, class masks are (M,) bool.
"""

import re

import numpy as np

STEP = 1e-30  # complex step
INVERSION_WEIGHTS = {'content': 1.0, 'diversity': 1.0, 'stat': 50.0, 'prior': 1e-3, 'temperature': 1e3}


# ---------------------------------------------------------------------------------------------------- trees
def tree_map(function, tree, *rest):
  """Apply function leaf by leaf to nested dicts of the same structure."""
  if isinstance(tree, dict) or hasattr(tree, 'items'):
    return {key: tree_map(function, tree[key], *(other[key] for other in rest)) for key in tree}
  return function(tree, *rest)


def as_float64(tree):
  """A deep copy of the tree with float64 NumPy leaves."""
  return tree_map(lambda leaf: np.array(leaf, dtype=np.float64), tree)


def random_weights(shapes, rng):
  """A tree like `shapes` (nested dicts of things with a shape): scales and variances about 1, the rest about 0."""
  draw = lambda name, shape: rng.uniform(0.5, 1.5, shape) if name in ('scale', 'var') else 0.4 * rng.normal(size=shape)
  return {
    name: random_weights(node, rng) if isinstance(node, dict) else draw(name, node.shape)
    for name, node in shapes.items()
  }


def leaf_paths(tree, prefix=()):
  """List of the key tuples of all leaves."""
  if not isinstance(tree, dict):
    return [prefix]
  return [path for key in tree for path in leaf_paths(tree[key], (*prefix, key))]


def get(tree, path):
  """The node at a key tuple."""
  for key in path:
    tree = tree[key]
  return tree


def replaced(tree, path, leaf):
  """The tree with one leaf replaced; other leaves are shared."""
  if not path:
    return leaf
  return {key: replaced(value, path[1:], leaf) if key == path[0] else value for key, value in tree.items()}


def complex_gradient(function, tree):
  """Gradient tree of a real scalar function of a float64 tree (or array), one complex step per element."""
  gradients = tree
  for path in leaf_paths(tree):
    leaf = get(tree, path)
    gradient = np.zeros(leaf.shape)
    for index in np.ndindex(*leaf.shape):
      perturbed = leaf.astype(np.complex128)
      perturbed[index] += 1j * STEP
      gradient[index] = np.imag(function(replaced(tree, path, perturbed))) / STEP
    gradients = replaced(gradients, path, gradient)
  return gradients


# --------------------------------------------------------------------------------------------------- losses
def logsumexp(x, axis):
  """log sum exp along an axis, which is removed."""
  shift = np.max(np.real(x), axis=axis, keepdims=True)
  return np.squeeze(np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift, axis)


def log_softmax(logits):
  """(N, K) -> (N, K) log-probabilities."""
  return logits - logsumexp(logits, 1)[:, None]


def per_sample_cross_entropy(logits, labels, mask=None):
  """Logits (N, M), labels (N,) inside the mask -> (N,); the softmax runs over the classes of the mask."""
  mask = np.ones(logits.shape[1], bool) if mask is None else np.asarray(mask, bool)
  labels = np.asarray(labels)
  assert mask[labels].all(), 'a label lies outside the classes of the softmax'
  position = np.cumsum(mask) - 1
  return -log_softmax(logits[:, mask])[np.arange(len(labels)), position[labels]]


def label_diversity(logits, seen):
  """Eq. 1, normalised: 1 + sum_k p_k ln p_k / ln K, p the batch-mean softmax over the K seen classes."""
  count = int(np.sum(seen))
  if count == 1:
    return 0.0
  log_p = logsumexp(log_softmax(logits[:, np.asarray(seen, bool)]), 0) - np.log(len(logits))
  return 1 + np.sum(np.exp(log_p) * log_p) / np.log(count)


def content(logits, seen, temperature=1e3):
  """Eq. 2 and 3: mean cross-entropy of logits / temperature against their argmax, over seen classes."""
  chosen = logits[:, np.asarray(seen, bool)]
  labels = np.argmax(np.real(chosen), axis=1)
  return np.mean(per_sample_cross_entropy(chosen / temperature, labels))


def bn_kl(mean, var, running_mean, running_var, eps=1e-8):
  """Eq. 5: channel mean of KL(N(running) || N(batch)); all arguments (C,), variances biased."""
  var, running_var = var + eps, running_var + eps
  ratio = (running_var + (running_mean - mean) ** 2) / var
  return np.mean(0.5 * np.log(var / running_var) - 0.5 * (1 - ratio))


def stat_alignment(moments, stats):
  """Eq. 4: mean of Eq. 5 over all batch-norm layers; trees of {'mean', 'var'} with the same paths."""
  paths = [path[:-1] for path in leaf_paths(stats) if path[-1] == 'mean']
  terms = []
  for path in paths:
    batch, stored = get(moments, path), get(stats, path)
    terms.append(bn_kl(batch['mean'], batch['var'], stored['mean'], stored['var']))
  return sum(terms) / len(terms)


def smoothness(images):
  """Eq. 6: mean of (x - blur(x))^2; images (N, H, W, C), 5x5 Gaussian exp(-d^2 / 4), reflect padding."""
  _, height, width, _ = images.shape
  offsets = np.arange(-2, 3)
  kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / 4)
  kernel = kernel / kernel.sum()
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='reflect')
  blurred = sum(kernel[i, j] * padded[:, i : i + height, j : j + width] for i in range(5) for j in range(5))
  return np.mean((images - blurred) ** 2)


def inversion_objective(images, logits, moments, stats, seen, weights):
  """Eq. 7: weighted sum of content, diversity, statistics and smoothness; -> (total, dict of raw terms)."""
  weights = {**INVERSION_WEIGHTS, **weights}
  terms = {
    'content': content(logits, seen, weights['temperature']),
    'diversity': label_diversity(logits, seen),
    'stat': stat_alignment(moments, stats),
    'prior': smoothness(images),
  }
  return sum(weights[name] * term for name, term in terms.items()), terms


def local_cross_entropy(logits, labels, is_real, new):
  """Eq. 11: mean over the real rows of the cross-entropy over the new classes only (no balancing factor)."""
  rows = np.asarray(is_real, bool)
  return np.mean(per_sample_cross_entropy(logits[rows], np.asarray(labels)[rows], new))


def feature_distillation(features, teacher_features, reduction='mean'):
  """Eq. 12, features (N, D): mean over samples of the mean ('mean') or sum ('sum') of squares over D."""
  squares = (features - teacher_features) ** 2
  return np.mean(squares) if reduction == 'mean' else np.mean(np.sum(squares, axis=1))


def weighted_feature_distillation(features, teacher_features, kernel, old, bias=0.0, reduction='mean'):
  """Eq. 13: the same in the old logits of the frozen head; features (N, D), kernel (D, M), old (M,)."""
  student, teacher = features @ kernel + bias, teacher_features @ kernel + bias
  old = np.asarray(old, bool)
  return feature_distillation(student[:, old], teacher[:, old], reduction)


def balancing_weights(old, seen):
  """(M,) task-balancing class weights: r = #old / #seen for old classes, 1 - r for the others."""
  ratio = np.sum(old) / np.sum(seen)
  return np.where(old, ratio, 1 - ratio)


def finetune_cross_entropy(logits, labels, class_weights, over=None):
  """Eq. 14: mean over all N rows of w_y CE over the classes of `over` (None: all M), not renormalised."""
  weights = np.asarray(class_weights)[np.asarray(labels)]
  return np.mean(weights * per_sample_cross_entropy(logits, labels, over))


def abd_terms(features, logits, head_logits, teacher_features, prev_kernel, labels, is_real, old, seen, over=None):
  """Terms of Eq. 15 after weighting (kd by 0.1), dict of local, ft and kd.

  features (N, D) and logits (N, M) feed the local and kd terms, head_logits (N, M) feed the fine-tuning term
  (the same values; apart so that gradients can be taken separately).
  """
  old, seen = np.asarray(old, bool), np.asarray(seen, bool)
  local_weight = 1 - old.sum() / seen.sum()
  return {
    'local': local_weight * local_cross_entropy(logits, labels, is_real, seen & ~old),
    'ft': finetune_cross_entropy(head_logits, labels, balancing_weights(old, seen), over),
    'kd': 0.1 * weighted_feature_distillation(features, teacher_features, prev_kernel, old),
  }


def softmax_kd(logits, teacher_logits, mask, temperature=2.0):
  """Mean over samples of the cross-entropy of softened softmaxes over the masked classes; both (N, M)."""
  mask = np.asarray(mask, bool)
  teacher = np.exp(log_softmax(teacher_logits[:, mask] / temperature))
  return np.mean(-np.sum(teacher * log_softmax(logits[:, mask] / temperature), axis=1))


def base_cross_entropy(logits, labels, seen):
  """Base: mean cross-entropy over the seen classes."""
  return np.mean(per_sample_cross_entropy(logits, labels, seen))


def class_gaussians(tasks, measured, dreams, distance_shrinkage, ridge, head_shrinkage):
  """Carried class Gaussians, and the logits of the last task's features less their means over classes.

  tasks: a list of (old features (N, 4, D), new ones, labels (N,)): of each image, its copy and two dreams.
  """
  means, covariances = [], []
  for task, (old, new, labels) in enumerate(tasks):
    old, new = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    kind, n, d = np.tile([1.0, 1.0, dreams, dreams], len(labels)), *old.shape
    for c in range(len(means)) if task else ():
      mu, cov = means[c], covariances[c]
      inverse = np.linalg.inv(cov + distance_shrinkage * np.trace(cov) / d * np.eye(d))
      m = np.einsum('ni,ij,nj->n', old - mu, inverse, old - mu)
      w = kind * np.exp(-(m - m.min()) / (2 * np.median(m)))
      w /= w.sum()
      z = np.concatenate([old - mu, np.ones((n, 1))], axis=1)
      second = z.T @ np.diag(w) @ z
      penalty = ridge * np.diag(second)[:d].mean() * np.diag([1.0] * d + [0.0])
      b = np.linalg.solve(second + penalty, z.T @ np.diag(w) @ (new - old))
      left = new - old - z @ b
      change = np.eye(d) + b[:d]
      means[c], covariances[c] = mu + b[d], change.T @ cov @ change + left.T @ np.diag(w) @ left
    real = new.reshape(len(labels), 4, d)[:, : {'images': 1, 'copies': 2}[measured]]
    for c in np.unique(labels):
      rows = real[labels == c].reshape(-1, d)
      means.append(rows.mean(0))
      covariances.append(np.cov(rows.T, bias=True))
  average = np.mean(covariances, axis=0)
  pooled = (1 - head_shrinkage) * average + head_shrinkage * np.trace(average) / len(average) * np.eye(len(average))
  kernel = np.linalg.inv(pooled) @ np.transpose(means)
  logits = new.reshape(-1, d) @ kernel - np.diag(np.array(means) @ kernel) / 2
  return {'means': means, 'covariances': covariances}, logits - logits.mean(1, keepdims=True)


def lwf(logits, teacher_logits, labels, old, seen, mu=1.0, temperature=2.0):
  """LwF: Base plus mu times softmax distillation over the old classes, both over all rows."""
  return base_cross_entropy(logits, labels, seen) + mu * softmax_kd(logits, teacher_logits, old, temperature)


def lwf_synthetic(logits, teacher_logits, labels, is_real, old, seen, mu=0.1, temperature=2.0):
  """LwF whose cross-entropy sees the real rows alone and whose distillation sees all."""
  real = base_cross_entropy(logits[is_real], labels[is_real], seen)
  return real + mu * softmax_kd(logits, teacher_logits, old, temperature)


def zero_padded_kd(logits, teacher_logits, old, seen, temperature=2.0):
  """Eq. 9: the teacher's softened softmax over the old classes, zeros for the new, against the student's over all."""
  teacher = np.zeros(logits.shape)
  teacher[:, old] = np.exp(log_softmax(teacher_logits[:, old] / temperature))
  return np.mean(-np.sum(teacher[:, seen] * log_softmax(logits[:, seen] / temperature), axis=1))


def deep_inversion(logits, teacher_logits, labels, is_real, old, seen, mu=1.0, temperature=2.0):
  """Eq. 8 as released: LwF on the real rows plus mu times zero-padded distillation on the dreamed ones."""
  real = lwf(logits[is_real], teacher_logits[is_real], labels[is_real], old, seen, mu, temperature)
  return real + mu * zero_padded_kd(logits[~is_real], teacher_logits[~is_real], old, seen, temperature)


def softplus(x):
  """log(1 + e^x), for |x| far below 700."""
  return np.log(1 + np.exp(x))


def lwf_mc(logits, teacher_logits, labels, old, seen):
  """LwF.MC: binary cross-entropies summed over seen classes; targets one-hot, the teacher's sigmoids where old."""
  targets = np.eye(logits.shape[1])[labels]
  targets[:, old] = 1 / (1 + np.exp(-teacher_logits[:, old]))
  per_class = targets * softplus(-logits) + (1 - targets) * softplus(logits)
  return np.mean(np.sum(per_class[:, seen], axis=1))


def kd_by_task(logits, teacher_logits, task_of_class, task, total, temperature=2.0):
  """Sum over the tasks s before `task` of |s| / total times softmax distillation over the classes of s."""
  parts = [task_of_class == s for s in range(task)]
  return sum(part.sum() / total * softmax_kd(logits, teacher_logits, part, temperature) for part in parts)


def e2e_first(logits, previous, labels, task_of_class, task, mu=1.0, temperature=2.0):
  """E2E stage a: cross-entropy over the seen classes, and distillation of each old task's."""
  kd = kd_by_task(logits, previous, task_of_class, task, np.sum(task_of_class < task), temperature)
  return base_cross_entropy(logits, labels, task_of_class <= task) + mu * kd


def e2e_balanced(logits, stage_one, previous, labels, task_of_class, task, mu=1.0, temperature=2.0, slip=False):
  """E2E stage b: shares are of all seen classes; new ones are held to stage one's (slip: to the first old ones)."""
  new, total = task_of_class == task, np.sum(task_of_class <= task)
  count = new.sum()
  target = previous[:, :count] if slip else stage_one[:, new]
  kd_new = softmax_kd(logits[:, new], target, np.ones(count, bool), temperature)
  kd = kd_by_task(logits, previous, task_of_class, task, total, temperature) + count / total * kd_new
  return base_cross_entropy(logits, labels, task_of_class <= task) + mu * kd


def bias_corrected(logits, task_of_class, layers):
  """BiC: layers[s] = (scale, offset) of the logits of task s; later classes are left as they are."""
  logits = np.array(logits)
  for s, (scale, offset) in enumerate(layers):
    logits[:, task_of_class == s] = scale * logits[:, task_of_class == s] + offset
  return logits


def bic_first(logits, teacher_logits, labels, task_of_class, task, layers, temperature=2.0):
  """BiC stage one; layers: one (scale, offset) per task up to this one, the teacher has all but the last."""
  old, seen = task_of_class < task, task_of_class <= task
  r = old.sum() / seen.sum()
  student = bias_corrected(logits, task_of_class, layers)
  teacher = bias_corrected(teacher_logits, task_of_class, layers[:-1])
  return (1 - r) * base_cross_entropy(student, labels, seen) + r * softmax_kd(student, teacher, old, temperature)


def dgr_classifier(logits, teacher_logits, labels, is_real, old, seen, mu=1.0, temperature=2.0):
  """DGR: task-balanced cross-entropy of all rows, softmax distillation of the replayed ones."""
  kd = softmax_kd(logits[~is_real], teacher_logits[~is_real], old, temperature)
  return finetune_cross_entropy(logits, labels, balancing_weights(old, seen), seen) + mu * kd


def variational_bound(images, logits, mean, log_var, weights):
  """DGR's autoencoder: weighted pixel-mean binary cross-entropy, plus KL(code || N(0, 1)) per pixel, unweighted."""
  bce = images * softplus(-logits) + (1 - images) * softplus(logits)
  reconstruction = np.mean(weights * np.mean(bce.reshape(len(bce), -1), axis=1))
  divergence = 0.5 * np.sum(mean**2 + np.exp(log_var) - 1 - log_var, axis=1)
  return reconstruction + np.mean(divergence) / np.prod(images.shape[1:])


def magnitude(x):
  """|x|, decided on the real part."""
  return np.where(np.real(x) > 0, x, -x)


def hard_kd(logits, teacher_logits, is_real, old):
  """R-DFCIL: mean absolute difference of the old classes' logits in the dreamed rows."""
  return np.mean(magnitude(logits - teacher_logits)[~is_real][:, old])


def cosine(a, b):
  """Of the angle between two vectors; zero if one of them is."""
  lengths = np.sqrt(np.sum(a * a)) * np.sqrt(np.sum(b * b))
  return np.sum(a * b) / lengths if np.real(lengths) > 0 else 0.0


def relation(features, teacher_features):
  """R-DFCIL: mean over all ordered triplets i, j, k of the absolute difference of the cosines at j."""
  terms = []
  for i, j, k in np.ndindex((len(features),) * 3):
    ours, theirs = (cosine(f[i] - f[j], f[k] - f[j]) for f in (features, teacher_features))
    terms.append(magnitude(ours - theirs))
  return np.mean(terms)


def weighted_cross_entropy(logits, labels, class_weights, over):
  """Cross-entropy over the classes of `over`, averaged with the weight (M,) of each row's label."""
  weights = np.asarray(class_weights)[labels]
  return np.sum(weights * per_sample_cross_entropy(logits, labels, over)) / np.sum(weights)


def rdfcil_factors(num_old, num_new):
  """R-DFCIL's weights of (cross-entropy, L1 distillation, relation)."""
  a, b = np.log2(num_new / 2 + 1), np.sqrt(num_old / num_new)
  return 0.5 * (1 + 1 / a) / b, 0.15 * a * b, 0.5 * a * b


def rdfcil_terms(features, teacher_features, kernel, teacher_kernel, maps, labels, is_real, old, seen):
  """R-DFCIL stage 1 before weighting: (CE real, L1 dreamed, relation real); maps: two of (kernel (D, 2D), bias)."""
  logits, teacher_logits = features @ kernel, teacher_features @ teacher_kernel
  (ours, our_bias), (theirs, their_bias) = maps
  return (
    local_cross_entropy(logits, labels, is_real, seen & ~old),
    hard_kd(logits, teacher_logits, is_real, old),
    relation(features[is_real] @ ours + our_bias, teacher_features[is_real] @ theirs + their_bias),
  )


def rdfcil_finetuning(logits, teacher_logits, labels, counts, is_real, old, seen):
  """R-DFCIL stage 2: class weights are total / count, divided by the smallest among seen classes."""
  weights = np.where(seen, np.sum(counts) / np.where(seen, counts, 1), 0)
  ce = weighted_cross_entropy(logits, labels, weights / weights[seen].min(), seen)
  return 0.5 * ce + rdfcil_factors(old.sum(), (seen & ~old).sum())[1] * hard_kd(logits, teacher_logits, is_real, old)


# ------------------------------------------------------------------------------------------------- networks
def windows(x, side, stride, around=0.0):
  """x (N, H, W, C) -> (N, H', W', C, side, side): the windows onto x, padded by (side - 1) // 2 pixels of `around`."""
  pad = ((side - 1) // 2,) * 2
  padded = np.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=around)
  return np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]


def conv(x, kernel, stride=1):
  """x (N, H, W, I), kernel (K, K, I, O) -> (N, H', W', O)."""
  return np.tensordot(windows(x, len(kernel), stride), kernel, ((3, 4, 5), (2, 0, 1)))


def moments_of(x):
  """x (..., C) -> {'mean' (C,), 'var' (C,) biased, 'n' elements per channel}."""
  axes = tuple(range(x.ndim - 1))
  mean = np.mean(x, axis=axes)
  return {'mean': mean, 'var': np.mean((x - mean) ** 2, axis=axes), 'n': x.size // x.shape[-1]}


def batch_norm(x, affine, stats, train, eps=1e-5):
  """x (..., C) -> (y, moments of x); batch moments if train, else stats; affine None or {'scale', 'bias'}."""
  moments = moments_of(x)
  used = moments if train else stats
  y = (x - used['mean']) / np.sqrt(used['var'] + eps)
  return (y if affine is None else y * affine['scale'] + affine['bias']), moments


def relu(x, slope=0.0):
  """(Leaky) ReLU decided on the real part."""
  return np.where(np.real(x) > 0, x, slope * x)


def shortcut(x, stride, channels):
  """Option A: every stride-th pixel, zero channels on both sides (an odd one goes to the end)."""
  extra = channels - x.shape[-1]
  return np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def backbone_forward(params, stats, images, train):
  """Subtrees without 'backbone', images (N, H, W, C) -> (features (N, D), moments tree)."""
  moments = {name: {} for name in params}

  def normed(x, name, conv_name, norm, stride=1):
    stored = None if train else stats[name][norm]
    x = conv(x, params[name][conv_name]['kernel'], stride)
    x, moments[name][norm] = batch_norm(x, params[name][norm], stored, train)
    return x

  x = relu(normed(images, 'stem', 'conv', 'norm'))
  for name in sorted(params.keys() - {'stem'}):  # stage0_block0, stage0_block1, ...
    stride = 2 if name.endswith('block0') and name != 'stage0_block0' else 1
    y = relu(normed(x, name, 'conv1', 'norm1', stride))
    y = normed(y, name, 'conv2', 'norm2')
    x = relu(y + shortcut(x, stride, y.shape[-1]))
  return np.mean(x, axis=(1, 2)), moments


def head_forward(head, features):
  """features (N, D), kernel (D, M), bias (M,) -> logits (N, M)."""
  return features @ head['kernel'] + head['bias']


def resnet_forward(params, stats, images, train):
  """-> (features (N, D), logits (N, M), {'backbone': moments of batch-norm inputs}); train ignores stats."""
  stored = None if train else stats['backbone']
  features, moments = backbone_forward(params['backbone'], stored, images, train)
  return features, head_forward(params['head'], features), {'backbone': moments}


def torch_weights(variant, blocks, widths, classes=5, channels=3, seed=0):
  """Torch's name -> f32 array of an evaluated ResNet. Stages of bottlenecks have a quarter of `widths` inside."""
  rng, shapes = np.random.default_rng(seed), {}

  def conv(name, norm, outputs, inputs, side):
    shapes[f'{name}.weight'] = (outputs, inputs, side, side)
    shapes.update({f'{norm}.{leaf}': (outputs,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')})

  inner = [width // 4 for width in widths] if variant == 'bottleneck' else widths
  before = inner[0]
  conv('conv1', 'bn1', before, channels, 3 if variant == 'abd' else 7)
  for i, (count, width, narrow) in enumerate(zip(blocks, widths, inner, strict=True), 1):
    for j in range(count):
      block = f'layer{i}.{j}'
      sizes = [(narrow, before, 1), (narrow, narrow, 3), (width, narrow, 1)]
      for k, size in enumerate(sizes if variant == 'bottleneck' else [(width, before, 3), (width, width, 3)], 1):
        conv(f'{block}.conv{k}', f'{block}.bn{k}', *size)
      if variant != 'abd' and j == 0 and (i > 1 or before != width):
        conv(f'{block}.downsample.0', f'{block}.downsample.1', width, before, 1)
      before = width
  head = 'linear' if variant == 'abd' else 'fc'
  shapes |= {f'{head}.weight': (classes, before), f'{head}.bias': (classes,)}
  draw = lambda name, shape: rng.uniform(0.5, 1.5, shape) if 'var' in name else 0.4 * rng.normal(size=shape)
  weights = {name: np.float32(draw(name, shape)) for name, shape in shapes.items()}
  return weights | {'bn1.num_batches_tracked': np.array(7)}


def torch_resnet(weights, images):
  """What torch computes in evaluation mode: its weights by name, images (N, C, H, W) -> (features, logits)."""
  weights = {name: np.float64(array) for name, array in weights.items()}

  def normed(name, norm, x, stride):
    leaves = ('weight', 'bias', 'running_mean', 'running_var')
    scale, bias, mean, var = (weights[f'{norm}.{leaf}'] for leaf in leaves)
    x = conv(x, weights[f'{name}.weight'].transpose(2, 3, 1, 0), stride)
    return batch_norm(x, {'scale': scale, 'bias': bias}, {'mean': mean, 'var': var}, False)[0]

  large = weights['conv1.weight'].shape[-1] == 7
  x = relu(normed('conv1', 'bn1', images.transpose(0, 2, 3, 1), 2 if large else 1))
  x = windows(x, 3, 2, -np.inf).max((4, 5)) if large else x
  found = (re.match(r'layer(\d+)\.(\d+)', name) for name in weights)
  for i, j in sorted({tuple(map(int, match.groups())) for match in found if match}):
    block, y = f'layer{i}.{j}', x
    count, stride = 3 if f'{block}.conv3.weight' in weights else 2, 2 if i > 1 and j == 0 else 1
    for k in range(1, count + 1):  # the 3x3 convolution has the stride; of two, the first
      y = normed(f'{block}.conv{k}', f'{block}.bn{k}', relu(y) if k > 1 else y, stride if k == count - 1 else 1)
    if f'{block}.downsample.0.weight' in weights:
      x = normed(f'{block}.downsample.0', f'{block}.downsample.1', x, stride)
    elif stride > 1:
      x = shortcut(x, stride, y.shape[-1])
    x = relu(x + y)
  features, head = x.mean((1, 2)), 'fc' if 'fc.weight' in weights else 'linear'
  return features, features @ weights[f'{head}.weight'].T + weights[f'{head}.bias']


def conv4x4_doubling(x, kernel):
  """x (N, H, W, I), kernel (4, 4, I, O) -> (N, 2H, 2W, O): each pixel paints 4x4 ones (the kernel turned round)."""
  count, height, width, _ = x.shape
  painted = np.zeros((count, 2 * height + 2, 2 * width + 2, kernel.shape[-1]))
  for u in range(4):
    for v in range(4):
      painted[:, u : u + 2 * height : 2, v : v + 2 * width : 2] += x @ kernel[3 - u, 3 - v]
  return painted[:, 1:-1, 1:-1]


def vae_forward(params, images, noise, start):
  """-> (logits of the reconstruction, mean, log variance); noise (N, Z) standard normal; start: (h0, w0, c0)."""
  x = images
  for i in range(sum(name.startswith('encoder_') for name in params)):
    layer = params[f'encoder_{i}']
    x = relu(conv(x, layer['kernel'], 2) + layer['bias'])
  x = x.reshape(len(x), -1)
  mean, log_var = head_forward(params['mean'], x), head_forward(params['log_var'], x)
  x = head_forward(params['expand'], mean + np.exp(log_var / 2) * noise).reshape(len(x), *start)
  for i in range(sum(name.startswith('decoder_') for name in params)):
    layer = params[f'decoder_{i}']
    x = conv4x4_doubling(relu(x) if i else x, layer['kernel']) + layer['bias']
  return x, mean, log_var


def generator_forward(params, z, stats=None, start=None):
  """z (N, Z) -> (images (N, H, W, C), moments tree); batch statistics unless running stats are given.

  start: (h0, w0) of the projected map, default a square.
  """
  train = stats is None
  channels = params['norm']['scale'].shape[0]
  x = z @ params['project']['kernel'] + params['project']['bias']
  side = round((x.shape[1] / channels) ** 0.5)
  x = x.reshape((len(z), *(start or (side, side)), channels))
  moments = {}

  def norm(x, name, eps):
    y, moments[name] = batch_norm(x, params.get(name), None if train else stats[name], train, eps)
    return y

  x = norm(x, 'norm', 1e-5)
  for i in sorted(int(name[4:]) for name in params if re.fullmatch(r'conv\d+', name)):
    x = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    x = conv(x, params[f'conv{i}']['kernel']) + params[f'conv{i}']['bias']
    x = relu(norm(x, f'norm{i}', 0.8), 0.2)
  x = np.tanh(conv(x, params['to_image']['kernel']) + params['to_image']['bias'])
  return norm(x, 'norm_out', 1e-5), moments


def updated_stats(stats, moments, decay):
  """decay * running + (1 - decay) * batch, with the unbiased batch variance var * n / (n - 1)."""
  new = {}
  for name, node in stats.items():
    if 'mean' in node:
      batch = moments[name]
      unbiased = batch['var'] * batch['n'] / (batch['n'] - 1)
      new[name] = {
        'mean': decay * node['mean'] + (1 - decay) * batch['mean'],
        'var': decay * node['var'] + (1 - decay) * unbiased,
      }
    else:
      new[name] = updated_stats(node, moments[name], decay)
  return new


# ---------------------------------------------------------------------------------------------------- steps
def sgd(params, grads, momentum, lr, weight_decay, momentum_coef=0.9):
  """-> (params, momentum) after one step of SGD with coupled weight decay."""
  momentum = tree_map(lambda v, g, p: momentum_coef * v + g + weight_decay * p, momentum, grads, params)
  return tree_map(lambda p, v: p - lr * v, params, momentum), momentum


def abd_step(student, momentum, teacher, images, labels, is_real, task_of_class, task, *, lr, weight_decay, ft_over):
  """One student step after task 1 -> dict(params, batch_stats, momentum, terms).

  student, teacher: (params, batch stats). images (2B, H, W, C) of both kinds, labels (2B,) read where is_real (2B,),
  task_of_class (M,), task same numbering, ft_over 'all' or 'seen'.
  """
  (params, batch_stats), (teacher_params, teacher_stats) = (map(as_float64, pair) for pair in (student, teacher))
  images, momentum = np.asarray(images, np.float64), as_float64(momentum)
  old, seen = task_of_class < task, task_of_class <= task
  over = {'all': np.ones_like(seen), 'seen': seen}[ft_over]

  teacher_features, teacher_logits, _ = resnet_forward(teacher_params, teacher_stats, images, False)
  dreamed = np.argmax(np.where(old, teacher_logits, -np.inf), axis=1)
  labels = np.where(is_real, np.asarray(labels), dreamed)
  prev_kernel = teacher_params['head']['kernel']
  features, logits, moments = resnet_forward(params, None, images, True)

  def terms_of(features, logits, head_logits):
    return abd_terms(features, logits, head_logits, teacher_features, prev_kernel, labels, is_real, old, seen, over)

  def backbone_loss(backbone):
    moved, _ = backbone_forward(backbone, None, images, True)
    terms = terms_of(moved, head_forward(params['head'], moved), logits)
    return terms['local'] + terms['kd']

  def head_loss(head):
    moved = head_forward(head, features)
    terms = terms_of(features, moved, moved)
    return terms['local'] + terms['ft']

  grads = {
    'backbone': complex_gradient(backbone_loss, params['backbone']),
    'head': complex_gradient(head_loss, params['head']),
  }
  params, momentum = sgd(params, grads, momentum, lr, weight_decay)
  return {
    'params': params,
    'batch_stats': updated_stats(batch_stats, moments, 0.81),
    'momentum': momentum,
    'terms': terms_of(features, logits, logits),
  }


def inversion_step(generator, adam, teacher, z, task_of_class, task, *, lr, weights, b1=0.9, b2=0.999):
  """One Adam step of the generator -> dict(params, stats, adam, loss, terms).

  generator, teacher: (params, batch stats). adam: dict of mu and nu (trees like the generator's params) and count
  (steps so far); z (B, Z); task_of_class (M,).
  """
  (params, stats), (teacher_params, teacher_stats) = (map(as_float64, pair) for pair in (generator, teacher))
  mu, nu = as_float64(adam['mu']), as_float64(adam['nu'])
  z, seen = np.asarray(z, np.float64), np.asarray(task_of_class) <= task

  def objective(params):
    images, moments = generator_forward(params, z)
    _, logits, inputs = resnet_forward(teacher_params, teacher_stats, images, False)
    total, terms = inversion_objective(images, logits, inputs, teacher_stats, seen, weights)
    return total, terms, moments

  loss, terms, moments = objective(params)
  grads = complex_gradient(lambda params: objective(params)[0], params)
  count = int(adam['count']) + 1
  mu = tree_map(lambda m, g: b1 * m + (1 - b1) * g, mu, grads)
  nu = tree_map(lambda n, g: b2 * n + (1 - b2) * g**2, nu, grads)
  update = lambda p, m, n: p - lr * (m / (1 - b1**count)) / (np.sqrt(n / (1 - b2**count)) + 1e-8)
  return {
    'params': tree_map(update, params, mu, nu),
    'stats': updated_stats(stats, moments, 0.9),
    'adam': {'mu': mu, 'nu': nu, 'count': count},
    'loss': np.float64(loss),
    'terms': terms,
  }


# ------------------------------------------------------------------------------------------- golden numbers
def golden_inputs():
  """The specification's example: 8 rows, the first 4 real, 4 features, 8 classes of which 3 are old and 2 new.

  -> features, kernel, bias, teacher_features, prev_kernel, labels, is_real, old, seen
  """
  rows, dims, classes = np.arange(8)[:, None], np.arange(4), np.arange(8)
  features = np.sin(0.7 * (4 * rows + dims) + 0.3)
  kernel, bias = np.cos(0.5 * (4 * classes[:, None] + dims)).T, 0.1 * classes
  teacher_features = features + 0.05 * np.cos(rows + dims)
  prev_kernel = kernel + 0.02 * np.sin(classes[:, None] - dims).T
  labels = np.array([3, 4, 3, 4, 0, 1, 2, 0])
  is_real, old, seen = np.arange(8) < 4, classes < 3, classes < 5
  return features, kernel, bias, teacher_features, prev_kernel, labels, is_real, old, seen


def golden_maps():
  """R-DFCIL's projections in that example: two of (kernel (4, 8), bias)."""
  index = 4 * np.arange(8) + np.arange(4)[:, None]
  return (np.cos(0.3 * index), np.zeros(8)), (np.sin(0.2 * index), np.zeros(8))
