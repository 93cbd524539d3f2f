"""abd_jax.methods: what each method learns from, and which parameters it must leave alone."""

import chex
import jax
import numpy as np
import pytest
import reference

from abd_jax import methods
from abd_jax.config import default
from abd_jax.errors import UserError
from abd_jax.methods import LossInputs, Output, abd, base, lwf
from abd_jax.state import Classes

TASK_OF_CLASS = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)
OLD, NEW, UNSEEN = TASK_OF_CLASS == 0, TASK_OF_CLASS == 1, TASK_OF_CLASS == 2
IS_REAL = np.tile([True, False], 4)
LABELS = np.where(IS_REAL, 3 + np.arange(8) // 2 % 2, np.arange(8) % 3).astype(np.int32)
RNG = np.random.default_rng(0)
FEATURES, TEACHER_FEATURES = RNG.normal(size=(2, 8, 5)).astype(np.float32)
KERNEL, TEACHER_KERNEL = RNG.normal(size=(2, 5, 7)).astype(np.float32)
BIAS = RNG.normal(size=7).astype(np.float32)


def settings(**fields):
  config = default()
  config.update_from_flattened_dict(fields)
  return config


def look(features, kernel, bias=BIAS):
  return Output(features, features @ kernel + bias, kernel, bias, {})


def evaluate(phase, is_real=IS_REAL, labels=LABELS, task=1, **student):
  """(value, metrics, gradients {'features', 'kernel', 'bias'}) of a phase's loss."""

  def objective(student):
    teachers = (look(TEACHER_FEATURES, TEACHER_KERNEL),)[: phase.teachers]
    classes = Classes(TASK_OF_CLASS, np.int32(task))
    return phase.loss(LossInputs(None, look(**student), teachers, labels, is_real, classes))

  student = {'features': FEATURES, 'kernel': KERNEL, 'bias': BIAS} | student
  (value, metrics), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(student)
  return value, metrics, jax.tree.map(np.asarray, grads)


def later(make, **fields):
  """The phase of a later task."""
  (phase,) = make(settings(**fields)).phases(1)
  return phase


def learnt(grads):
  """bool[c]: the classes whose row of the head gets a gradient; weight and bias agree."""
  rows = grads['kernel'].any(0)
  np.testing.assert_array_equal(rows, grads['bias'] != 0)
  return rows


# Always Be Dreaming.


def test_abd_equals_the_restatement():
  value, metrics, _ = evaluate(later(abd.make))
  logits = FEATURES @ KERNEL + BIAS
  terms = reference.abd_terms(
    FEATURES, logits, logits, TEACHER_FEATURES, TEACHER_KERNEL, LABELS, IS_REAL, OLD, OLD | NEW
  )
  np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-5)
  ours = {'local': metrics['ce'], 'ft': metrics['ft'], 'kd': 0.1 * metrics['kd']}
  chex.assert_trees_all_close(ours, terms, rtol=1e-5)


def test_abd_first_task_is_cross_entropy_over_the_head_or_the_seen():
  is_real, labels = np.ones(8, bool), np.arange(8, dtype=np.int32) % 3
  logits = FEATURES @ KERNEL + BIAS
  for where, rows in [('all', OLD | NEW | UNSEEN), ('seen', OLD)]:
    (phase,) = abd.make(settings(**{'abd.first_softmax': where})).phases(0)
    value, _, grads = evaluate(phase, is_real, labels, task=0)
    np.testing.assert_allclose(value, reference.base_cross_entropy(logits, labels, rows), rtol=1e-5)
    np.testing.assert_array_equal(learnt(grads), rows)


def test_abd_teaches_old_rows_by_finetuning_alone():
  _, _, without = evaluate(later(abd.make, **{'abd.ft_weight': 0.0}))
  np.testing.assert_array_equal(learnt(without), NEW)
  _, _, grads = evaluate(later(abd.make))
  np.testing.assert_array_equal(learnt(grads), OLD | NEW | UNSEEN)
  assert (grads['bias'] != without['bias'])[NEW].all()


def test_abd_finetuning_over_the_seen_leaves_unseen_rows_alone():
  _, _, grads = evaluate(later(abd.make, **{'abd.ft_softmax': 'seen'}))
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_abd_finetuning_never_reaches_the_backbone():
  features = [evaluate(later(abd.make, **{'abd.ft_weight': weight}))[2]['features'] for weight in (0.0, 1e3)]
  assert features[0].any()
  np.testing.assert_array_equal(*features)


def test_abd_distillation_never_reaches_the_head():
  heads = [evaluate(later(abd.make, **{'abd.kd_weight': weight}))[2] for weight in (0.0, 1e3)]
  np.testing.assert_array_equal(heads[0]['kernel'], heads[1]['kernel'])
  np.testing.assert_array_equal(heads[0]['bias'], heads[1]['bias'])


def test_abd_dreams_reach_the_backbone_by_distillation_alone():
  moved = lambda weight: evaluate(later(abd.make, **{'abd.kd_weight': weight}))[2]['features'].any(1)
  np.testing.assert_array_equal(moved(0.0), IS_REAL)
  assert moved(0.1).all()


def test_abd_local_weight_one_drops_the_balance():
  balanced, one = (evaluate(later(abd.make, **{'abd.local_weight': w}))[1]['ce'] for w in ('balanced', 'one'))
  np.testing.assert_allclose(balanced, one * 2 / 5, rtol=1e-6)


def test_abd_kd_reduction_sum_is_old_classes_times_the_mean():
  mean, total = (evaluate(later(abd.make, **{'abd.kd_reduction': r}))[1]['kd'] for r in ('mean', 'sum'))
  np.testing.assert_allclose(total, 3 * mean, rtol=1e-6)


# Base and LwF, which see real images only.

REAL = dict(is_real=np.ones(8, bool), labels=3 + np.arange(8, dtype=np.int32) % 2)


def test_base_learns_seen_rows_and_no_others():
  value, metrics, grads = evaluate(later(base.make), **REAL)
  logits = FEATURES @ KERNEL + BIAS
  np.testing.assert_allclose(value, reference.base_cross_entropy(logits, REAL['labels'], OLD | NEW), rtol=1e-5)
  assert set(metrics) == {'ce'} and grads['features'].any(1).all()
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)
  assert (grads['bias'][OLD] > 0).all()  # pushed down: this is how Base forgets


@pytest.mark.parametrize('weight, temperature', [(1.0, 2.0), (0.1, 3.0)])
def test_lwf_equals_the_restatement(weight, temperature):
  phase = later(lwf.make, **{'lwf.weight': weight, 'lwf.temperature': temperature})
  value, metrics, grads = evaluate(phase, **REAL)
  logits, teacher = FEATURES @ KERNEL + BIAS, TEACHER_FEATURES @ TEACHER_KERNEL + BIAS
  expected = reference.lwf(logits, teacher, REAL['labels'], OLD, OLD | NEW, weight, temperature)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['kd'], reference.softmax_kd(logits, teacher, OLD, temperature), rtol=1e-5)
  np.testing.assert_array_equal(learnt(grads), OLD | NEW)


def test_lwf_distillation_reaches_old_rows_and_the_backbone_only():
  grads = [evaluate(later(lwf.make, **{'lwf.weight': weight}), **REAL)[2] for weight in (0.0, 1.0)]
  chex.assert_trees_all_equal(grads[0], evaluate(later(base.make), **REAL)[2])
  distilled = jax.tree.map(np.subtract, *grads)
  np.testing.assert_array_equal(learnt(distilled), OLD)
  assert distilled['features'].any(1).all()


# Method values.


def test_phases_ask_for_what_the_losses_read():
  needs = {}
  for name in ('abd', 'base', 'lwf'):
    method = methods.get(settings(method=name))
    (first,), (second,) = method.phases(0), method.phases(1)
    assert method.phases(7) is method.phases(1) and method.extra_init is None
    assert (first.teachers, first.dreams, first.bn_passes) == (0, False, 1)
    needs[name] = (second.teachers, second.dreams, second.bn_passes, method.dreams)
    for phase in (first, second):
      assert phase.trainable == ('backbone', 'head', 'extra') and phase.joint_bn and phase.reset_optimizer
  assert needs == {'abd': (1, True, 2, True), 'base': (0, False, 1, False), 'lwf': (1, False, 1, False)}


def test_schedule_is_the_configs():
  fields = {'student.epochs': 7, 'student.lr': 0.3, 'student.milestones': (2, 5)}
  for name in ('abd', 'base', 'lwf'):
    method = methods.get(settings(method=name, **fields))
    for phase in (*method.first, *method.later):
      assert (phase.epochs, phase.lr, phase.milestones) == (7, 0.3, (2, 5))


def test_every_file_is_a_method():
  assert {'abd', 'base', 'lwf'} <= set(methods.available())
  for name in methods.available():
    assert isinstance(methods.get(settings(method=name)), methods.Method)


@pytest.mark.parametrize('word, words', [('adb', "Did you mean 'abd'?"), ('bsae', "Did you mean 'base'?")])
def test_unknown_method_names_the_nearest(word, words):
  with pytest.raises(UserError) as error:
    methods.get(settings(method=word))
  assert f"config.method='{word}'" in str(error.value) and words in str(error.value)
  assert '\n' not in str(error.value)
