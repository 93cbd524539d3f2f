"""The student's compiled steps: one training step for any phase of any method, and evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import inversion, optim
from abd_jax.kit import Kit
from abd_jax.losses import mask_logits
from abd_jax.methods import LossInputs, Method, Output, Phase
from abd_jax.models.norm import absorb
from abd_jax.state import Classes, Context, Teacher, TrainState

PyTree = Any


class StepInputs(NamedTuple):
  """One student step's own inputs."""

  index: np.ndarray  # i32[b], rows of the task's images
  lr: np.ndarray  # f32[]


class EpochIndices:
  """The inputs of a phase's steps: each epoch a fresh permutation of `rows`, whole batches only.

  Fewer rows than a batch make one batch, some of them repeated. key: integers (seed, task, phase); the order of an
  epoch is a function of them and the epoch alone, so a resumed run sees the very same batches.
  """

  def __init__(self, key: tuple[int, ...], rows: np.ndarray, batch_size: int, phase: Phase):
    self._key, self._rows, self._batch_size, self._phase = key, rows, batch_size, phase
    self._per_epoch = steps_per_epoch(len(rows), batch_size)
    self.steps = phase.epochs * self._per_epoch
    self.images = batch_size * (1 + phase.dreams)  # a step

  def __call__(self, start: int, stop: int) -> StepInputs:
    """Inputs of steps start .. stop - 1: index i32[k, b], lr f32[k]."""
    epochs, batches = np.divmod(np.arange(start, stop), self._per_epoch)
    orders = {epoch: self._batches(epoch) for epoch in np.unique(epochs)}
    index = np.stack([orders[epoch][batch] for epoch, batch in zip(epochs, batches, strict=True)])
    return StepInputs(index, optim.learning_rates(self._phase.lr, self._phase.milestones, epochs))

  def _batches(self, epoch: int) -> np.ndarray:
    order = np.random.default_rng([*self._key, epoch]).permutation(len(self._rows))
    order = np.resize(order, max(len(order), self._batch_size))[: self._per_epoch * self._batch_size]
    return self._rows[order].astype(np.int32).reshape(self._per_epoch, self._batch_size)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  return max(num_images // batch_size, 1)


def init_student(kit: Kit, image_shape: tuple[int, ...], extra_init, seed: int) -> TrainState:
  """A fresh student for images of `image_shape` (h, w, c). extra_init: Method's."""
  model_key, extra_key = jax.random.split(inversion.stream(seed, 'student_init'))
  variables = kit.model.init(model_key, jnp.zeros((1, *image_shape)), train=False)
  params, extra = variables['params'], extra_init(extra_key, kit.model.num_classes) if extra_init else {}
  opt_state = kit.sgd.init({'params': params, 'extra': extra})
  return TrainState(params, variables['batch_stats'], opt_state, jnp.int32(0), extra)


def reset_optimizer(kit: Kit, state: TrainState) -> TrainState:
  """The state as a new task finds it: weights and statistics carried over, momentum forgotten."""
  return state.replace(opt_state=kit.sgd.init({'params': state.params, 'extra': state.extra}))


def make_start_task(kit: Kit, method: Method):
  """start(state, seed u32[], Classes) -> the state with what the method makes anew for a task."""

  def start(state: TrainState, seed: jax.Array, classes: Classes) -> TrainState:
    key = jax.random.fold_in(inversion.stream(seed, 'start_task'), classes.task)
    params, extra = method.start_task(state.params, state.extra, key, classes)
    return state.replace(params=params, extra=extra)

  return start


def make_train_step(kit: Kit, phase: Phase):
  """The step of `phase`: step(TrainState, StepInputs, Context) -> (TrainState, metrics of f32[])."""

  def step(state: TrainState, inputs: StepInputs, context: Context):
    key = jax.random.fold_in(inversion.stream(context.seed, 'student'), state.step)
    augment_key, dream_key = jax.random.split(key)
    index = kit.constrain(inputs.index)
    images = kit.constrain(kit.images.augment(augment_key, context.images[index]))
    labels = context.labels[index]
    is_real = jnp.ones(labels.shape, bool)
    if phase.dreams:
      size = labels.shape[0]
      dreams = _dream(kit, phase, context.teachers[0], dream_key, size)
      # Interleaved, not concatenated: on a batch split over devices this moves nothing between them.
      images = interleave(images, dreams)
      labels, is_real = interleave(labels, labels), interleave(is_real, ~is_real)
    teachers = tuple(_look(kit, teacher, images) for teacher in context.teachers[: phase.teachers])
    if phase.dreams:
      old_logits = mask_logits(teachers[0].logits, context.classes.old)
      labels = jnp.where(is_real, labels, jnp.argmax(old_logits, axis=-1))

    def objective(trained):
      student, batch_stats = _forward(kit, phase, trained, state.batch_stats, images)
      inputs = LossInputs(images, student, teachers, labels, is_real, context.classes, jax.random.fold_in(key, 2))
      value, metrics = phase.loss(inputs)
      return value, (metrics, student.logits, batch_stats)

    trained = {'params': state.params, 'extra': state.extra}
    grads, (metrics, logits, batch_stats) = jax.grad(objective, has_aux=True)(trained)
    direction, opt_state = kit.sgd.update(grads, state.opt_state, trained)
    trained = optim.apply_update(trained, _only(phase.trainable, direction), inputs.lr)
    hits = jnp.argmax(mask_logits(logits, context.classes.seen), axis=-1) == labels
    metrics = metrics | {'accuracy': jnp.sum(hits & is_real) / jnp.sum(is_real)}
    if phase.observe:
      trained = trained | {'extra': phase.observe(trained['extra'], labels)}
    state = state.replace(**trained, batch_stats=batch_stats, opt_state=opt_state, step=state.step + 1)
    return state, metrics

  return step


def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
  """Rows a0 b0 a1 b1 ...: two arrays [n, ...] as one [2n, ...]."""
  return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _dream(kit: Kit, phase: Phase, teacher: Teacher, key: jax.Array, size: int) -> jax.Array:
  if phase.dreamer is None:
    return inversion.sample(kit, teacher.generator, key, size)
  return jax.lax.stop_gradient(kit.constrain(phase.dreamer(teacher, key, size)))


def _forward(kit: Kit, phase: Phase, trained: PyTree, batch_stats: PyTree, images: jax.Array):
  """What the student says of the images, and its running statistics after them."""
  decay = 0.9**phase.bn_passes

  def forward(images, batch_stats):
    variables = {'params': trained['params'], 'batch_stats': batch_stats}
    (features, logits), updates = kit.model.apply(variables, images, train=True, mutable=['moments'])
    return features, logits, absorb(batch_stats, updates['moments'], decay)

  if not phase.bn_passes:
    features, logits = kit.model.apply({'params': trained['params'], 'batch_stats': batch_stats}, images, train=False)
  elif phase.dreams and not phase.joint_bn:
    real_features, real_logits, batch_stats = forward(images[::2], batch_stats)
    features, logits, batch_stats = forward(images[1::2], batch_stats)
    features, logits = interleave(real_features, features), interleave(real_logits, logits)
  else:
    features, logits, batch_stats = forward(images, batch_stats)
  return Output(features, logits, **trained['params']['head'], extra=trained['extra']), batch_stats


def _look(kit: Kit, teacher: Teacher, images: jax.Array) -> Output:
  """What a frozen model says about the images: running statistics, no gradient."""
  features, logits = kit.model.apply(teacher.variables, images, train=False)
  return jax.lax.stop_gradient(Output(features, logits, **teacher.params['head'], extra=teacher.extra))


def _only(groups: tuple[str, ...], direction: PyTree) -> PyTree:
  """The update with every group of parameters outside `groups` set to zero."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  return {
    part: {name: tree if name in groups else zero(tree) for name, tree in groups_of.items()}
    for part, groups_of in direction.items()
  }


def make_predict(kit: Kit, method: Method):
  """predict(Teacher, images u8[b, h, w, c], Classes) -> i32[b, 5]: the likeliest of the classes seen, best first.

  Fewer columns if the head has fewer classes; a class not seen comes after all that are.
  """

  def predict(model: Teacher, images: jax.Array, classes: Classes) -> jax.Array:
    output = _look(kit, model, kit.images.normalise(kit.constrain(images)))
    logits = method.logits(output, classes) if method.logits else output.logits
    return jax.lax.top_k(mask_logits(logits, classes.seen), min(5, logits.shape[-1]))[1]

  return predict


def make_embed(kit: Kit):
  """embed(Teacher, images u8[b, h, w, c]) -> features f[b, d]."""
  return lambda model, images: _look(kit, model, kit.images.normalise(kit.constrain(images))).features


def in_batches(function, images: np.ndarray, batch_size: int) -> np.ndarray:
  """[n, ...]: `function(images u8[batch_size, h, w, c])` over all images, the last batch padded."""
  results = []
  for start in range(0, len(images), batch_size):
    batch = images[start : start + batch_size]
    missing = batch_size - len(batch)
    padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
    results.append(function(padded))
  return np.concatenate(jax.device_get(results))[: len(images)]
