"""abd_jax.steps.student and abd_jax.steps.inversion: whole steps against the NumPy restatement of them."""

import collections
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from abd_jax.config import default
from abd_jax.errors import UserError
from abd_jax.losses import NEVER
from abd_jax.methods import abd, base, lwf
from abd_jax.methods.types import Method, Phase
from abd_jax.state import Classes, FrozenModel, PhaseData, TrainState
from abd_jax.steps import inversion, student
from abd_jax.steps.components import Components, make_components
from abd_jax.steps.inputs import EpochIndices, StudentInputs
from abd_jax.steps.rng import stream

SHAPE, LATENT, BATCH, NUM_IMAGES = (8, 8, 3), 5, 6, 10
TASK_OF_CLASS, TASK = np.array([0, 0, 1, 2, 2, 3, 3], np.int32), 2  # 3 old classes, 2 new, 2 unseen
OLD, SEEN = TASK_OF_CLASS < TASK, TASK_OF_CLASS <= TASK
LR = np.float32(0.1)
WEIGHT_DECAY, MOMENTUM = 0.01, 0.9
INPUTS = StudentInputs(LR, np.array([7, 2, 9, 0, 4, 5], np.int32))
IS_REAL = np.tile([True, False], BATCH)


class Scene(NamedTuple):
  config: object
  components: Components
  state: TrainState  # of the student
  generator: TrainState
  data: PhaseData

  def joined(self, dreams=True):
    """(images f64[n, h, w, c], labels i32[n]) of the student's next step: real ones, interleaved with dreams."""
    key = jax.random.fold_in(stream(self.data.seed, 'student'), self.state.step)
    augment_key, dream_key = jax.random.split(key)
    images, labels = self.data.images[INPUTS.index], np.asarray(self.data.labels)[INPUTS.index]
    images = np.asarray(jax.jit(self.components.images.augment)(augment_key, images))
    if not dreams:
      return images, labels
    variables = self.data.teachers[0].generator
    dreamed = jax.jit(lambda key: inversion.sample(self.components, variables, key, BATCH))(dream_key)
    return np.stack([images, dreamed], 1).reshape(-1, *SHAPE), labels.repeat(2)


@cache
def scene(dtype=jnp.float64, **fields):
  """Small networks with random weights, statistics and momenta: nothing is at a value that hides a mistake."""
  config = default()
  small = {'model.blocks': (1, 1), 'model.widths': (3, 4), 'data.pad': 1, 'student.weight_decay': WEIGHT_DECAY}
  small |= {'generator.latent': LATENT, 'generator.start': (2, 2, 3), 'generator.widths': (3, 2)}
  config.update_from_flattened_dict(small | {'inversion.batch_size': BATCH} | fields)
  components = make_components(config, len(TASK_OF_CLASS), SHAPE, None, dtype)
  rng = np.random.default_rng(0)
  draw = lambda tree: jax.tree.map(lambda x: np.asarray(x, dtype), reference.random_weights(tree, rng))
  shapes = jax.eval_shape(lambda: student.init_student(components, SHAPE, None, 0))
  params, extra = draw(shapes.params), {'gain': np.ones(4, dtype)}
  trained = {'params': params, 'extra': extra}
  momentum = optax.tree_utils.tree_set(jax.eval_shape(components.sgd.init, trained), trace=draw(trained))
  state = TrainState(params, draw(shapes.batch_stats), momentum, np.int32(11), extra)

  made = jax.eval_shape(lambda: inversion.init_generator(components, 0, 0))
  params, stats, moments = draw(made.params), draw(made.batch_stats), jax.tree.map(np.square, draw(made.params))
  adam = optax.tree_utils.tree_set(made.opt_state, count=np.int32(3), mu=draw(made.params), nu=moments)
  generator = TrainState(params, stats, adam, np.int32(5), {})

  dreamer = {'params': draw(made.params), 'batch_stats': draw(made.batch_stats)}
  teacher = FrozenModel(draw(shapes.params), draw(shapes.batch_stats), {}, dreamer)
  teacher.params['head']['bias'] += np.where(OLD, 0, 3).astype(dtype)  # it would rather not choose old classes
  images = rng.integers(0, 256, (NUM_IMAGES, *SHAPE), dtype=np.uint8)
  labels = 3 + np.arange(NUM_IMAGES, dtype=np.int32) % 2
  classes = Classes(jnp.asarray(TASK_OF_CLASS), jnp.int32(TASK))
  data = PhaseData(jnp.asarray(images), jnp.asarray(labels), classes, (teacher,), np.uint32(3))
  return Scene(config, components, state, generator, data)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def momentum_of(state):
  return optax.tree_utils.tree_get(state.opt_state, 'trace')


def run(at, phase):
  return jax.jit(student.make_train_step(at.components, phase))(at.state, INPUTS, at.data)


def assert_close(ours, theirs, **tolerance):
  for path in reference.leaf_paths(theirs):
    where = '/'.join(path)
    np.testing.assert_allclose(reference.get(ours, path), reference.get(theirs, path), err_msg=where, **tolerance)


EXACT = dict(rtol=1e-9, atol=1e-12)


# Always Be Dreaming's step.


@pytest.mark.parametrize(
  'dtype, where, tolerance',
  [
    ('float64', 'all', EXACT),
    ('float32', 'seen', dict(rtol=1e-3, atol=1e-4)),
  ],
)
def test_abd_step_equals_the_restatement(dtype, where, tolerance):
  with jax.enable_x64(dtype == 'float64'):
    at = scene(jnp.dtype(dtype), **{'abd.ft_softmax': where})
    (phase,) = abd.make(at.config).later
    state, metrics = run(at, phase)
    images, labels = at.joined()
    terms = {'local': metrics['ce'], 'ft': metrics['ft'], 'kd': 0.1 * metrics['kd']}
  teacher = at.data.teachers[0]
  expected = reference.abd_step(
    (at.state.params, at.state.batch_stats),
    momentum_of(at.state)['params'],
    (teacher.params, teacher.batch_stats),
    images,
    labels,
    IS_REAL,
    TASK_OF_CLASS,
    TASK,
    lr=float(LR),
    weight_decay=WEIGHT_DECAY,
    ft_over=where,
  )
  assert_close(terms, expected['terms'], **tolerance)
  assert_close(state.params, expected['params'], **tolerance)
  assert_close(momentum_of(state)['params'], expected['momentum'], **tolerance)
  assert_close(state.batch_stats, expected['batch_stats'], **tolerance)
  assert state.step == at.state.step + 1
  assert jax.tree.leaves(state.params)[0].dtype == dtype

  _, logits, _ = reference.resnet_forward(at.state.params, None, images, True)
  hits = np.where(SEEN, logits, -np.inf).argmax(1) == labels
  np.testing.assert_allclose(metrics['accuracy'], hits[IS_REAL].mean(), rtol=1e-6)


def test_dreams_are_the_generators_in_evaluation_mode(x64):
  at = scene()
  key, variables = jax.random.key(4), at.data.teachers[0].generator
  images = jax.jit(lambda key: inversion.sample(at.components, variables, key, BATCH))(key)
  z = np.asarray(inversion.noise(at.components, key, BATCH))
  expected, _ = reference.generator_forward(variables['params'], z, variables['batch_stats'])
  np.testing.assert_allclose(images, expected, **EXACT)


# Steps on real images alone.


@pytest.mark.parametrize('name', ['abd, first task', 'base', 'lwf'])
def test_step_on_real_images_equals_the_restatement(name, x64):
  at = scene()
  later = {'base': base, 'lwf': lwf}.get(name)
  phase, teacher = later.make(at.config).later[0] if later else abd.make(at.config).first[0], at.data.teachers[0]
  images, labels = at.joined(dreams=False)
  _, teacher_logits, _ = reference.resnet_forward(teacher.params, teacher.batch_stats, images, False)

  def loss(params):
    _, logits, _ = reference.resnet_forward(params, None, images, True)
    if name == 'lwf':
      return reference.lwf(logits, teacher_logits, labels, OLD, SEEN)
    return reference.base_cross_entropy(logits, labels, SEEN if later else SEEN | True)

  params, momentum = reference.as_float64(at.state.params), reference.as_float64(momentum_of(at.state)['params'])
  grads = reference.complex_gradient(loss, params)
  expected, velocity = reference.sgd(params, grads, momentum, float(LR), WEIGHT_DECAY, MOMENTUM)
  moments = reference.resnet_forward(params, None, images, True)[2]
  state, metrics = run(at, phase)
  np.testing.assert_allclose(metrics['ce'] + metrics.get('kd', 0.0), loss(params), **EXACT)
  assert_close(state.params, expected, **EXACT)
  assert_close(momentum_of(state)['params'], velocity, **EXACT)
  stats = reference.as_float64(at.state.batch_stats)
  assert_close(state.batch_stats, reference.updated_stats(stats, moments, 0.9), **EXACT)


# What a phase may ask for.


def probe(inputs):
  """A loss with a gradient everywhere, which also shows what it was given."""
  value = jnp.sum(jnp.square(inputs.student.logits)) + jnp.sum(
    inputs.student.extra['gain'][None] * inputs.student.features
  )
  shown = {'images': inputs.images, 'labels': inputs.labels, 'draw': jax.random.uniform(inputs.key)}
  return value, shown | {'features': inputs.student.features, 'logits': inputs.student.logits}


@pytest.mark.parametrize('trainable', [('head',), ('gain',), ('backbone', 'head')])
def test_groups_outside_trainable_stay_although_weights_decay(trainable, x64):
  at = scene()
  phase = Phase(probe, 1, 0.1) if trainable == ('backbone', 'head') else Phase(probe, 1, 0.1, trainable=trainable)
  state, metrics = run(at, phase)
  before, after = at.state.params | at.state.extra, state.params | state.extra
  assert before.keys() == {'backbone', 'head', 'gain'}
  for group in before:
    same = jax.tree.leaves(jax.tree.map(np.array_equal, before[group], after[group]))
    assert not any(same) if group in trainable else all(same), group
  if 'gain' in trainable:  # which belongs to the method, and is trained like all others
    velocity = MOMENTUM * momentum_of(at.state)['extra']['gain'] + metrics['features'].sum(0)
    velocity += WEIGHT_DECAY * before['gain']
    np.testing.assert_allclose(after['gain'], before['gain'] - float(LR) * velocity, **EXACT)


@pytest.mark.parametrize('trainable, learning', [('all', ('',)), ('last_stage', ('stage1',)), ('none', ())])
def test_only_what_is_trainable_of_the_trunk_learns_and_at_its_own_rate(trainable, learning, x64):
  fields = {'model.trainable': trainable, 'model.trunk_rate': 0.25}
  phase, at = Phase(probe, 1, 0.1), scene(**fields)
  state, _ = run(at, phase)
  whole, _ = run(at._replace(components=scene().components), phase)
  before, after, expected = (one.params['backbone'] for one in (at.state, state, whole))
  for path in reference.leaf_paths(before):
    old, ours, theirs = (reference.get(tree, path) for tree in (before, after, expected))
    if not path[0].startswith(learning):
      np.testing.assert_array_equal(ours, old)
    elif trainable == 'all':  # with part of the trunk held, the rest has the same gradients
      np.testing.assert_allclose(ours - old, 0.25 * (theirs - old), rtol=1e-6)
  learnt = [path for path in reference.leaf_paths(before) if path[0].startswith(learning)]
  assert not any(np.array_equal(reference.get(after, path), reference.get(before, path)) for path in learnt)
  same = jax.tree.leaves(jax.tree.map(np.array_equal, state.batch_stats, at.state.batch_stats))
  assert all(same) if trainable == 'none' else not any(same)
  assert not np.array_equal(state.params['head']['kernel'], at.state.params['head']['kernel'])


def test_separate_batch_norm_is_two_forward_passes(x64):
  at = scene()
  phase = Phase(probe, 1, 0.1, teachers=1, dreams=True, joint_bn=False, bn_passes=2)
  state, metrics = run(at, phase)
  images, _ = at.joined()
  stats = reference.as_float64(at.state.batch_stats)
  for rows in (slice(0, None, 2), slice(1, None, 2)):  # real ones first
    features, logits, moments = reference.resnet_forward(at.state.params, None, images[rows], True)
    np.testing.assert_allclose(metrics['features'][rows], features, **EXACT)
    np.testing.assert_allclose(metrics['logits'][rows], logits, **EXACT)
    stats = reference.updated_stats(stats, moments, 0.9**2)
  assert_close(state.batch_stats, stats, **EXACT)


@pytest.mark.parametrize('fields, passes', [({}, 0), ({'model.frozen_stats': True}, 1)])
def test_without_passes_or_with_frozen_statistics_norms_evaluate_and_stay(fields, passes, x64):
  at = scene(**fields)
  state, metrics = run(at, Phase(probe, 1, 0.1, teachers=1, dreams=True, joint_bn=False, bn_passes=passes))
  images, _ = at.joined()
  features, logits, _ = reference.resnet_forward(at.state.params, at.state.batch_stats, images, False)
  np.testing.assert_allclose(metrics['features'], features, **EXACT)
  np.testing.assert_allclose(metrics['logits'], logits, **EXACT)
  jax.tree.map(np.testing.assert_array_equal, state.batch_stats, at.state.batch_stats)
  head = at.state.params['head']['kernel']
  velocity = MOMENTUM * momentum_of(at.state)['params']['head']['kernel']
  velocity += features.T @ (2 * logits) + WEIGHT_DECAY * head  # of the probe's squared logits
  np.testing.assert_allclose(state.params['head']['kernel'], head - float(LR) * velocity, **EXACT)


def test_a_phase_may_dream_with_something_else_than_a_generator(x64):
  at = scene()

  def dreamer(teacher, key, size):
    return teacher.params['head']['bias'][0] + jax.random.normal(key, (size, *SHAPE))

  _, metrics = run(at, Phase(probe, 1, 0.1, teachers=1, dreams=True, dreamer=dreamer))
  images, _ = at.joined()
  key = jax.random.fold_in(stream(at.data.seed, 'student'), at.state.step)
  images[1::2] = dreamer(at.data.teachers[0], jax.random.split(key)[1], BATCH)
  np.testing.assert_allclose(metrics['images'], images, **EXACT)


def test_each_image_is_followed_by_itself_turned(x64):
  at = scene()
  given = lambda of: {'images': of.images, 'labels': of.labels, 'is_real': of.is_real}
  _, found = run(at, Phase(lambda of: (jnp.sum(of.student.logits), given(of)), epochs=1, lr=0.1, turns=True))
  images, labels = at.joined(dreams=False)
  for k in range(4):
    np.testing.assert_array_equal(found['images'][k::4], np.rot90(images, k, (1, 2)))
    np.testing.assert_array_equal(found['labels'][k::4], labels)
    assert np.all(found['is_real'][k::4] == (k == 0))
  with pytest.raises(UserError, match='not 8x6'):
    student.turned(jnp.zeros((1, 8, 6, 3)))


def test_a_phase_may_keep_count_of_its_labels(x64):
  at = scene()
  observe = lambda extra, labels: extra | {'gain': extra['gain'] + jnp.bincount(labels, length=4)}
  state, metrics = run(at, Phase(probe, 1, 0.1, teachers=1, dreams=True, observe=observe))
  counts = np.bincount(metrics['labels'], minlength=5)[:4]  # dreams' labels too
  np.testing.assert_allclose(state.extra['gain'], at.state.extra['gain'] + counts, **EXACT)


def test_losses_draw_anew_at_every_step(x64):
  at = scene()
  step = jax.jit(student.make_train_step(at.components, Phase(probe, 1, 0.1)))
  again = at.state.replace(step=at.state.step + 1)
  draws = [step(state, INPUTS, data)[1]['draw'] for state, data in (
    (at.state, at.data), (again, at.data), (at.state, at.data.replace(seed=np.uint32(4)))
  )]  # fmt: skip
  assert len({float(draw) for draw in draws}) == 3


def test_start_task_makes_anew_what_the_method_says_with_a_key_of_seed_and_task():
  at = scene(jnp.float32)
  change = lambda params, extra, key, classes: (params | {'head': jax.random.key_data(key)}, {'gain': classes.task})
  start = jax.jit(partial(student.start_task, change))
  seed, classes = at.data.seed, at.data.classes
  state, *others = (
    start(at.state, *given)
    for given in ((seed, classes), (np.uint32(4), classes), (seed, classes.replace(task=jnp.int32(TASK + 1))))
  )
  assert state.extra['gain'] == TASK
  untouched = lambda state: state.replace(params=state.params['backbone'], extra=None)
  jax.tree.map(np.testing.assert_array_equal, untouched(state), untouched(at.state))
  assert len({np.asarray(one.params['head']).tobytes() for one in (state, *others)}) == 3


def test_reset_optimizer_forgets_momentum_and_nothing_else():
  at = scene(jnp.float32)
  state = student.reset_optimizer(at.components, at.state)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(at.state.opt_state))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
  assert jax.tree.structure(state) == jax.tree.structure(at.state)
  jax.tree.map(np.testing.assert_array_equal, state.replace(opt_state=None), at.state.replace(opt_state=None))


# Inversion.


OTHER_WEIGHTS = {'stat': 3.0, 'diversity': 5.0, 'content': 7.0, 'prior': 11.0, 'temperature': 2.0}


@pytest.mark.parametrize(
  'dtype, weights, tolerance',
  [('float64', {}, EXACT), ('float32', OTHER_WEIGHTS, dict(rtol=1e-3, atol=1e-4))],
)
def test_inversion_step_equals_the_restatement(dtype, weights, tolerance):
  fields = {f'inversion.{name}' + '_weight' * (name != 'temperature'): value for name, value in weights.items()}
  with jax.enable_x64(dtype == 'float64'):
    at = scene(jnp.dtype(dtype), **fields)
    lr = np.float32(0.02)
    step = jax.jit(inversion.make_inversion_step(at.components, at.config.inversion))
    state, metrics = step(at.generator, lr, at.data.replace(images=None, labels=None))
    fresh = at.generator.replace(opt_state=jax.tree.map(np.zeros_like, at.generator.opt_state))
    first, _ = step(fresh, lr, at.data.replace(images=None, labels=None))
    key = jax.random.fold_in(stream(at.data.seed, 'generator'), at.generator.step)
    z = np.asarray(inversion.noise(at.components, key, BATCH))
  adam = {name: optax.tree_utils.tree_get(at.generator.opt_state, name) for name in ('mu', 'nu', 'count')}
  teacher = at.data.teachers[0]
  expected = reference.inversion_step(
    (at.generator.params, at.generator.batch_stats),
    adam,
    (teacher.params, teacher.batch_stats),
    z,
    TASK_OF_CLASS,
    TASK,
    lr=float(lr),
    weights=weights,
  )
  assert_close(metrics, expected['terms'] | {'loss': expected['loss']}, **tolerance)
  assert_close(state.params, expected['params'], **tolerance)
  assert_close(state.batch_stats, expected['stats'], **tolerance)
  for name in ('mu', 'nu', 'count'):
    ours = optax.tree_utils.tree_get(state.opt_state, name)
    assert_close({name: ours}, {name: expected['adam'][name]}, **tolerance)
  assert state.step == at.generator.step + 1

  # A norm takes these biases out again: from rounding alone, a fresh Adam would step them by the learning rate.
  cancelled = {('conv0', 'bias'), ('conv1', 'bias')}
  for path in reference.leaf_paths(first.params):
    moved = np.asarray(reference.get(first.params, path)) != reference.get(at.generator.params, path)
    assert not moved.any() if path in cancelled else moved.all(), path


# Evaluation.


def test_features_and_logits_are_of_unaugmented_images_and_classes_not_seen_are_never_predicted(x64):
  at = scene()
  mean, std, raw = np.array(at.config.data.mean), np.array(at.config.data.std), np.asarray(at.data.images)
  features, logits, _ = reference.resnet_forward(at.state.params, at.state.batch_stats, (raw / 255 - mean) / std, False)
  model, method = FrozenModel(at.state.params, at.state.batch_stats, at.state.extra, {}), Method((), ())
  embed = jax.jit(partial(student.embed, at.components))
  predict = jax.jit(partial(student.predict, at.components, method))
  in_batches = lambda function, *given: student.in_batches(lambda batch: function(model, batch, *given), raw, 4)
  np.testing.assert_allclose(in_batches(embed), features, **EXACT)  # of 10 images; the last batch is padded
  found = in_batches(predict, at.data.classes)
  assert (logits.argmax(1) != found.argmax(1)).any()  # unseen classes would have won
  np.testing.assert_allclose(found[:, SEEN], logits[:, SEEN], **EXACT)
  assert (found[:, TASK_OF_CLASS > TASK] == NEVER).all()


# The order of the data.


def epoch_indices(key=(0, 1, 0), rows=range(23), batch_size=5, phase=None):
  phase = phase or Phase(probe, epochs=6, lr=0.1, milestones=(2, 4))
  return EpochIndices(key, np.asarray(rows), batch_size, phase)


def test_an_epoch_goes_over_the_phases_rows_alone_each_as_often_as_it_is_given():
  rows = np.array([40, 3, 17, 17, 5, 88, 2, 61, 9, 9, 9, 30, 31])
  source = epoch_indices(rows=rows, batch_size=4)
  assert source.steps == 6 * 3
  index = source(0, source.steps).index
  assert index.dtype == np.int32 and index.shape == (18, 4)
  epochs = index.reshape(6, 12)
  assert len({tuple(epoch) for epoch in epochs}) == 6
  for epoch in epochs:
    left = collections.Counter(rows.tolist())
    left.subtract(epoch.tolist())
    assert sorted(left.values())[-1] == 1 and sum(left.values()) == 1  # whole batches leave one row out
  all_rows = epoch_indices(rows=rows[:12], batch_size=4)(0, 18).index.reshape(6, 12)
  np.testing.assert_array_equal(np.sort(all_rows), np.sort(rows[:12])[None].repeat(6, 0))


@pytest.mark.parametrize('count', [1, 3, 4])
def test_fewer_rows_than_a_batch_make_one_batch_of_them_all(count):
  rows = [20, 7, 11, 4][:count]
  source = epoch_indices(rows=rows)
  assert source.steps == 6  # one each epoch
  for batch in source(0, 6).index:
    times = [int(np.sum(batch == row)) for row in rows]
    assert sum(times) == 5 and max(times) - min(times) <= 1


def test_order_depends_on_seed_task_phase_and_epoch_alone():
  keys = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (1, 0, 0)]
  orders = [epoch_indices(key)(0, 8).index for key in keys]
  assert len({order.tobytes() for order in orders}) == len(keys)
  np.random.seed(5)
  longer = Phase(probe, epochs=9, lr=7.0)
  np.testing.assert_array_equal(epoch_indices(phase=longer)(0, 8).index, orders[0])


@pytest.mark.parametrize('chunk', [1, 3, 4, 7, 24])
def test_any_chunking_gives_the_same_steps(chunk):
  whole = epoch_indices()(0, 24)
  fresh = [epoch_indices()(start, min(start + chunk, 24)) for start in range(0, 24, chunk)]
  for name in ('index', 'lr'):
    np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in fresh]))


def test_rate_drops_at_the_start_of_milestones():
  lr = epoch_indices()(0, 24).lr
  assert lr.dtype == np.float32
  np.testing.assert_allclose(lr.reshape(6, 4), np.array([[0.1, 0.1, 0.01, 0.01, 0.001, 0.001]]).T.repeat(4, 1))
