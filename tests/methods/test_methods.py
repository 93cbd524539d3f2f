"""abd_jax.methods: what each method learns from, and which parameters it must leave alone."""

import ast
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import reference

from abd_jax import methods
from abd_jax.config import READERS, check, default, finish
from abd_jax.data import memory
from abd_jax.errors import UserError
from abd_jax.methods import base, bic, rdfcil
from abd_jax.methods.types import LossInputs, Method, Output, Phase
from abd_jax.models.vae import VAE
from abd_jax.state import Classes, FrozenModel

TASK_OF_CLASS = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)
OLD, NEW, UNSEEN = TASK_OF_CLASS == 0, TASK_OF_CLASS == 1, TASK_OF_CLASS == 2
IS_REAL = np.tile([True, False], 4)
LABELS = np.where(IS_REAL, 3 + np.arange(8) // 2 % 2, np.arange(8) % 3).astype(np.int32)
RNG = np.random.default_rng(0)
FEATURES, TEACHER_FEATURES, ELDER_FEATURES = RNG.normal(size=(3, 8, 5)).astype(np.float32)
KERNEL, TEACHER_KERNEL, ELDER_KERNEL = RNG.normal(size=(3, 5, 7)).astype(np.float32)
BIAS = RNG.normal(size=7).astype(np.float32)
LOGITS, TEACHER_LOGITS = FEATURES @ KERNEL + BIAS, TEACHER_FEATURES @ TEACHER_KERNEL + BIAS
ELDER_LOGITS = ELDER_FEATURES @ ELDER_KERNEL + BIAS
KEY = jax.random.key(0)

CASE = dict(
  features=FEATURES,
  kernel=KERNEL,
  bias=BIAS,
  extra={},
  teachers=((TEACHER_FEATURES, TEACHER_KERNEL), (ELDER_FEATURES, ELDER_KERNEL)),  # newest first
  teacher_extra={},
  images=None,
  labels=LABELS,
  is_real=IS_REAL,
  task_of_class=TASK_OF_CLASS,
  task=1,
)
# For methods that see real images only, of new classes; and for those with a memory, two old tasks and one new.
REAL = dict(is_real=np.ones(8, bool), labels=3 + np.arange(8, dtype=np.int32) % 2)
FIRST = dict(is_real=np.ones(8, bool), labels=np.arange(8, dtype=np.int32) % 3, task=0, teachers=())
THREE_TASKS = np.array([0, 0, 1, 1, 2, 2, 3], np.int32)
STORED = REAL | dict(labels=np.arange(8, dtype=np.int32) % 6, task_of_class=THREE_TASKS, task=2)


def settings(method='abd', **fields):
  """The config of CIFAR-100 for a method, with `fields`."""
  config = finish(default(), f'method={method}', {}).unlock()
  config.update_from_flattened_dict(fields)
  return config


def get(method, **fields) -> Method:
  return methods.get(settings(method, **fields))


def later(method, phase=0, **fields) -> Phase:
  """A phase of a later task."""
  return get(method, **fields).phases(1)[phase]


def look(features, kernel, bias, extra):
  return Output(features, features @ kernel + bias[None], kernel, bias, extra, {})


def evaluate(phase, of=None, **changes):
  """(value, metrics, gradients) of a phase's loss on CASE with `changes`; of one of its metrics, if `of` names it."""
  case = CASE | changes
  classes = Classes(case['task_of_class'], np.int32(case['task']))
  looks = tuple(look(*teacher, case['bias'], case['teacher_extra']) for teacher in case['teachers'])

  def objective(student):
    rest = case['labels'], case['is_real'], classes, KEY
    value, metrics = phase.loss(LossInputs(case['images'], look(**student), looks[: phase.teachers], *rest))
    return metrics[of] if of else value, metrics

  student = {name: case[name] for name in ('features', 'kernel', 'bias', 'extra')}
  (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(student)
  return value, metrics, jax.tree.map(np.asarray, grads)


def learnt(grads, has_bias=True):
  """bool[c]: the classes whose row of the head gets a gradient; weight and bias agree, if the head has a bias."""
  rows = grads['kernel'].any(0)
  np.testing.assert_array_equal(rows & has_bias, grads['bias'] != 0)
  return rows


def moved(grads):
  """bool[n]: the images whose features get a gradient."""
  return grads['features'].any(1)


# The golden numbers of the specification, through the phases that training runs. Dreamed rows lie between real ones.

PAIRS = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def golden_case(bias=True, **changes):
  features, kernel, offset, teacher_features, prev_kernel, labels, is_real, old, seen = reference.golden_inputs()
  case = dict(
    features=np.float32(features[PAIRS]),
    kernel=np.float32(kernel),
    bias=np.float32(offset * bias),
    teachers=((np.float32(teacher_features[PAIRS]), np.float32(prev_kernel)),) * 2,
    labels=labels[PAIRS].astype(np.int32),
    is_real=is_real[PAIRS],
    task_of_class=np.where(old, 0, np.where(seen, 1, 2)).astype(np.int32),
  )
  return case | changes


def layers(newest, past, size=4):
  """BiC's parameters: (scale, offset) of the newest task and of those before; elsewhere what would spoil a value."""
  table = np.full((2, size), 1e3, np.float32)
  table[:, : len(past)] = np.transpose(past)
  named = lambda pair: dict(zip(('scale', 'offset'), np.float32(pair), strict=True))
  return {'bias': named(newest), 'past': named(table)}


IDENTITY = layers((1, 0), [(1, 0)])
ALL_REAL = dict(is_real=np.ones(8, bool))
OLD_TASKS = dict(task_of_class=np.array([0, 0, 1, 2, 2, 3, 3, 3], np.int32), task=2)
GOLDEN = {
  'abd': (1.08515980, 0, {}, {}),
  'base': (1.337800, 0, ALL_REAL, {}),
  'lwf': (2.245054, 0, ALL_REAL, {}),
  'lwf_mc': (2.877937, 0, ALL_REAL, {}),
  'lwf_synthetic': (0.807187, 0, {}, {}),
  'deep_inversion': (3.081823, 0, {}, {}),
  'e2e, stage a': (1.685561, 0, ALL_REAL | OLD_TASKS, {}),
  'e2e, stage b': (1.757216, 1, ALL_REAL | OLD_TASKS, {'e2e.new_target': 'released'}),
  'bic, stage 1': (1.079473, 0, ALL_REAL | dict(extra=IDENTITY, teacher_extra=IDENTITY), {}),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_totals(name):
  golden, phase, changes, fields = GOLDEN[name]
  value, _, _ = evaluate(later(name.split(',')[0], phase, **fields), **golden_case(**changes))
  np.testing.assert_allclose(value, golden, rtol=1e-4)


def test_golden_rdfcil():
  # "All 8 rows" of the specification: cross-entropy and angles are of the 4 real ones, L1 of the 4 dreamed ones.
  maps = ({'kernel': np.float32(kernel), 'bias': np.float32(bias)} for kernel, bias in reference.golden_maps())
  extra = {'maps': dict(zip(('student', 'teacher'), maps, strict=True)), 'counts': np.zeros(8, np.float32)}
  value, metrics, _ = evaluate(later('rdfcil'), **golden_case(extra=extra))  # the head's bias is not read
  np.testing.assert_allclose(value, 0.0840338, rtol=1e-4)
  chex.assert_trees_all_close(metrics, {'ce': 0.0705208, 'kd': 0.0532312, 'relation': 0.0272296}, rtol=1e-4)
  factors = rdfcil.factors(Classes(golden_case()['task_of_class'], np.int32(1)))
  np.testing.assert_allclose(factors, [0.8164966, 0.1837117, 0.6123724], rtol=1e-6)


# Every loss against its restatement in NumPy (tests/reference.py), and who learns from it.


def random_maps(width=5):
  one = lambda: {'kernel': RNG.normal(size=(width, 2 * width)), 'bias': RNG.normal(size=2 * width)}
  return jax.tree.map(np.float32, {'student': one(), 'teacher': one()})


SEEN, ALL, NONE = OLD | NEW, np.ones(7, bool), np.zeros(7, bool)
COUNTS = np.float32([5, 2, 7, 3, 4, 0, 0])
RELATED = dict(extra={'maps': random_maps(), 'counts': COUNTS})
WITHOUT_BIAS = FEATURES @ KERNEL, TEACHER_FEATURES @ TEACHER_KERNEL
MAPS = [(layer['kernel'], layer['bias']) for layer in map(RELATED['extra']['maps'].get, ('student', 'teacher'))]
OF_RDFCIL = reference.rdfcil_terms(FEATURES, TEACHER_FEATURES, KERNEL, TEACHER_KERNEL, MAPS, LABELS, IS_REAL, OLD, SEEN)
LAYERS = [(0.5, 0.2), (2.0, -0.4), (1.5, 0.3)]  # of BiC's tasks 0, 1 and 2
BIASED = STORED | dict(extra=layers(LAYERS[2], LAYERS[:2]), teacher_extra=layers(LAYERS[1], LAYERS[:1]))
CORRECTED = reference.bias_corrected(LOGITS, THREE_TASKS, LAYERS)
SOFT = {'lwf.weight': 0.3, 'lwf.temperature': 3.0}
WITH_DREAMS = LOGITS, TEACHER_LOGITS, LABELS, IS_REAL, OLD, SEEN
WITHOUT = LOGITS, TEACHER_LOGITS, REAL['labels'], OLD, SEEN
OF_STORED = STORED['labels'], THREE_TASKS, 2, 0.3, 3.0
ELDER = LOGITS, TEACHER_LOGITS, ELDER_LOGITS
PADDED = (  # Eq. 8 and 9 as printed
  reference.deep_inversion(*WITH_DREAMS, 0.3)
  + 0.3 * reference.zero_padded_kd(LOGITS[IS_REAL], TEACHER_LOGITS[IS_REAL], OLD, SEEN)
  - 0.3 * reference.softmax_kd(LOGITS[IS_REAL], TEACHER_LOGITS[IS_REAL], OLD)
)
LOCAL_LWF = reference.local_cross_entropy(LOGITS, REAL['labels'], np.ones(8, bool), NEW)
LOCAL_LWF += 0.3 * reference.softmax_kd(LOGITS, TEACHER_LOGITS, OLD, 3.0)
NEWEST = THREE_TASKS == 2
LOCAL_CORESET = reference.local_cross_entropy(LOGITS, STORED['labels'], NEWEST[STORED['labels']], NEWEST)
LOCAL_CORESET += reference.softmax_kd(LOGITS, TEACHER_LOGITS, THREE_TASKS < 2)
ABD_TERMS = reference.abd_terms(FEATURES, LOGITS, LOGITS, TEACHER_FEATURES, TEACHER_KERNEL, LABELS, IS_REAL, OLD, SEEN)
# name -> phase of a later task or 'first', fields, changes to CASE, value, classes whose rows of the head learn
RESTATED = {
  'abd, first': (
    'first', {'abd.first_softmax': 'all'}, FIRST, reference.base_cross_entropy(LOGITS, FIRST['labels'], ALL), ALL,
  ),
  'abd, first, seen': (
    'first', {'abd.first_softmax': 'seen'}, FIRST, reference.base_cross_entropy(LOGITS, FIRST['labels'], OLD), OLD,
  ),
  'lwf_mc, first': ('first', {}, FIRST, reference.lwf_mc(LOGITS, LOGITS, FIRST['labels'], NONE, OLD), OLD),
  'rdfcil, first': (
    'first', {}, FIRST | RELATED, reference.base_cross_entropy(WITHOUT_BIAS[0], FIRST['labels'], OLD), OLD,
  ),
  'rdfcil': (0, {}, RELATED, np.dot(reference.rdfcil_factors(3, 2), OF_RDFCIL), SEEN),
  'rdfcil, finetuning': (
    1, {}, RELATED, reference.rdfcil_finetuning(*WITHOUT_BIAS, LABELS, COUNTS, IS_REAL, OLD, SEEN), SEEN,
  ),
  'abd': (0, {}, {}, sum(ABD_TERMS.values()), ALL),
  'base': (0, {}, REAL, reference.base_cross_entropy(LOGITS, REAL['labels'], SEEN), SEEN),
  'lwf': (0, SOFT, REAL, reference.lwf(*WITHOUT, 0.3, 3.0), SEEN),
  'lwf, new classes': (0, SOFT | {'lwf.local_classes': 'new'}, REAL, LOCAL_LWF, SEEN),
  'lwf_coreset, new classes': (0, {'lwf.local_classes': 'new'}, STORED, LOCAL_CORESET, THREE_TASKS < 3),
  'lwf_mc': (0, {}, REAL, reference.lwf_mc(*WITHOUT), SEEN),
  'lwf_synthetic': (0, SOFT | {'lwf_synthetic.weight': 0.2}, {}, reference.lwf_synthetic(*WITH_DREAMS, 0.2, 3.0), SEEN),
  'deep_inversion': (0, SOFT, {}, reference.deep_inversion(*WITH_DREAMS, 0.3, 3.0), SEEN),
  'deep_inversion, padded': (0, {'lwf.weight': 0.3, 'deep_inversion.kd_real': 'padded'}, {}, PADDED, SEEN),
  'e2e': (0, SOFT, STORED, reference.e2e_first(LOGITS, TEACHER_LOGITS, *OF_STORED), THREE_TASKS < 3),
  'e2e, balanced': (1, SOFT, STORED, reference.e2e_balanced(*ELDER, *OF_STORED, slip=False), THREE_TASKS < 3),
  'e2e, as released': (
    1, SOFT | {'e2e.new_target': 'released'}, STORED, reference.e2e_balanced(*ELDER, *OF_STORED, slip=True),
    THREE_TASKS < 3,
  ),
  'bic': (
    0, {'lwf.temperature': 3.0}, BIASED,
    reference.bic_first(LOGITS, TEACHER_LOGITS, STORED['labels'], THREE_TASKS, 2, LAYERS, 3.0), THREE_TASKS < 3,
  ),
  'bic, bias': (
    1, {}, BIASED, reference.base_cross_entropy(CORRECTED, STORED['labels'], THREE_TASKS < 3), THREE_TASKS < 3,
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', RESTATED)
def test_a_loss_equals_its_restatement_and_teaches_the_classes_seen(name):
  (phase, fields, changes, expected, classes), method = RESTATED[name], name.partition(',')[0]
  phase = get(method, **fields).first[0] if phase == 'first' else later(method, phase, **fields)
  value, _, grads = evaluate(phase, **changes)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads, method != 'rdfcil'), classes)
  assert all(leaf.all() for leaf in grads['extra'].get('bias', {}).values())
  assert not np.any(grads['extra'].get('counts', 0))


EVERY, NO_IMAGE = np.ones(8, bool), np.zeros(8, bool)


@pytest.mark.parametrize(
  'method, phase, fields, changes, term, images, classes',
  [
    ('abd', 0, {}, {}, 'ce', IS_REAL, NEW),
    ('abd', 0, {'abd.local_classes': 'seen'}, {}, 'ce', IS_REAL, SEEN),
    ('abd', 0, {}, {}, 'kd', EVERY, NONE),
    ('abd', 0, {'abd.kd_images': 'real'}, {}, 'kd', IS_REAL, NONE),
    ('abd', 0, {'abd.kd_images': 'dreamed'}, {}, 'kd', ~IS_REAL, NONE),
    ('abd', 0, {}, {}, 'ft', NO_IMAGE, ALL),
    ('abd', 0, {'abd.ft_softmax': 'seen'}, {}, 'ft', NO_IMAGE, SEEN),
    ('rdfcil', 0, {}, RELATED, 'ce', IS_REAL, NEW),
    ('rdfcil', 0, {}, RELATED, 'kd', ~IS_REAL, OLD),
    ('rdfcil', 0, {}, RELATED, 'relation', IS_REAL, NONE),
  ],
)
def test_a_term_reaches_these_images_features_and_these_classes_rows(
  method, phase, fields, changes, term, images, classes
):
  _, _, grads = evaluate(later(method, phase, **fields), term, **changes)
  np.testing.assert_array_equal(moved(grads), images)
  np.testing.assert_array_equal(learnt(grads, method != 'rdfcil'), classes)
  for layer in grads['extra'].get('maps', {}).values():
    assert layer['kernel'].any() == (term == 'relation')


def test_abd_options_change_its_terms():
  terms = lambda **fields: evaluate(later('abd', **{f'abd.{name}': value for name, value in fields.items()}))[1]
  usual = terms()
  np.testing.assert_allclose(terms(local_weight='one')['ce'], usual['ce'] * 5 / 2, rtol=1e-6)
  np.testing.assert_allclose(terms(kd_reduction='sum')['kd'], usual['kd'] * 3, rtol=1e-6)
  images = [terms(kd_images=name)['kd'] for name in ('real', 'dreamed')]  # shares of one mean
  np.testing.assert_allclose(usual['kd'], sum(images), rtol=1e-6)
  unbalanced = terms(balance='none')
  np.testing.assert_allclose(unbalanced['ft'], reference.per_sample_cross_entropy(LOGITS, LABELS).mean(), rtol=1e-5)
  np.testing.assert_allclose(unbalanced['ce'], reference.local_cross_entropy(LOGITS, LABELS, IS_REAL, NEW), rtol=1e-5)
  standard = reference.base_cross_entropy(LOGITS[IS_REAL], LABELS[IS_REAL], SEEN)
  np.testing.assert_allclose(terms(local_classes='seen', local_weight='one')['ce'], standard, rtol=1e-5)


def test_rehearsal_is_base_and_its_coreset_kin_is_lwf_with_as_many_stored_images():
  assert later('rehearsal').loss is base.loss
  assert evaluate(later('lwf_coreset'), **STORED)[0] == evaluate(later('lwf'), **STORED)[0]
  for name in ('rehearsal', 'lwf_coreset'):
    assert later(name).data is memory.task_and_as_many and get(name).phases(0)[0].data is memory.task_only
    policy = [get(name, **{'memory.redraw': word}).memory for word in ('never', 'released')]
    assert policy == [memory.ExemplarPolicy(memory.random_order, redraw=redraw) for redraw in (False, True)]


def test_bic_corrects_each_task_by_its_own_layer():
  output = look(FEATURES, KERNEL, BIAS, layers(LAYERS[2], LAYERS[:2]))
  # Seen as the model of task 1, a student has one layer less: its newest stands where it always does.
  for newest, extra, known in [(2, output.extra, LAYERS), (1, layers(LAYERS[1], LAYERS[:1]), LAYERS[:2])]:
    seen = Classes(THREE_TASKS, newest).seen
    logits = bic.corrected(output._replace(extra=extra), THREE_TASKS, newest)
    expected = reference.bias_corrected(LOGITS, THREE_TASKS, known)
    np.testing.assert_allclose(logits[:, seen], expected[:, seen], rtol=1e-5)
  predict = get('bic').logits
  np.testing.assert_array_equal(
    predict(output, Classes(THREE_TASKS, np.int32(2))), bic.corrected(output, THREE_TASKS, 2)
  )
  assert get('bic', **{'bic.evaluate': 'raw'}).logits is None


def test_bic_a_new_task_moves_the_layer_to_the_past_and_brings_a_fresh_one():
  method, params = get('bic', tasks=3), {'head': np.ones(3)}
  extra = method.extra_init(KEY, 7)
  for task, layer in enumerate(LAYERS):
    same, extra = method.start_task(params, extra, KEY, Classes(THREE_TASKS, np.int32(task)))
    assert same is params
    chex.assert_trees_all_equal(extra['bias'], {'scale': 1.0, 'offset': 0.0})
    past = np.stack([extra['past']['scale'], extra['past']['offset']], axis=1)
    np.testing.assert_allclose(past, np.array(LAYERS[:task] + [(1, 0)] * (4 - task)))
    extra = extra | {'bias': dict(zip(('scale', 'offset'), np.float32(layer), strict=True))}


def stored_pool(new_classes, old_classes, per_class=500, size=2000):
  share = size // old_classes
  labels = np.concatenate([
    np.tile(np.arange(old_classes, old_classes + new_classes), per_class), np.repeat(np.arange(old_classes), share)
  ])  # fmt: skip
  is_memory = np.arange(len(labels)) >= new_classes * per_class
  return memory.Pool(labels, is_memory)


def test_bic_holds_out_the_first_images_of_every_class_or_says_why_it_cannot():
  rest, held_out = (phase.data for phase in get('bic').later)
  for task, count in enumerate((20, 10, 6, 5, 4, 3, 2, 2, 2), 1):
    pool = stored_pool(10, task * 10)
    rows = held_out(pool, None)
    assert (np.bincount(pool.labels[rows]) == count).all()
    firsts = [np.flatnonzero(pool.labels == c)[:count] for c in range((task + 1) * 10)]
    np.testing.assert_array_equal(np.sort(rows), np.sort(np.concatenate(firsts)))
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, rest(pool, None)])), np.arange(len(pool.labels)))
  for share in (0.0, 1.0):
    with pytest.raises(UserError, match=r'config\.memory or config\.bic\.held_out'):
      later('bic', 1, **{'bic.held_out': share}).data(stored_pool(2, 4, size=80), None)


def test_rdfcil_a_new_task_draws_new_columns_and_maps_and_counts_labels_from_zero():
  method = get('rdfcil', **{'model.widths': (4, 16)})
  kernel = np.ones((16, 7), np.float32)
  params = {'backbone': np.ones(2), 'head': {'kernel': kernel, 'bias': np.ones(7, np.float32)}}
  before = method.extra_init(KEY, 7) | {'counts': COUNTS}
  params, extra = method.start_task(params, before, jax.random.key(1), Classes(TASK_OF_CLASS, np.int32(1)))
  np.testing.assert_array_equal(params['backbone'], 1)
  head = jax.tree.map(np.asarray, params['head'])
  assert (head['kernel'][:, ~NEW] == 1).all() and not head['bias'].any()
  drawn = head['kernel'][:, NEW]
  assert len(set(drawn.ravel())) == drawn.size and 0.5e-3 < drawn.std() < 1.5e-3 and abs(drawn.mean()) < 1e-3
  np.testing.assert_array_equal(extra['counts'], 0)
  observe = later('rdfcil').observe
  counted = observe(observe(extra, np.array([3, 0, 3, 3])), np.array([0, 6]))
  np.testing.assert_array_equal(counted['counts'], [2, 0, 0, 3, 0, 0, 1])
  assert counted['maps'] is extra['maps']
  kernels = [maps['maps'][who]['kernel'] for maps in (before, extra) for who in ('student', 'teacher')]
  assert all(k.shape == (16, 32) and 0.24 < abs(k).max() <= 0.25 for k in kernels)  # within 1 / sqrt(fan in)
  assert len({float(k[0, 0]) for k in kernels}) == 4
  assert all(extra['maps'][who]['bias'].shape == (32,) for who in ('student', 'teacher'))


# Deep generative replay.

SMALL = {
  'dgr.widths': (3,), 'dgr.latent': 4, 'generator.start': (2, 2, 1), 'generator.widths': (4,),
  'data.mean': (0.0,), 'data.std': (1.0,),
}  # fmt: skip
MODEL = VAE((3,), 4, (4, 4, 1))


@pytest.fixture(scope='module')
def replay():
  """CASE's part for deep generative replay."""
  return dict(
    extra=jax.jit(lambda: get('dgr', **SMALL).extra_init(KEY, 7))(),
    images=np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype(np.float32),
  )


def restated_bound(replay, weights):
  outputs = MODEL.apply({'params': replay['extra']['vae']}, replay['images'], KEY)
  return reference.variational_bound(replay['images'], *map(np.float64, outputs), weights)


def test_dgr_equals_the_golden_number_and_the_restatement(replay):
  value, metrics, _ = evaluate(later('dgr', **SMALL), **golden_case(**replay))
  np.testing.assert_allclose(value - metrics['vae'], 1.645263, rtol=1e-4)
  fields = {'lwf.weight': 0.3, 'lwf.temperature': 3.0}
  value, metrics, grads = evaluate(later('dgr', **SMALL, **fields), **replay)
  case = LABELS, IS_REAL, OLD, SEEN, 0.3, 3.0
  bound = restated_bound(replay, reference.balancing_weights(OLD, SEEN)[LABELS])
  np.testing.assert_allclose(metrics['vae'], bound, rtol=1e-5)
  np.testing.assert_allclose(value, reference.dgr_classifier(LOGITS, TEACHER_LOGITS, *case) + bound, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), SEEN)
  (phase,) = get('dgr', **SMALL).first  # which has neither teacher nor balance
  value, _, _ = evaluate(phase, **replay, **FIRST)
  expected = reference.base_cross_entropy(LOGITS, FIRST['labels'], OLD) + restated_bound(replay, np.ones(8))
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_dgr_autoencoder_and_classifier_do_not_learn_from_each_other(replay):
  phase = later('dgr', **SMALL)
  for term in ('vae', 'ce', 'kd'):
    _, _, grads = evaluate(phase, term, **replay)
    if term == 'kd':  # distils replayed images only
      np.testing.assert_array_equal(moved(grads), ~IS_REAL)
      np.testing.assert_array_equal(learnt(grads), OLD)
    of_vae = [leaf.any() for leaf in jax.tree.leaves(grads.pop('extra'))]
    of_classifier = [leaf.any() for leaf in grads.values()]
    assert all(of_vae if term == 'vae' else of_classifier)
    assert not any(of_classifier if term == 'vae' else of_vae)


def test_dgr_dreams_images_by_the_teachers_autoencoder(replay):
  phase, teacher = later('dgr', **SMALL), FrozenModel({}, {}, replay['extra'], {})
  images = np.asarray(jax.jit(phase.dreamer, static_argnums=2)(teacher, KEY, 6))
  assert images.shape == (6, 4, 4, 1) and images.min() > 0 and images.max() < 1
  assert len({image.tobytes() for image in images}) == 6
  assert not np.array_equal(images, phase.dreamer(teacher, jax.random.key(1), 6))


@pytest.mark.parametrize('fields', [{'data.mean': (0.0, 0.0, 0.1)}, {'data.std': (1.0, 1.0, 0.9)}])
def test_dgr_needs_images_as_they_are(fields):
  get('dgr')
  with pytest.raises(UserError, match=r'needs images in \[0, 1\].*method=dgr'):
    get('dgr', **fields)


@pytest.mark.parametrize('name', methods.available())
def test_a_method_asks_for_what_it_has(name):
  method = get(name)
  assert method.phases(7) is method.phases(1)
  extra = jax.eval_shape(lambda: method.extra_init(KEY, 7)) if method.extra_init else {}
  teachers = 0
  for phase in (*method.phases(0), *method.phases(1)):
    assert {*phase.trainable} <= {'backbone', 'head', *extra}
    if phase in method.phases(1):
      teachers = teachers or 1
      assert phase.teachers <= teachers
      teachers += phase.freeze_after
  assert not any(phase.dreams or phase.teachers for phase in method.phases(0))
  assert bool(method.memory) == any(phase.data is not memory.task_only for phase in method.phases(1))
  assert bool(method.memory) == (name in READERS['memory'])
  assert method.inverts == any(phase.dreams and not phase.dreamer for phase in method.phases(1))


@pytest.mark.parametrize(
  'name, phase, asked',
  [
    ('abd', 0, {'bn_passes': 2}),
    ('bic', 1, {'trainable': ('bias',)}),
    ('dgr', 0, {'trainable': ('backbone', 'head', 'vae')}),
    ('e2e', 0, {'freeze_after': True, 'data': memory.task_and_memory}),
    ('e2e', 1, {'trainable': ('head',), 'data': memory.memory_only, 'teachers': 2}),
    ('rdfcil', 0, {'joint_bn': False, 'trainable': ('backbone', 'head', 'maps')}),
    ('rdfcil', 1, {'joint_bn': False, 'trainable': ('head',), 'bn_passes': 0, 'reset_optimizer': False}),
  ],
)
def test_phases_are_as_their_papers_have_them(name, phase, asked):
  phase = later(name, phase)
  assert {field: getattr(phase, field) for field in asked} == asked


def test_schedule_is_the_configs():
  fields = {
    'student.epochs': 7, 'student.lr': 0.3, 'student.milestones': (2, 5),
    'e2e.balanced_lr': 0.01, 'bic.bias_lr': 0.02, 'rdfcil.finetune_lr': 0.03, 'rdfcil.finetune_epochs': 4,
  }  # fmt: skip
  usual = (7, 0.3, (2, 5))
  second = {'e2e': [(7, 0.01, (2, 5))], 'bic': [(7, 0.02, (2, 5))], 'rdfcil': [(4, 0.03, ())]}
  for name in {*methods.available()} - {'ranpac'}:
    method = get(name, **fields)
    schedules = [(phase.epochs, phase.lr, phase.milestones) for phase in (*method.first, *method.later)]
    assert schedules == [usual, usual, *second.get(name, ())], name


def test_an_unknown_method_is_refused_with_the_nearest_name():
  with pytest.raises(UserError, match=r"'adb'.*'abd'"):
    methods.module('adb')


@pytest.mark.parametrize('module', ['steps/chunks', 'steps/student', 'run/session', 'run/schedule', 'train'])
def test_loop_and_steps_know_no_methods_name(module):
  tree = ast.parse((Path(methods.__file__).parent.parent / f'{module}.py').read_text())
  words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
  assert not words & {*methods.available()}


def test_dreams_need_a_teacher_that_labels_them():
  with pytest.raises(ValueError, match='teachers=1'):
    Phase(base.loss, 1, 0.1, dreams=True)


@pytest.mark.parametrize('method', methods.available())
@pytest.mark.parametrize('epochs', [1, 60, 250])
def test_a_recipe_scales_with_the_configs_epochs(method, epochs):
  config = default()
  config.student.epochs, config.student.milestones = epochs, (epochs // 2,)
  config = finish(config, f'method={method}', {})
  assert 1 <= config.student.epochs <= epochs and max(config.student.milestones) <= config.student.epochs
  check(config)


def test_the_recipe_of_rdfcil_is_its_authors_on_cifar100():
  config = settings('rdfcil')
  assert (config.student.epochs, config.student.milestones) == (160, (80, 120))
  assert (config.rdfcil.finetune_epochs, config.inversion.steps) == (40, 5000)
