"""abd_jax.methods.class_gaussians: the arithmetic against NumPy, its limits, and a run that keeps class statistics."""

import shutil
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import reference
from conftest import SMALLEST
from jax import export
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from abd_jax import methods, train
from abd_jax.analysis.audit import audit
from abd_jax.analysis.diagnose import diagnose
from abd_jax.commands import audit as command
from abd_jax.config import load_config
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.methods import class_gaussians
from abd_jax.methods.types import LossInputs, Output, TaskEnd
from abd_jax.run.extend import extended_config, stream_of_run
from abd_jax.run.load import load_model, load_snapshot
from abd_jax.state import Classes
from abd_jax.steps.inputs import rows_of_task
from abd_jax.steps.rng import stream

SETTINGS = dict(dreams=0.5, distance_shrinkage=0.1, ridge=1e-2, head_shrinkage=0.1)
TASK_OF_CLASS = np.array([0, 0, 1, 1, 2, 3], np.int32)
WIDTH, MOST = 5, 40
KEY = jax.random.key(0)


@partial(jax.jit, static_argnames=('measured', 'own_share'))
def end_task(task, measured='images', own_share=0.0):
  return class_gaussians.end_task(SimpleNamespace(measured=measured, own_share=own_share, **SETTINGS), task)


def task_end(task, statistics, old, new, labels):
  rows = rows_of_task(labels, np.float32(old), np.float32(new), MOST)
  return TaskEnd(**rows, classes=Classes(TASK_OF_CLASS, np.int32(task)), statistics=statistics)


def made_up(task, count=30, seed=0):
  """(features f[n, 4, d] of the model before, of the newest, labels i[n]): what moved is not linear."""
  rng = np.random.default_rng([seed, task])
  labels = np.flatnonzero(task == TASK_OF_CLASS)[np.arange(count) % np.sum(task == TASK_OF_CLASS)]
  old = rng.normal(size=(count, 4, WIDTH)) + 2 * np.sin(labels)[:, None, None]
  new = old @ (np.eye(WIDTH) + 0.2 * rng.normal(size=(WIDTH, WIDTH))) + 0.3 * np.tanh(old[..., ::-1]) + 0.5
  return old, new, labels


def learnt(tasks, data=made_up, **given):
  """The statistics after so many tasks."""
  statistics = class_gaussians.init(WIDTH, len(TASK_OF_CLASS), given.get('own_share', 0.0))
  for task in range(tasks):
    statistics = end_task(task_end(task, statistics, *data(task)), **given)
  return jax.device_get(statistics)


@pytest.mark.parametrize('measured', ['images', 'copies'])
def test_statistics_of_three_tasks_equal_those_of_a_numpy_program(measured):
  tasks = [made_up(task) for task in range(3)]
  expected, expected_logits = reference.class_gaussians(tasks, measured, 0.5, 0.1, 1e-2, 0.1)
  found = learnt(3, measured=measured)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name][:5], value, rtol=2e-4, atol=2e-5, err_msg=name)
  logits = (tasks[-1][1].reshape(-1, WIDTH) @ found['kernel'] + found['bias'])[:, :5]
  np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected_logits, rtol=1e-3, atol=1e-3)
  assert not any(leaf.any() for leaf in (found['means'][5], found['covariances'][5], found['kernel'][:, 5]))  # unseen


@pytest.mark.parametrize('own_share', [0.3, 1.0])
def test_classes_with_covariances_of_their_own_are_told_apart_by_their_densities(own_share):
  found, linear = learnt(3, own_share=own_share), learnt(3)
  np.testing.assert_array_equal(found['covariances'], linear['covariances'])
  covariances, rows = np.float64(found['covariances'][:5]), made_up(2)[1][:, 0]
  densities = []
  for mean, covariance in zip(found['means'], covariances, strict=False):
    mixed = own_share * covariance + (1 - own_share) * covariances.mean(0)
    shrunk = 0.9 * mixed + 0.1 * np.trace(mixed) / WIDTH * np.eye(WIDTH)
    densities.append(multivariate_normal(mean, shrunk).logpdf(rows) + WIDTH / 2 * np.log(2 * np.pi))
  logits = class_gaussians.scores(np.float32(rows), found)
  np.testing.assert_allclose(logits[:, :5], np.stack(densities, axis=1), rtol=1e-3, atol=1e-3)
  assert not any(found[name][5].any() for name in ('roots', 'offsets', 'bias'))  # unseen


def test_wide_features_share_one_covariance(monkeypatch):
  each = learnt(1)
  monkeypatch.setattr(class_gaussians, 'FULL', WIDTH - 1)
  jax.clear_caches()
  shared = learnt(1)
  assert shared['covariances'].shape == (1, WIDTH, WIDTH)
  np.testing.assert_allclose(shared['covariances'][0], each['covariances'][:2].mean(0), rtol=1e-5)
  np.testing.assert_allclose(shared['kernel'], each['kernel'], rtol=1e-4, atol=1e-5)
  later = learnt(3)
  assert later['covariances'].shape == (1, WIDTH, WIDTH) and np.isfinite(later['kernel'][:, :5]).all()


HARD = {
  'a class of one image': lambda old, new, labels: (old, new, np.append(labels.min(), np.full(29, labels.max()))),
  'fewer images than features': lambda old, new, labels: (old[:2], new[:2], labels[:2]),
  'constant features': lambda old, new, labels: (0 * old + 3, 0 * new + 2, labels),
}


@pytest.mark.parametrize('name', HARD)
def test_little_data_give_finite_statistics(name):
  for own_share in (0.0, 0.2):
    found = learnt(3, lambda task: HARD[name](*made_up(task)), own_share=own_share)
    assert all(np.isfinite(value).all() for value in found.values())


def test_a_class_turned_is_a_class_of_its_own():
  rng = np.random.default_rng(0)
  features, kernel, more = rng.normal(size=(8, WIDTH)), rng.normal(size=(WIDTH, 6)), rng.normal(size=(WIDTH, 18))
  bias, offset, labels = rng.normal(size=6), rng.normal(size=18), np.repeat([2, 0], 4)
  student = Output(features, features @ kernel + bias, kernel, bias, {'turned': {'kernel': more, 'bias': offset}}, {})
  classes = Classes(TASK_OF_CLASS, np.int32(1))
  value, _ = class_gaussians.turned_loss(LossInputs(features, student, (), labels, labels >= 0, classes, KEY))
  logits = np.split(np.hstack([student.logits, features @ more + offset]), 4, axis=1)
  seen = np.hstack([one[:, :4] for one in logits])
  picked = [logits[row % 4][row, label] for row, label in enumerate(labels)]
  np.testing.assert_allclose(value, np.mean(logsumexp(seen, axis=1) - picked), rtol=1e-5)


def test_only_the_first_task_learns_turned_images(learnt):
  path = learnt('class_gaussians', **SMALLEST)
  first, last = (load_snapshot(path, task)[2].model.extra['turned'] for task in (0, 1))
  _, key = jax.random.split(stream(0, 'student_init'))
  untrained = class_gaussians.turned_head(4, key, 4)['turned']
  jax.tree.map(np.testing.assert_array_equal, first, last)
  old, new = (np.reshape(one['kernel'], (4, 3, -1))[:, :, :2] for one in (untrained, first))  # the first task's
  assert np.all(old != new)


# A run on the smallest networks.


@pytest.fixture
def run(learnt):
  """(workdir, results) of two tasks of digits."""
  path = learnt('class_gaussians', **SMALLEST)
  return path, read_json(path / 'results.json')


def test_a_run_keeps_zeros_of_unseen_classes_and_predicts_as_its_export_does(run):
  path, results = run
  _, _, snapshot = load_snapshot(path)
  kept = jax.device_get(snapshot.model.statistics)
  assert kept['means'][:4].any(1).all() and not kept['means'][4:].any() and not kept['covariances'][4:].any()
  images, labels = stream_of_run(path).test(1).decode()
  model = load_model(path)
  names, probabilities = model.predict(images)
  hits = names == np.asarray(model.class_names)[labels]
  assert hits.mean() == results['final_accuracy'] and probabilities.shape == (len(images), 4)
  exported = export.deserialize(bytearray(model.export())).call(images)
  np.testing.assert_allclose(exported, probabilities, rtol=1e-5, atol=1e-6)
  apart = np.einsum('cij,nj->nci', kept['roots'][:4], model.features(images)) - kept['offsets'][:4]
  logits = kept['bias'][:4] - np.square(apart).sum(2) / 2
  np.testing.assert_array_equal(logits.argmax(1), probabilities.argmax(1))


def test_a_run_with_a_linear_head_predicts_as_its_export_does(learn, tmp_path):
  learn(tmp_path, method='class_gaussians', gaussians__own_share=0.0, **SMALLEST)
  model = load_model(tmp_path)
  images = np.random.default_rng(0).integers(0, 17, (20, *model.image_shape), np.uint8)
  exported = export.deserialize(bytearray(model.export())).call(images)
  np.testing.assert_allclose(exported, model.predict(images)[1], rtol=1e-5, atol=1e-6)


def test_an_audit_counts_the_bytes_of_the_statistics(run, capsys):
  found, counted = audit(run[0]), 4 * (10 * 4 + 2 * 10 * 4 * 4 + 10 * 4 + 10)
  assert found['statistics'] == counted and not found['findings']
  assert command.run([str(run[0])]) == 0
  assert f'; it keeps class statistics of {counted:,} bytes' in capsys.readouterr().out


def test_a_diagnosis_says_how_far_the_carried_means_lie_from_the_true_ones(run, few_dreams):
  found, _ = diagnose(run[0])
  (drift,) = found['carried']
  assert drift['task'] == 1 and len(drift['by_class']) == 2 and 0 < min(drift['by_class']) < 5
  assert found['kept_bytes']['statistics'] > 0


def test_statistics_go_on_to_new_classes_and_a_model_without_them_is_extended_by_its_trained_head(
  run, learn, tmp_path, small_run
):
  path, _ = run
  train.train_and_evaluate(extended_config(str(path), {'task_sizes': (2, 2, 2), 'devices': 1}), str(tmp_path / 'more'))
  before, after = (load_snapshot(one)[2].model.statistics['means'] for one in (path, tmp_path / 'more'))
  assert after[:6].any(1).all() and not np.allclose(after[:4], before[:4])
  bare = shutil.copytree(small_run('abd'), tmp_path / 'bare')
  config = extended_config(str(bare), {'task_sizes': (2, 2, 2), 'head': 'gaussians'})
  with pytest.raises(UserError, match=r'no statistics of its classes.*--config.head=trained'):
    train.train_and_evaluate(config, str(tmp_path / 'refused'))
  assert not load_snapshot(bare)[2].model.statistics


@pytest.mark.slow
def test_the_old_model_is_that_of_the_task_before_also_where_a_phase_freezes_another(learn, tmp_path, monkeypatch):
  seen = []
  noted = lambda labels, old, new, most: (seen.append((old, new)), rows_of_task(labels, old, new, most))[1]
  monkeypatch.setattr(train, 'rows_of_task', noted)
  learn(tmp_path, method='e2e', head='gaussians', gaussians__dreams=0.0, **SMALLEST)
  images, _ = stream_of_run(tmp_path).task(1).decode()
  for task, features in enumerate(seen[1]):
    np.testing.assert_allclose(features[:, 0], load_model(tmp_path, task).features(images), rtol=1e-4, atol=1e-5)


def test_an_upper_bound_has_no_such_head():
  with pytest.raises(UserError, match=r'upper bound.*expected config\.head=trained'):
    methods.get(load_config('digits:method=oracle', head='gaussians'))
