"""The student's compiled steps: one training step for any phase of any method, and evaluation."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.errors import UserError
from abd_jax.losses import mask_logits
from abd_jax.methods.types import LossInputs, Method, Output, Phase, StartTask
from abd_jax.models.cast_and_fold import Narrow, with_narrow
from abd_jax.models.norm import update_running_stats
from abd_jax.state import Classes, FrozenModel, PhaseData, TrainState
from abd_jax.steps import inversion
from abd_jax.steps.chunks import Step
from abd_jax.steps.components import Components, apply_update, in_precision_of
from abd_jax.steps.inputs import StudentInputs
from abd_jax.steps.rng import stream

PyTree = Any


def init_student(components: Components, image_shape: tuple[int, ...], method: Method | None, seed: int) -> TrainState:
  """A fresh student for images of `image_shape` (h, w, c), with what its method, if any, keeps beside the network."""
  model_key, extra_key = jax.random.split(stream(seed, 'student_init'))
  variables = components.model.init(model_key, jnp.zeros((1, *image_shape)), train=False)
  params, extra, statistics = variables['params'], {}, {}
  width, classes = params['head']['kernel'].shape
  if method and method.extra_init:
    extra = method.extra_init(extra_key, classes)
  if method and method.statistics_init:
    statistics = method.statistics_init(width, classes)
  opt_state = components.sgd.init({'params': params, 'extra': extra})
  return TrainState(params, variables['batch_stats'], opt_state, jnp.int32(0), extra, statistics)


def reset_optimizer(components: Components, state: TrainState) -> TrainState:
  """The state with weights and statistics kept, and momentum at zero."""
  return state.replace(opt_state=components.sgd.init({'params': state.params, 'extra': state.extra}))


def start_task(change: StartTask, state: TrainState, seed: jax.Array, classes: Classes) -> TrainState:
  """The state with the parameters that the method changes for a new task. seed: u32[]."""
  key = jax.random.fold_in(stream(seed, 'start_task'), classes.task)
  params, extra = change(state.params, state.extra, key, classes)
  return state.replace(params=params, extra=extra)


def make_train_step(components: Components, phase: Phase) -> Step:
  """The step of `phase`, from a TrainState, StudentInputs and PhaseData; metrics are f32[]."""

  def run(state: TrainState, copies: Narrow, inputs: StudentInputs, given: _Given):
    data, teachers, key = given.data, given.teachers, jax.random.fold_in(given.key, state.step)
    images, labels, is_real = _joined_batch(components, phase, key, inputs, given)
    outputs = tuple(frozen_outputs(components.teacher, teacher, images) for teacher in teachers[: phase.teachers])
    if phase.dreams:
      old_logits = mask_logits(outputs[0].logits, data.classes.old)
      labels = jnp.where(is_real, labels, jnp.argmax(old_logits, axis=-1))

    def objective(trained):
      trained = trained | {'params': components.held(trained['params'])}
      student, batch_stats = _forward(components, phase, trained, state.batch_stats, images)
      inputs = LossInputs(images, student, outputs, labels, is_real, data.classes, jax.random.fold_in(key, 2))
      value, metrics = phase.loss(inputs)
      return value, (metrics, student.logits, batch_stats)

    trained = {'params': state.params, 'extra': state.extra}
    differentiate = jax.grad(objective, has_aux=True)
    grads, (metrics, logits, batch_stats) = differentiate(trained | {'params': with_narrow(state.params, copies)})
    direction, opt_state = components.sgd.update(in_precision_of(trained, grads), state.opt_state, trained)
    trained = apply_update(trained, components.slowed(mask_updates(phase.trainable, direction)), inputs.lr)
    hits = jnp.argmax(mask_logits(logits, data.classes.seen), axis=-1) == labels
    metrics = metrics | {'accuracy': jnp.sum(hits & is_real) / jnp.sum(is_real)}
    if phase.observe:
      trained = trained | {'extra': phase.observe(trained['extra'], labels)}
    state = state.replace(**trained, batch_stats=batch_stats, opt_state=opt_state, step=state.step + 1)
    return state, metrics

  return Step(run, components.copies, partial(_prepare, components, phase))


class _Given(NamedTuple):
  """The data of a phase, prepared for its steps."""

  data: PhaseData
  teachers: tuple[FrozenModel, ...]  # of `data`, in the form that components.teacher runs
  key: jax.Array  # of all steps; each folds its number in


def _prepare(components: Components, phase: Phase, data: PhaseData) -> _Given:
  teachers = tuple(components.as_teacher(teacher) for teacher in data.teachers[: phase.teachers])
  return _Given(data, teachers, stream(data.seed, 'student'))


def _joined_batch(components: Components, phase: Phase, key: jax.Array, inputs: StudentInputs, given: _Given):
  """(augmented images, labels, which are real) of the step; with phase.dreams, alternating with as many dreams."""
  augment_key, dream_key = jax.random.split(key)
  images, labels = _real_batch(components, inputs, given.data)
  images = components.constrain(components.images.augment(augment_key, images))
  is_real = jnp.ones(labels.shape, bool)
  if phase.turns:
    return turned(images), jnp.repeat(labels, 4), jnp.arange(4 * len(labels)) % 4 == 0
  if not phase.dreams:
    return images, labels, is_real
  if phase.dreamer is None:
    dreams = inversion.sample(components, given.teachers[0].generator, dream_key, len(labels))
  else:
    dreams = phase.dreamer(given.data.teachers[0], dream_key, len(labels))
    dreams = jax.lax.stop_gradient(components.constrain(dreams))
  # Interleaved, not concatenated: on a batch split over devices this moves nothing between them.
  return interleave(images, dreams), interleave(labels, labels), interleave(is_real, ~is_real)


def _real_batch(components: Components, inputs: StudentInputs, data: PhaseData) -> tuple[jax.Array, jax.Array]:
  """The step's raw images and labels: its inputs, or rows of the images on the devices."""
  if inputs.images is not None and inputs.labels is not None:
    return components.constrain(inputs.images), components.constrain(inputs.labels)
  assert inputs.index is not None and data.images is not None and data.labels is not None, 'neither images nor rows'
  index = components.constrain(inputs.index)
  return data.images[index], data.labels[index]


def turned(images: jax.Array) -> jax.Array:
  """f[4n, h, w, c]: each of f[n, h, w, c], then the same turned by 90, 180 and 270 degrees.

  Raises UserError unless h = w.
  """
  height, width = images.shape[1:3]
  if height != width:
    raise UserError(f'only square images can be turned, not {height}x{width}. Set config.class_gaussians.turns=none.')
  return jnp.stack([jnp.rot90(images, k, (1, 2)) for k in range(4)], axis=1).reshape(-1, *images.shape[1:])


def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
  """Rows a0 b0 a1 b1 ...: two arrays [n, ...] as one [2n, ...]."""
  return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _forward(components: Components, phase: Phase, trained: PyTree, batch_stats: PyTree, images: jax.Array):
  """(the student's output for the images, its running statistics after them)."""
  decay = 0.9**phase.bn_passes

  def forward(images, batch_stats):
    variables = {'params': trained['params'], 'batch_stats': batch_stats}
    (features, logits), updates = components.model.apply(variables, images, train=True, mutable=['moments'])
    return features, logits, update_running_stats(batch_stats, updates['moments'], decay)

  if not (phase.bn_passes and components.stats_learn):
    features, logits = components.model.apply(
      {'params': trained['params'], 'batch_stats': batch_stats}, images, train=False
    )
  elif phase.dreams and not phase.joint_bn:
    real_features, real_logits, batch_stats = forward(images[::2], batch_stats)
    features, logits, batch_stats = forward(images[1::2], batch_stats)
    features, logits = interleave(real_features, features), interleave(real_logits, logits)
  else:
    features, logits, batch_stats = forward(images, batch_stats)
  return Output(features, logits, **trained['params']['head'], extra=trained['extra'], statistics={}), batch_stats


def frozen_outputs(model: Any, teacher: FrozenModel, images: jax.Array) -> Output:
  """The output of a frozen model, run as the module `model`: running statistics, no gradient."""
  features, logits = model.apply(teacher.variables, images, train=False)
  output = Output(features, logits, **teacher.params['head'], extra=teacher.extra, statistics=teacher.statistics)
  return jax.lax.stop_gradient(output)


def mask_updates(groups: tuple[str, ...], direction: PyTree) -> PyTree:
  """The update with every group of parameters outside `groups` set to zero."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  return {
    part: {name: tree if name in groups else zero(tree) for name, tree in groups_of.items()}
    for part, groups_of in direction.items()
  }


def predict(
  components: Components, method: Method, model: FrozenModel, images: jax.Array, classes: Classes
) -> jax.Array:
  """f[b, c]: the logits by which a method predicts the classes of raw images u8[b, h, w, c], masked to those seen."""
  output = _raw_outputs(components, model, images)
  return mask_logits(predicting(method, output, classes), classes.seen)


def probabilities(
  components: Components, method: Method, model: FrozenModel, images: jax.Array, classes: Classes
) -> tuple[jax.Array, jax.Array]:
  """(i32[b] likeliest class, f[b, c]) of raw images u8[b, h, w, c]; unseen classes have 0."""
  logits = predict(components, method, model, images, classes)
  return jnp.argmax(logits, axis=-1), jax.nn.softmax(logits)


def predicting(method: Method, output: Output, classes: Classes) -> jax.Array:
  """The logits f[b, c] by which a method predicts."""
  return method.logits(output, classes) if method.logits else output.logits


def embed(components: Components, model: FrozenModel, images: jax.Array) -> jax.Array:
  """The features f[b, d] of raw images u8[b, h, w, c]."""
  return _raw_outputs(components, model, images).features


def embed_by_both(
  components: Components,
  old: FrozenModel | None,
  new: FrozenModel,
  images: jax.Array,
  data: PhaseData,
  batch: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Features f[b, k, d] of two models: of raw images u8[b, h, w, c], copies of them, and as many dreams of `old`.

  k is 4, or 2 if `old` has no generator. old: None if it is the same as `new`, which then runs once.
  batch: i32[], its number in the task, which varies copies and dreams.
  """
  key = jax.random.fold_in(jax.random.fold_in(stream(data.seed, 'end_task'), data.classes.task), batch)
  copy_key, *dream_keys = jax.random.split(key, 3)
  images = components.constrain(images)
  kinds = [components.images.normalise(images), components.images.copied(copy_key, images)]
  if old and old.generator:
    kinds += [inversion.sample(components, old.generator, one, len(images)) for one in dream_keys]

  def features(model: FrozenModel) -> jax.Array:
    return jnp.stack([frozen_outputs(components.model, model, images).features for images in kinds], axis=1)

  by_new = features(new)
  return features(old) if old else by_new, by_new


def _raw_outputs(components: Components, model: FrozenModel, images: jax.Array) -> Output:
  return frozen_outputs(components.model, model, components.images.normalise(components.constrain(images)))


def in_batches(function, images: Any, batch_size: int, count: int | None = None):
  """`function(images u8[batch_size, h, w, c])`, an array or a tuple of them, over all images; the last batch padded.

  images: u8[n, h, w, c], or an object whose slices are such arrays. count: only so many images, the first.
  """
  results, count = [], len(images) if count is None else count
  for start in range(0, max(count, 1), batch_size):  # a batch gives the shapes of results, even for no images
    batch = images[start : min(start + batch_size, count)]
    missing = batch_size - len(batch)
    padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
    results.append(function(padded))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *jax.device_get(results))
