"""A run that diverges or collapses ends in one line that names task, phase and step."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from abd_jax.errors import UserError
from abd_jax.protocol import metrics as health
from abd_jax.run.plan import build
from abd_jax.run.session import not_finite
from abd_jax.state import TrainState


def state_of(weight=1.0, mean=0.0, momentum=0.0):
  params = {'head': {'kernel': jnp.ones((2, 2)), 'bias': jnp.array([0.0, weight])}}
  return TrainState(params, {'norm': jnp.array([mean])}, jnp.array([momentum]), jnp.int32(0), {'counts': jnp.arange(3)})


def test_every_parameter_and_statistic_is_looked_at():
  assert not_finite(state_of()) == []
  assert not_finite(state_of(weight=np.nan)) == ['params.head.bias']
  assert not_finite(state_of(mean=np.inf)) == ['batch_stats.norm']
  assert not_finite(state_of(weight=-np.inf, mean=np.nan)) == ['batch_stats.norm', 'params.head.bias']


def test_a_generator_is_dead_if_its_images_or_their_classes_are_all_one():
  images, labels = np.random.default_rng(0).random((8, 4, 4, 1)), np.arange(8) % 2
  assert health.dead(images, labels, 2) == ''
  assert 'all the same' in health.dead(np.broadcast_to(images[:1], images.shape), labels, 2)
  assert 'of one class' in health.dead(images, np.zeros(8, int), 2)
  assert health.dead(images, np.zeros(8, int), 1) == ''


def hits(old, new, of_each=50):
  """(hits, new) with so many of `of_each` test images of old classes and of new ones right."""
  right = lambda count: np.arange(of_each) < count
  return np.concatenate([right(old), right(new)]), np.repeat([False, True], of_each)


def test_a_student_is_at_chance_only_if_it_knows_neither_old_nor_new_classes():
  assert '25.0 % of 4 classes' in health.at_chance(*hits(12, 13), classes=4)
  assert health.at_chance(*hits(0, 50), classes=10) == ''  # it has forgotten, but learnt
  assert health.at_chance(*hits(25, 0), classes=10) == ''  # it has not learnt, but remembers
  assert health.at_chance(*hits(0, 0), classes=10) != ''
  assert health.at_chance(*hits(0, 0), classes=1) == ''
  assert health.at_chance(*hits(0, 0, of_each=19), classes=10) == ''  # too few to say


def test_a_parameter_that_the_last_update_broke_ends_the_run(learn, tmp_path, monkeypatch):
  """No loss has seen it."""
  monkeypatch.setattr('abd_jax.run.session.not_finite', lambda state: ['params.head.bias'])
  with pytest.raises(UserError, match=r'^task 1, learning: params\.head\.bias .* step 5'):
    learn(tmp_path)
  assert not list(tmp_path.glob('checkpoints/student/*'))


def test_a_rate_that_overflows_names_the_term(learn, tmp_path):
  with pytest.raises(UserError, match=r'^task \d, learning: [\w.]+ is not finite after step \d+'):
    learn(tmp_path, student__lr=100.0, student__weight_decay=1.0, student__momentum=0.99, student__epochs=40)


@pytest.mark.parametrize(
  ('name', 'where'),
  [('dead', r'task 1, dreaming, after step 6: it is no good'), ('at_chance', r'task 1, learning, after step \d+: it')],
)
def test_a_collapse_ends_the_run_unless_the_config_only_prints_it(learn, tmp_path, monkeypatch, capsys, name, where):
  monkeypatch.setattr(health, 'JUDGED', 1)
  monkeypatch.setattr(health, name, lambda *_: 'it is no good')
  other = {'dead': 'at_chance', 'at_chance': 'dead'}[name]
  monkeypatch.setattr(health, other, lambda *_: '')
  with pytest.raises(UserError, match=f'{where}.*config.collapse=tell'):
    learn(tmp_path)
  assert learn(tmp_path, collapse='tell')['final_accuracy'] >= 0
  assert re.search(where, capsys.readouterr().err)


def test_each_task_is_judged_by_its_own_test_images_dreams_and_classes(learn, tiny_config, tmp_path, monkeypatch):
  monkeypatch.setattr(health, 'JUDGED', 1)
  judged = {'at_chance': [], 'dead': []}
  for name, given in judged.items():
    monkeypatch.setattr(health, name, lambda *arguments, given=given: given.append(arguments) or '')
  results = learn(tmp_path)
  labels = build(tiny_config()).stream.test_labels(2)
  assert len(judged['at_chance']) == 3 and len(judged['dead']) == 2
  for task, (hits, new, classes) in enumerate(judged['at_chance']):
    seen = labels[labels < 2 * (task + 1)]
    assert classes == 2 * (task + 1) and len(hits) == len(seen)
    np.testing.assert_array_equal(new, seen // 2 == task)
    assert hits.mean() == pytest.approx(results['seen_accuracy'][task])
    assert hits[new].mean() == pytest.approx(results['accuracy_matrix'][task][task])
  assert 0 < results['seen_accuracy'][2] < 1  # else all that is asked of hits would say little
  for task, (dreams, labels, classes) in enumerate(judged['dead']):
    assert classes == 2 * (task + 1) and dreams.shape == (64, 8, 8, 1) and 0 <= dreams.min() < dreams.max() <= 1
    assert labels.shape == (64,) and set(labels.tolist()) <= set(range(classes))
