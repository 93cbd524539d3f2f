"""abd_jax.methods.ranpac: the regression against NumPy, its limits, and runs whose trunk stays as it is."""

import jax
import numpy as np
import pytest
from conftest import SMALLEST
from jax import export

from abd_jax import train
from abd_jax.analysis.audit import audit
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.methods import ranpac
from abd_jax.methods.types import TaskEnd
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.extend import extended_config
from abd_jax.run.load import load_model, load_snapshot
from abd_jax.state import Classes
from abd_jax.steps.inputs import rows_of_task

TASK_OF_CLASS = np.array([0, 0, 1, 1, 2, 3], np.int32)
WIDTH, MOST = 5, 60
end_task = jax.jit(ranpac.end_task)


def made_up(task, count=50, noise=1.0):
  """(features f[n, d], labels i[n])."""
  rng = np.random.default_rng(task)
  labels = np.flatnonzero(task == TASK_OF_CLASS)[np.arange(count) % np.sum(task == TASK_OF_CLASS)]
  return np.sin(3 * labels[:, None] + np.arange(WIDTH)) + noise * rng.normal(size=(count, WIDTH)), labels


def learnt(tasks, features=8, data=made_up):
  """The statistics after these tasks; copies, which come with the images, must not count."""
  statistics = ranpac.init(features, 0, WIDTH, len(TASK_OF_CLASS))
  for task in tasks:
    rows, labels = data(task)
    both = np.float32(np.stack([rows, rows + 7], axis=1))
    samples = rows_of_task(labels, both, both, MOST)
    statistics = end_task(TaskEnd(**samples, classes=Classes(TASK_OF_CLASS, task), statistics=statistics))
  return jax.device_get(statistics)


def regression(features, labels, share):
  """The kernel f64[m, c] of a ridge regression of one-hot labels."""
  products = features.T @ features
  ridge = share * np.trace(products) / len(products) * np.eye(len(products))
  return np.linalg.solve(products + ridge, features.T @ np.eye(len(TASK_OF_CLASS))[labels])


@pytest.mark.parametrize('features', [0, 8])
def test_the_head_is_the_regression_on_the_images_of_all_tasks_in_any_order(features):
  found = learnt([0, 1, 2], features)
  rows, labels = (np.concatenate(parts) for parts in zip(*map(made_up, range(3)), strict=True))
  if features:
    rows = np.maximum(rows @ np.float64(found['projection']), 0)
  np.testing.assert_allclose(found['kernel'], regression(rows, labels, found['ridge']), rtol=1e-3, atol=1e-4)
  assert not found['kernel'][:, 5].any()  # unseen
  np.testing.assert_allclose(learnt([0, 2, 1], features)['kernel'], found['kernel'], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('noise', [0.01, 1.0, 30.0])
def test_the_ridge_is_the_one_that_errs_least_on_every_fifth_image_of_the_first_task(noise):
  data = lambda task: made_up(task, noise=noise)
  rows, labels = data(0)
  held, errors = np.arange(50) % 5 == 4, []
  for share in np.asarray(ranpac.SHARES):
    misses = rows[held] @ regression(rows[~held], labels[~held], share) - np.eye(6)[labels[held]]
    errors.append(np.square(misses).sum())
  found = learnt([0], features=0, data=data)['ridge']
  assert found == ranpac.SHARES[np.argmin(errors)] == learnt([0, 1], features=0, data=data)['ridge']


@pytest.mark.parametrize('count, scale', [(1, 1.0), (50, 0.0)])
def test_one_image_and_dead_features_give_a_finite_head(count, scale):
  data = lambda task: (scale * made_up(task, count)[0], made_up(task, count)[1])
  assert all(np.isfinite(leaf).all() for leaf in learnt([0, 1], data=data).values())


# Runs on the smallest networks.


def test_a_run_trains_nothing_and_predicts_exports_and_extends(learn, tmp_path):
  results = learn(tmp_path / 'run', method='ranpac', ranpac__features=30, **SMALLEST)
  assert results['steps'] == {'student': 0, 'generator': 0} and results['final_accuracy'] > 0.5
  _, manifest, snapshot = load_snapshot(tmp_path / 'run')
  kept, model = snapshot.model.statistics, load_model(tmp_path / 'run')
  order = Tasks(tuple(manifest['class_order']['original_ids']), (2, 2))
  images, labels = TaskStream(open_dataset('digits', ''), order).test(1).decode()
  names, probabilities = model.predict(images)
  assert np.mean(names == np.asarray(model.class_names)[labels]) == results['final_accuracy']
  logits = np.maximum(model.features(images) @ kept['projection'], 0) @ kept['kernel'][:, :4]
  np.testing.assert_array_equal(logits.argmax(1), probabilities.argmax(1))
  exported = export.deserialize(bytearray(model.export())).call(images)
  np.testing.assert_allclose(exported, probabilities, rtol=1e-5, atol=1e-6)
  assert audit(tmp_path / 'run')['statistics'] == sum(np.asarray(leaf).nbytes for leaf in kept.values())
  train.train_and_evaluate(
    extended_config(str(tmp_path / 'run'), {'task_sizes': (2, 2, 2), 'devices': 1}), str(tmp_path / 'more')
  )
  more = load_snapshot(tmp_path / 'more')[2].model.statistics
  np.testing.assert_array_equal(more['projection'], kept['projection'])
  assert more['ridge'] == kept['ridge'] and np.asarray(more['sums'])[:, :6].any(0).all()


def test_the_first_task_may_train_the_trunk_and_no_later_one(learn, tmp_path):
  results = learn(tmp_path / 'run', method='ranpac', model__trainable='all', **SMALLEST)
  first, last = (load_snapshot(tmp_path / 'run', task)[2].model for task in (0, 1))
  assert results['steps']['student'] > 0
  jax.tree.map(np.testing.assert_array_equal, first.variables, last.variables)


def test_gaussians_on_a_trunk_that_stays_train_nothing_and_stay(learn, tmp_path):
  results = learn(tmp_path / 'run', method='class_gaussians', model__trainable='none', **SMALLEST)
  assert results['steps'] == {'student': 0, 'generator': 0} and results['final_accuracy'] > 0.5
  first, last = (load_snapshot(tmp_path / 'run', task)[2].model.statistics['means'][:2] for task in (0, 1))
  np.testing.assert_allclose(first, last, rtol=1e-4, atol=1e-5)
