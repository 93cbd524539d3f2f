"""abd_jax.methods: what each method learns from, and which parameters it must leave alone."""

import ast
import dataclasses
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import reference

from abd_jax import methods
from abd_jax.config import default, finish
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
  return Output(features, features @ kernel + bias[None], kernel, bias, extra)


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


def learnt(grads):
  """bool[c]: the classes whose row of the head gets a gradient; weight and bias agree."""
  rows = grads['kernel'].any(0)
  np.testing.assert_array_equal(rows, grads['bias'] != 0)
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


def test_golden_deep_inversion_terms():
  _, metrics, _ = evaluate(later('deep_inversion'), **golden_case())
  np.testing.assert_allclose(metrics['ce'], 0.716462, rtol=1e-4)
  np.testing.assert_allclose(metrics['kd_real'] + metrics['kd_dreamed'], 2.365361, rtol=1e-4)


def test_golden_rdfcil():
  # "All 8 rows" of the specification: cross-entropy and angles are of the 4 real ones, L1 of the 4 dreamed ones.
  maps = ({'kernel': np.float32(kernel), 'bias': np.float32(bias)} for kernel, bias in reference.golden_maps())
  extra = {'maps': dict(zip(('student', 'teacher'), maps, strict=True)), 'counts': np.zeros(8, np.float32)}
  value, metrics, _ = evaluate(later('rdfcil'), **golden_case(extra=extra))  # the head's bias is not read
  np.testing.assert_allclose(value, 0.0840338, rtol=1e-4)
  chex.assert_trees_all_close(metrics, {'ce': 0.0705208, 'kd': 0.0532312, 'relation': 0.0272296}, rtol=1e-4)
  factors = rdfcil.factors(Classes(golden_case()['task_of_class'], np.int32(1)))
  np.testing.assert_allclose(factors, [0.8164966, 0.1837117, 0.6123724], rtol=1e-6)


# Always Be Dreaming.


def test_abd_equals_the_restatement():
  value, metrics, _ = evaluate(later('abd'))
  terms = reference.abd_terms(
    FEATURES, LOGITS, LOGITS, TEACHER_FEATURES, TEACHER_KERNEL, LABELS, IS_REAL, OLD, OLD | NEW
  )
  np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-5)
  ours = {'local': metrics['ce'], 'ft': metrics['ft'], 'kd': 0.1 * metrics['kd']}
  chex.assert_trees_all_close(ours, terms, rtol=1e-5)


def test_abd_first_task_is_cross_entropy_over_the_head_or_the_seen():
  is_real, labels = np.ones(8, bool), np.arange(8, dtype=np.int32) % 3
  for where, rows in [('all', OLD | NEW | UNSEEN), ('seen', OLD)]:
    (phase,) = get('abd', **{'abd.first_softmax': where}).phases(0)
    value, _, grads = evaluate(phase, is_real=is_real, labels=labels, task=0)
    np.testing.assert_allclose(value, reference.base_cross_entropy(LOGITS, labels, rows), rtol=1e-5)
    np.testing.assert_array_equal(learnt(grads), rows)


def test_abd_teaches_old_rows_by_finetuning_alone():
  _, _, without = evaluate(later('abd', **{'abd.ft_weight': 0.0}))
  np.testing.assert_array_equal(learnt(without), NEW)
  _, _, grads = evaluate(later('abd'))
  np.testing.assert_array_equal(learnt(grads), OLD | NEW | UNSEEN)
  assert (grads['bias'] != without['bias'])[NEW].all()


def test_abd_finetuning_over_the_seen_leaves_unseen_rows_alone():
  _, _, grads = evaluate(later('abd', **{'abd.ft_softmax': 'seen'}))
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_abd_finetuning_never_reaches_the_backbone():
  features = [evaluate(later('abd', **{'abd.ft_weight': weight}))[2]['features'] for weight in (0.0, 1e3)]
  assert features[0].any()
  np.testing.assert_array_equal(*features)


def test_abd_distillation_never_reaches_the_head():
  heads = [evaluate(later('abd', **{'abd.kd_weight': weight}))[2] for weight in (0.0, 1e3)]
  np.testing.assert_array_equal(heads[0]['kernel'], heads[1]['kernel'])
  np.testing.assert_array_equal(heads[0]['bias'], heads[1]['bias'])


def test_abd_dreams_reach_the_backbone_by_distillation_alone():
  rows = lambda weight: moved(evaluate(later('abd', **{'abd.kd_weight': weight}))[2])
  np.testing.assert_array_equal(rows(0.0), IS_REAL)
  assert rows(0.1).all()


def test_abd_local_weight_one_drops_the_balance():
  balanced, one = (evaluate(later('abd', **{'abd.local_weight': w}))[1]['ce'] for w in ('balanced', 'one'))
  np.testing.assert_allclose(balanced, one * 2 / 5, rtol=1e-6)


def test_abd_kd_reduction_sum_is_old_classes_times_the_mean():
  mean, total = (evaluate(later('abd', **{'abd.kd_reduction': r}))[1]['kd'] for r in ('mean', 'sum'))
  np.testing.assert_allclose(total, 3 * mean, rtol=1e-6)


def test_abd_ablations_of_distillation_are_shares_of_one_mean():
  images = {name: evaluate(later('abd', **{'abd.kd_images': name}), 'kd') for name in ('both', 'real', 'dreamed')}
  np.testing.assert_allclose(images['both'][0], images['real'][0] + images['dreamed'][0], rtol=1e-6)
  np.testing.assert_array_equal(moved(images['real'][2]), IS_REAL)
  np.testing.assert_array_equal(moved(images['dreamed'][2]), ~IS_REAL)


def test_abd_ablation_without_balance_weighs_all_rows_alike():
  _, metrics, _ = evaluate(later('abd', **{'abd.balance': 'none'}))
  np.testing.assert_allclose(metrics['ft'], reference.per_sample_cross_entropy(LOGITS, LABELS).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['ce'], reference.local_cross_entropy(LOGITS, LABELS, IS_REAL, NEW), rtol=1e-5)


def test_abd_ablation_of_the_local_loss_teaches_old_rows_too():
  value, _, grads = evaluate(later('abd', **{'abd.local_classes': 'seen', 'abd.local_weight': 'one'}), 'ce')
  expected = reference.base_cross_entropy(LOGITS[IS_REAL], LABELS[IS_REAL], OLD | NEW)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


# Base, LwF and LwF.MC, which see real images only.


def test_base_learns_seen_rows_and_no_others():
  value, metrics, grads = evaluate(later('base'), **REAL)
  np.testing.assert_allclose(value, reference.base_cross_entropy(LOGITS, REAL['labels'], OLD | NEW), rtol=1e-5)
  assert set(metrics) == {'ce'} and moved(grads).all()
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)
  assert (grads['bias'][OLD] > 0).all()  # pushed down: this is how Base forgets


@pytest.mark.parametrize('weight, temperature', [(1.0, 2.0), (0.1, 3.0)])
def test_lwf_equals_the_restatement(weight, temperature):
  phase = later('lwf', **{'lwf.weight': weight, 'lwf.temperature': temperature})
  value, metrics, grads = evaluate(phase, **REAL)
  expected = reference.lwf(LOGITS, TEACHER_LOGITS, REAL['labels'], OLD, OLD | NEW, weight, temperature)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['kd'], reference.softmax_kd(LOGITS, TEACHER_LOGITS, OLD, temperature), rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_lwf_distillation_reaches_old_rows_and_the_backbone_only():
  grads = [evaluate(later('lwf', **{'lwf.weight': weight}), **REAL)[2] for weight in (0.0, 1.0)]
  chex.assert_trees_all_equal(grads[0], evaluate(later('base'), **REAL)[2])
  distilled = jax.tree.map(np.subtract, *grads)
  np.testing.assert_array_equal(learnt(distilled), OLD)
  assert moved(distilled).all()


def test_lwf_mc_equals_the_restatement_and_leaves_unseen_rows_alone():
  value, _, grads = evaluate(later('lwf_mc'), **REAL)
  expected = reference.lwf_mc(LOGITS, TEACHER_LOGITS, REAL['labels'], OLD, OLD | NEW)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)
  assert moved(grads).all()


def test_lwf_mc_first_task_is_one_classifier_per_class_and_needs_no_teacher():
  (phase,) = get('lwf_mc').phases(0)
  labels = np.arange(8, dtype=np.int32) % 3
  value, _, grads = evaluate(phase, is_real=np.ones(8, bool), labels=labels, task=0, teachers=())
  np.testing.assert_allclose(value, reference.lwf_mc(LOGITS, LOGITS, labels, np.zeros(7, bool), OLD), rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD)


# DeepInversion and LwF synthetic.


@pytest.mark.parametrize('weight, temperature', [(1.0, 2.0), (0.3, 3.0)])
def test_deep_inversion_equals_the_restatement(weight, temperature):
  value, _, grads = evaluate(later('deep_inversion', **{'lwf.weight': weight, 'lwf.temperature': temperature}))
  expected = reference.deep_inversion(LOGITS, TEACHER_LOGITS, LABELS, IS_REAL, OLD, OLD | NEW, weight, temperature)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_deep_inversion_tells_dreams_from_new_classes_and_real_images_nothing_of_the_kind():
  phase = later('deep_inversion')
  _, _, grads = evaluate(phase, 'kd_dreamed')
  np.testing.assert_array_equal(moved(grads), ~IS_REAL)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)
  assert (grads['bias'][NEW] > 0).all()
  _, _, grads = evaluate(phase, 'kd_real')
  np.testing.assert_array_equal(moved(grads), IS_REAL)
  np.testing.assert_array_equal(learnt(grads), OLD)


def test_deep_inversion_with_padded_targets_of_real_images_is_eq_8_and_9_as_printed():
  phase = later('deep_inversion', **{'deep_inversion.kd_real': 'padded', 'lwf.weight': 0.3})
  value, _, _ = evaluate(phase)
  padded = reference.zero_padded_kd(LOGITS[IS_REAL], TEACHER_LOGITS[IS_REAL], OLD, OLD | NEW)
  released = reference.deep_inversion(LOGITS, TEACHER_LOGITS, LABELS, IS_REAL, OLD, OLD | NEW, 0.3)
  over_old = reference.softmax_kd(LOGITS[IS_REAL], TEACHER_LOGITS[IS_REAL], OLD)
  np.testing.assert_allclose(value, released + 0.3 * (padded - over_old), rtol=1e-5)
  _, _, grads = evaluate(phase, 'kd_real')
  np.testing.assert_array_equal(moved(grads), IS_REAL)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_lwf_synthetic_equals_the_restatement():
  fields = {'lwf_synthetic.weight': 0.3, 'lwf.weight': 7.0, 'lwf.temperature': 3.0}
  value, _, grads = evaluate(later('lwf_synthetic', **fields))
  expected = reference.lwf_synthetic(LOGITS, TEACHER_LOGITS, LABELS, IS_REAL, OLD, OLD | NEW, 0.3, 3.0)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_lwf_synthetic_distils_old_classes_on_real_and_dreamed_images():
  _, _, grads = evaluate(later('lwf_synthetic'), 'kd')
  np.testing.assert_array_equal(learnt(grads), OLD)
  assert moved(grads).all()


@pytest.mark.parametrize('name', ['deep_inversion', 'lwf_synthetic'])
def test_dreams_take_no_part_in_cross_entropy(name):
  _, metrics, grads = evaluate(later(name), 'ce')
  np.testing.assert_array_equal(moved(grads), IS_REAL)
  relabelled = np.where(IS_REAL, LABELS, 2).astype(np.int32)
  chex.assert_trees_all_equal(metrics, evaluate(later(name), 'ce', labels=relabelled)[1])


# Methods that store images.


def test_rehearsal_is_base_and_its_coreset_kin_is_lwf_with_as_many_stored_images():
  assert later('rehearsal').loss is base.loss
  assert evaluate(later('lwf_coreset'), **STORED)[0] == evaluate(later('lwf'), **STORED)[0]
  for name in ('rehearsal', 'lwf_coreset'):
    assert later(name).data is memory.task_and_as_many and get(name).phases(0)[0].data is memory.task_only
    policy = [get(name, **{'memory.redraw': word}).memory for word in ('never', 'released')]
    assert policy == [memory.ExemplarPolicy(memory.random_order, redraw=redraw) for redraw in (False, True)]


@pytest.mark.parametrize('weight, temperature', [(1.0, 2.0), (0.3, 3.0)])
def test_e2e_equals_the_restatement(weight, temperature):
  fields = {'lwf.weight': weight, 'lwf.temperature': temperature}
  value, _, grads = evaluate(later('e2e', 0, **fields), **STORED)
  case = STORED['labels'], THREE_TASKS, 2, weight, temperature
  np.testing.assert_allclose(value, reference.e2e_first(LOGITS, TEACHER_LOGITS, *case), rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), THREE_TASKS < 3)
  for word in ('stage_one', 'released'):
    value, _, grads = evaluate(later('e2e', 1, **fields, **{'e2e.new_target': word}), **STORED)
    expected = reference.e2e_balanced(LOGITS, TEACHER_LOGITS, ELDER_LOGITS, *case, slip=word == 'released')
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(learnt(grads), THREE_TASKS < 3)


def test_e2e_holds_old_rows_by_the_previous_model_and_new_rows_by_stage_ones():
  phase = later('e2e', 1)
  np.testing.assert_array_equal(learnt(evaluate(phase, 'kd', **STORED)[2]), THREE_TASKS < 2)
  np.testing.assert_array_equal(learnt(evaluate(phase, 'kd_new', **STORED)[2]), THREE_TASKS == 2)
  others = ((TEACHER_FEATURES, TEACHER_KERNEL), (FEATURES, KERNEL)), ((FEATURES, KERNEL), CASE['teachers'][1])
  metrics, other_previous, other_stage_one = (
    evaluate(phase, **STORED, teachers=teachers)[1] for teachers in (CASE['teachers'], *others)
  )
  assert metrics['kd'] != other_previous['kd'] and metrics['kd_new'] == other_previous['kd_new']
  assert metrics['kd'] == other_stage_one['kd'] and metrics['kd_new'] != other_stage_one['kd_new']


# BiC.

LAYERS = [(0.5, 0.2), (2.0, -0.4), (1.5, 0.3)]  # of tasks 0, 1 and 2
BIASED = STORED | dict(extra=layers(LAYERS[2], LAYERS[:2]), teacher_extra=layers(LAYERS[1], LAYERS[:1]))


def test_bic_equals_the_restatement():
  phases = get('bic', **{'lwf.temperature': 3.0}).phases(1)
  value, _, grads = evaluate(phases[0], **BIASED)
  expected = reference.bic_first(LOGITS, TEACHER_LOGITS, STORED['labels'], THREE_TASKS, 2, LAYERS, 3.0)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), THREE_TASKS < 3)
  value, _, grads = evaluate(phases[1], **BIASED)
  corrected = reference.bias_corrected(LOGITS, THREE_TASKS, LAYERS)
  np.testing.assert_allclose(
    value, reference.base_cross_entropy(corrected, STORED['labels'], THREE_TASKS < 3), rtol=1e-5
  )
  assert all(grads['extra']['bias'].values())


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


@pytest.mark.parametrize('classes, counts', [
  (20, (10, 5, 3, 2)), (10, (20, 10, 6, 5, 4, 3, 2, 2, 2)), (5, (40, 20, 13, 10)),
])  # fmt: skip
def test_bic_holds_out_the_first_images_of_every_class(classes, counts):
  rest, held_out = (phase.data for phase in get('bic').later)
  for task, count in enumerate(counts, 1):
    pool = stored_pool(classes, task * classes)
    rows = held_out(pool, None)
    assert (np.bincount(pool.labels[rows]) == count).all()
    firsts = [np.flatnonzero(pool.labels == c)[:count] for c in range((task + 1) * classes)]
    np.testing.assert_array_equal(np.sort(rows), np.sort(np.concatenate(firsts)))
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, rest(pool, None)])), np.arange(len(pool.labels)))


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_bic_says_what_cannot_be_held_out(share):
  held_out = later('bic', 1, **{'bic.held_out': share}).data
  with pytest.raises(UserError, match=r'config\.memory\.size or config\.bic\.held_out'):
    held_out(stored_pool(2, 4, size=80), None)


# R-DFCIL.


def random_maps(width=5):
  one = lambda: {'kernel': RNG.normal(size=(width, 2 * width)), 'bias': RNG.normal(size=2 * width)}
  return jax.tree.map(np.float32, {'student': one(), 'teacher': one()})


COUNTS = np.float32([5, 2, 7, 3, 4, 0, 0])
RELATED = dict(extra={'maps': random_maps(), 'counts': COUNTS})


def test_rdfcil_equals_the_restatement():
  maps = [(layer['kernel'], layer['bias']) for layer in map(RELATED['extra']['maps'].get, ('student', 'teacher'))]
  terms = reference.rdfcil_terms(
    FEATURES, TEACHER_FEATURES, KERNEL, TEACHER_KERNEL, maps, LABELS, IS_REAL, OLD, OLD | NEW
  )
  value, metrics, _ = evaluate(later('rdfcil'), **RELATED)
  np.testing.assert_allclose([metrics[name] for name in ('ce', 'kd', 'relation')], terms, rtol=1e-5)
  np.testing.assert_allclose(value, np.dot(reference.rdfcil_factors(3, 2), terms), rtol=1e-5)
  value, _, _ = evaluate(later('rdfcil', 1), **RELATED)
  logits = FEATURES @ KERNEL, TEACHER_FEATURES @ TEACHER_KERNEL
  expected = reference.rdfcil_finetuning(*logits, LABELS, COUNTS, IS_REAL, OLD, OLD | NEW)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rdfcil_learns_new_rows_from_real_images_and_holds_old_ones_on_dreams():
  learned = {term: evaluate(later('rdfcil'), term, **RELATED)[2] for term in ('ce', 'kd', 'relation')}
  rows = {term: grads['kernel'].any(0) for term, grads in learned.items()}
  chex.assert_trees_all_equal(rows, {'ce': NEW, 'kd': OLD, 'relation': np.zeros(7, bool)})
  images = {term: moved(grads) for term, grads in learned.items()}
  chex.assert_trees_all_equal(images, {'ce': IS_REAL, 'kd': ~IS_REAL, 'relation': IS_REAL})
  for term, grads in learned.items():
    maps = jax.tree.map(np.any, grads['extra']['maps'])
    assert all(maps[who]['kernel'] == (term == 'relation') for who in ('student', 'teacher'))


def test_rdfcil_head_has_no_bias():
  method = get('rdfcil')
  first = dict(task=0, labels=np.arange(8, dtype=np.int32) % 3, is_real=np.ones(8, bool))
  for phase, case in [(method.first[0], first), (method.later[0], {}), (method.later[1], {})]:
    value, _, grads = evaluate(phase, **RELATED, **case)
    assert not grads['bias'].any() and grads['kernel'].any()
    assert value == evaluate(phase, **RELATED, **case, bias=BIAS + RNG.normal(size=7).astype(np.float32))[0]


def test_rdfcil_finetuning_reads_counts_and_does_not_learn_them():
  phase = later('rdfcil', 1)
  value, _, grads = evaluate(phase, **RELATED)
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads['extra']))
  np.testing.assert_array_equal(grads['kernel'].any(0), OLD | NEW)
  twice, _, _ = evaluate(phase, extra=RELATED['extra'] | {'counts': 2 * COUNTS})
  np.testing.assert_allclose(twice, value, rtol=1e-6)
  flat, _, _ = evaluate(phase, extra=RELATED['extra'] | {'counts': np.ones_like(COUNTS)})
  assert abs(flat - value) > 1e-3


def test_rdfcil_a_new_task_draws_new_columns_and_maps_and_counts_from_zero():
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
  kernels = [maps['maps'][who]['kernel'] for maps in (before, extra) for who in ('student', 'teacher')]
  assert all(k.shape == (16, 32) and 0.24 < abs(k).max() <= 0.25 for k in kernels)  # within 1 / sqrt(fan in)
  assert len({float(k[0, 0]) for k in kernels}) == 4
  assert all(extra['maps'][who]['bias'].shape == (32,) for who in ('student', 'teacher'))


def test_rdfcil_counts_every_label_of_a_batch():
  extra = get('rdfcil', **{'model.widths': (5,)}).extra_init(KEY, 7)
  observe = later('rdfcil').observe
  counted = observe(observe(extra, np.array([3, 0, 3, 3])), np.array([0, 6]))
  np.testing.assert_array_equal(counted['counts'], [2, 0, 0, 3, 0, 0, 1])
  assert counted['maps'] is extra['maps']


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


def test_dgr_golden_classifier(replay):
  value, metrics, _ = evaluate(later('dgr', **SMALL), **golden_case(**replay))
  np.testing.assert_allclose(value - metrics['vae'], 1.645263, rtol=1e-4)


def test_dgr_equals_the_restatement_with_both_losses_balanced(replay):
  fields = {'lwf.weight': 0.3, 'lwf.temperature': 3.0}
  value, metrics, grads = evaluate(later('dgr', **SMALL, **fields), **replay)
  case = LABELS, IS_REAL, OLD, OLD | NEW, 0.3, 3.0
  bound = restated_bound(replay, reference.balancing_weights(OLD, OLD | NEW)[LABELS])
  np.testing.assert_allclose(metrics['vae'], bound, rtol=1e-5)
  np.testing.assert_allclose(value, reference.dgr_classifier(LOGITS, TEACHER_LOGITS, *case) + bound, rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_dgr_first_task_has_neither_teacher_nor_balance(replay):
  (phase,) = get('dgr', **SMALL).phases(0)
  labels = np.arange(8, dtype=np.int32) % 3
  value, _, _ = evaluate(phase, **replay, task=0, labels=labels, is_real=np.ones(8, bool), teachers=())
  expected = reference.base_cross_entropy(LOGITS, labels, OLD) + restated_bound(replay, np.ones(8))
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_dgr_autoencoder_and_classifier_do_not_learn_from_each_other(replay):
  phase = later('dgr', **SMALL)
  for term in ('vae', 'ce', 'kd'):
    _, _, grads = evaluate(phase, term, **replay)
    of_vae = [leaf.any() for leaf in jax.tree.leaves(grads.pop('extra'))]
    of_classifier = [leaf.any() for leaf in grads.values()]
    assert all(of_vae if term == 'vae' else of_classifier)
    assert not any(of_classifier if term == 'vae' else of_vae)


def test_dgr_distils_replayed_images_only(replay):
  _, _, grads = evaluate(later('dgr', **SMALL), 'kd', **replay)
  np.testing.assert_array_equal(moved(grads), ~IS_REAL)
  np.testing.assert_array_equal(learnt(grads), OLD)


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


# Method values.

# What phases of later tasks ask for beyond what is usual.
REPLAY = {'dreams': True, 'teachers': 1}
LATER = {
  'abd': [REPLAY | {'bn_passes': 2}],
  'base': [{}],
  'bic': [{'data': 'rest', 'teachers': 1}, {'data': 'held_out', 'trainable': ('bias',)}],
  'deep_inversion': [REPLAY],
  'dgr': [REPLAY | {'dreamer': 'dream', 'trainable': ('backbone', 'head', 'vae')}],
  'e2e': [
    {'data': 'task_and_memory', 'teachers': 1, 'freeze_after': True},
    {'data': 'memory_only', 'teachers': 2, 'trainable': ('head',)},
  ],
  'lwf': [{'teachers': 1}],
  'lwf_coreset': [{'data': 'task_and_as_many', 'teachers': 1}],
  'lwf_mc': [{'teachers': 1}],
  'lwf_synthetic': [REPLAY],
  'oracle': [{}],
  'rdfcil': [
    REPLAY | {'joint_bn': False, 'trainable': ('backbone', 'head', 'maps'), 'observe': 'count'},
    REPLAY | {'joint_bn': False, 'trainable': ('head',), 'bn_passes': 0, 'observe': 'count', 'reset_optimizer': False},
  ],
  'rehearsal': [{'data': 'task_and_as_many'}],
}
ORDERS = {
  'bic': 'herding_order', 'e2e': 'nearest_order', 'lwf_coreset': 'random_order', 'rehearsal': 'random_order'
}  # fmt: skip


def asked(phase):
  """{field: value, or name of a function} where a phase differs from Phase's defaults; its loss and schedule apart."""
  values = {field.name: getattr(phase, field.name) for field in dataclasses.fields(Phase) if field.name != 'loss'}
  usual = {field.name: field.default for field in dataclasses.fields(Phase)}
  odd = {k: v for k, v in values.items() if k not in ('epochs', 'lr', 'milestones') and v != usual[k]}
  return {name: getattr(value, '__name__', value) for name, value in odd.items()}


def test_phases_ask_for_what_their_losses_read():
  assert set(LATER) == set(methods.available())
  for name, phases in LATER.items():
    method = get(name)
    assert [asked(phase) for phase in method.phases(1)] == phases, name
    assert method.phases(7) is method.phases(1)
    (first,) = method.phases(0)
    assert asked(first) == ({'trainable': ('backbone', 'head', 'vae')} if name == 'dgr' else {})
    assert method.inverts == (name in ('abd', 'deep_inversion', 'lwf_synthetic', 'rdfcil'))
    assert method.offline == (name == 'oracle')
    assert (method.memory.order.__name__ if method.memory else None) == ORDERS.get(name)


def test_trainable_names_groups_there_are():
  own = {name for name in methods.available() if get(name).extra_init}
  assert own == {'bic', 'dgr', 'rdfcil'}
  for name in methods.available():
    method = get(name)
    extra = jax.eval_shape(lambda m=method: m.extra_init(KEY, 7)) if method.extra_init else {}
    for phase in (*method.first, *method.later):
      assert {*phase.trainable} <= {'backbone', 'head', *extra}, name
  assert set(jax.eval_shape(lambda: get('bic').extra_init(KEY, 7))) == {'bias', 'past'}


def test_schedule_is_the_configs():
  fields = {
    'student.epochs': 7, 'student.lr': 0.3, 'student.milestones': (2, 5),
    'e2e.balanced_lr': 0.01, 'bic.bias_lr': 0.02, 'rdfcil.finetune_lr': 0.03, 'rdfcil.finetune_epochs': 4,
  }  # fmt: skip
  usual = (7, 0.3, (2, 5))
  second = {'e2e': [(7, 0.01, (2, 5))], 'bic': [(7, 0.02, (2, 5))], 'rdfcil': [(4, 0.03, ())]}
  for name in methods.available():
    method = get(name, **fields)
    schedules = [(phase.epochs, phase.lr, phase.milestones) for phase in (*method.first, *method.later)]
    assert schedules == [usual, usual, *second.get(name, ())], name


@pytest.mark.parametrize('word, words', [('adb', "Did you mean 'abd'?"), ('bsae', "Did you mean 'base'?")])
def test_unknown_method_names_the_nearest(word, words):
  with pytest.raises(UserError) as error:
    get(word)
  assert f"config.method='{word}'" in str(error.value) and words in str(error.value)
  assert '\n' not in str(error.value)


# Who knows a method's name.

PACKAGE = Path(methods.__file__).parent.parent
TREES = {
  path.relative_to(PACKAGE).with_suffix('').as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob('*.py')
}


@pytest.mark.parametrize('module', ['steps/chunks', 'steps/student', 'run/session', 'run/schedule', 'train'])
def test_loop_steps_and_training_know_no_methods_name(module):
  nodes = list(ast.walk(TREES[module]))
  words = {node.value for node in nodes if isinstance(node, ast.Constant)}
  assert not words & {*methods.available()}
  compared = [part for node in nodes if isinstance(node, ast.Compare) for part in (node.left, *node.comparators)]
  compared += [node.subject for node in nodes if isinstance(node, ast.Match)]
  assert not [part.lineno for part in compared if 'method' in (getattr(part, 'attr', ''), getattr(part, 'id', ''))]


def test_dreams_need_a_teacher_that_labels_them():
  with pytest.raises(ValueError, match='dreams=True needs teachers=1'):
    Phase(base.loss, 1, 0.1, dreams=True)
