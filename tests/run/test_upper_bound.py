"""abd_jax.run.queue: the upper bound of each task is a run of its own, and whoever needs it shares it."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import until_complete

from abd_jax.config import changed, check, default, flatten
from abd_jax.protocol.tasks import Tasks, class_order, split
from abd_jax.run import queue

ORDER = class_order(100, 0)


def folders(sizes, order=ORDER, seed=0, **fields):
  """Where the upper bounds of all tasks lie."""
  config = changed(default(), {name.replace('__', '.'): value for name, value in fields.items()})
  return [str(folder) for _, folder in queue.upper_bound(config, Tasks(order, tuple(sizes)), seed, Path('oracles'))]


# What is shared.


def test_finer_splits_need_the_upper_bounds_of_coarser_ones_too():
  five, ten, twenty = (folders(split(100, count)) for count in (5, 10, 20))
  assert [len(set(found)) for found in (five, ten, twenty)] == [5, 10, 20]
  assert five == ten[1::2] and ten == twenty[1::2]
  assert folders(split(100, 6, 50)) == ten[4:]  # half of the classes first
  assert folders((20, 10)) == ten[1:3]  # a run that stops early
  assert five[0].startswith('oracles/cifar100_20_')


def test_only_the_classes_learnt_so_far_and_their_order_matter():
  whole = folders((10, 20, 70))
  swapped_after_30 = (*ORDER[:30], *ORDER[30:][::-1])
  assert folders((10, 20), swapped_after_30) == whole[:2]
  swapped_within_30 = (*ORDER[:10], *ORDER[10:30][::-1], *ORDER[30:])
  assert folders((10, 20, 70), swapped_within_30)[0] == whole[0]
  assert not set(folders((10, 20, 70), swapped_within_30)[1:]) & set(whole)


def test_what_base_does_not_depend_on_leaves_the_place_as_it_is():
  fields = {
    'data__dir': '/elsewhere', 'data__download': False, 'method': 'lwf', 'trial': 3,  # the order is given apart
    'inversion__steps': 1, 'inversion__what': 'pixels', 'generator__latent': 7, 'abd__kd_weight': 5.0,
    'abd__bn_passes': 1, 'lwf__weight': 0.5, 'memory__size': 100, 'bic__held_out': 0.5, 'max_seconds': 1.0,
    'checkpoint_seconds': 1.0, 'devices': 1, 'collapse': 'tell', 'oracle_dir': '/elsewhere', 'task_sizes': (1,),
    'class_order': '1,2', 'first_task_classes': 3, 'tasks': 7,
  }  # fmt: skip
  assert folders((10, 20, 70), **fields) == folders((10, 20, 70))


@pytest.mark.parametrize('field', ['abd.kd_weight', 'gaussians.dreams'])
def test_a_setting_that_base_does_not_read_leaves_the_place_as_it_is(field, monkeypatch):
  here, gained = folders((10, 20, 70)), changed(default(), {field: 5.0}).unlock()
  monkeypatch.setattr(queue, 'default', lambda: gained)
  assert folders((10, 20, 70)) == here


@pytest.mark.parametrize(
  'fields',
  [
    {'data__name': 'cifar10'},
    {'data__folds': 5, 'data__fold': 1},
    {'student__lr': 0.05},
    {'chunk_steps': 7},  # a workdir holds a run of one value
    {'seed': 1},
    {'order': class_order(100, 1)},
  ],
)
def test_whatever_changes_the_result_changes_the_place(fields):
  here, there = folders((10, 20, 70)), folders((10, 20, 70), **fields)
  assert not set(here) & set(there)
  if 'data__fold' in fields:
    assert not set(there) & set(folders((10, 20, 70), data__folds=5))


def test_an_upper_bound_is_an_ordinary_run_of_base_on_all_classes_so_far():
  fields = {'method': 'oracle', 'student.lr': 0.3, 'data.dir': '/there', 'model.widths': (4, 8, 16)}
  fields |= {'eval_batch_size': 8, 'precision': 'bfloat16', 'collapse': 'tell', 'max_seconds': 5.0}
  part, _ = queue.upper_bound(changed(default(), fields), Tasks(ORDER, (10, 20, 70)), 4, Path('oracles'))[1]
  check(part)
  assert (part.method, part.tasks, tuple(part.task_sizes), part.seed) == ('base', 1, (30,), 4)
  order = tuple(map(int, part.class_order.split(',')))
  assert order[:30] == ORDER[:30] and sorted(order) == list(range(100))
  kept = flatten(part.to_dict())
  assert {name: kept[name] for name in fields} == fields | {'method': 'base', 'max_seconds': 0.0}


# Runs.


def parts_of(root):
  """Number of classes -> results.json of each upper bound under `root`."""
  return {int(file.parent.name.split('_')[1]): json.loads(file.read_text()) for file in root.glob('*/results.json')}


def changed_at(root):
  return {str(file): file.stat().st_mtime_ns for file in sorted(root.glob('*/*')) if file.name != '.lock'}


@pytest.fixture
def path(learnt):
  """Of a run of method=oracle on three tasks of two classes."""
  return learnt('oracle')


@pytest.fixture
def results(path):
  return json.loads((path / 'results.json').read_text())


def test_every_row_is_that_of_a_model_of_its_own(results, path):
  parts = parts_of(path.parent / 'oracles')  # beside the workdir, if config.oracle_dir names no place
  assert sorted(parts) == [2, 4, 6]
  matrix, counts = results['accuracy_matrix'], results['test_images']
  assert results['task_aware_accuracy_matrix'] == [[None] * k for k in (1, 2, 3)]
  assert results['final_task_aware_accuracy'] is None
  assert results['method'] == 'oracle' and results['task_sizes'] == [2, 2, 2] and len(counts) == 3
  for k, (row, top5, part) in enumerate(
    zip(matrix, results['top5_accuracy_matrix'], (parts[2], parts[4], parts[6]), strict=True), 1
  ):
    assert len(row) == len(top5) == k
    assert np.average(row, weights=counts[:k]) == pytest.approx(part['final_accuracy'], abs=1e-12)
    assert np.average(top5, weights=counts[:k]) == pytest.approx(part['final_top5_accuracy'], abs=1e-12)
    assert part['method'] == 'base' and sum(part['test_images']) == sum(counts[:k])
    assert part['class_order']['original_ids'][: 2 * k] == results['class_order']['original_ids'][: 2 * k]
  assert results['class_accuracy'] == parts[6]['class_accuracy'] and len(results['class_accuracy']) == 6
  seen = [parts[k]['final_accuracy'] for k in (2, 4, 6)]
  assert [*results['seen_accuracy'], results['final_accuracy']] == pytest.approx([*seen, seen[-1]], abs=1e-12)
  assert len(set(seen)) == 3  # not one model's numbers three times
  assert results['seconds']['train'] == pytest.approx(sum(part['seconds']['train'] for part in parts.values()))
  assert results['steps'] == {'student': sum(part['steps']['student'] for part in parts.values()), 'generator': 0}


def test_another_split_and_another_method_train_only_what_is_not_there(results, path, learn, tmp_path):
  root = path.parent / 'oracles'
  before = changed_at(root)
  coarse = learn(tmp_path / 'coarse', method='oracle', tasks=2, task_sizes=(2, 4), oracle_dir=str(root))
  assert changed_at(root) == before
  assert coarse['seen_accuracy'] == [results['seen_accuracy'][0], results['seen_accuracy'][2]]
  finer = learn(
    tmp_path / 'finer', method='oracle', tasks=4, task_sizes=(2, 2, 1, 1), oracle_dir=str(root), abd__kd_weight=7.0
  )
  after = changed_at(root)
  assert before.items() < after.items() and sorted(parts_of(root)) == [2, 4, 5, 6]
  assert [finer['seen_accuracy'][k] for k in (0, 1, 3)] == results['seen_accuracy']
  assert finer['accuracy_matrix'][0] == results['accuracy_matrix'][0]


def test_a_run_paused_again_and_again_ends_as_one_that_was_not(results, learn, tmp_path):
  complete = []

  def resume():
    complete.append(len(parts_of(tmp_path / 'oracles')))
    assert not (tmp_path / 'run' / 'results.json').exists()
    return learn(tmp_path / 'run', method='oracle', max_seconds=1e-9, chunk_steps=10)

  paused, pauses = until_complete(resume)
  # Of 9, 18 and 28 steps: at most after each chunk of ten and after the evaluation.
  assert 3 <= pauses <= 1 + 2 + 3 + 3
  assert complete == sorted(complete) and set(complete) == {0, 1, 2}
  for name in ('accuracy_matrix', 'top5_accuracy_matrix', 'class_accuracy', 'final_accuracy'):
    assert paused[name] == results[name]
