"""experiments gaussians: the samples drawn are those that carried the classes; ellipses hold the share they should."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALLEST

from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.methods import class_gaussians
from abd_jax.run.load import load_model
from experiments import __main__ as command
from experiments import gaussians

WIDTH, COUNT = 5, 4000


def test_a_run_is_drawn_with_the_samples_that_carried_its_classes(tmp_path, monkeypatch, tiny_config, compile_once):
  config = tiny_config('class_gaussians', **SMALLEST | {'task_sizes': (2, 2, 2)})
  monkeypatch.setattr(gaussians, 'load_config', lambda name: config)
  command.run(['gaussians', f'--runs={tmp_path}', '--trial=1', f'--output={tmp_path / "drawn.svg"}'])
  drawn, found = (tmp_path / 'drawn.svg').read_text(), gaussians.last_task(tmp_path / 'trial_1')
  assert found.times.tolist() == [2, 2, 1, 1]
  assert re.findall(r'>Digit (\d), carried (.*?):', drawn) == [(found.names[2], 'once'), (found.names[0], '2 times')]
  before, after, true = found.statistics
  old, new = (jnp.asarray(rows.reshape(-1, rows.shape[-1])) for rows in (found.by_old, found.by_new))
  for c in range(4):
    kept = before['means'][c], before['covariances'][c]
    mean, covariance = class_gaussians.carried(*kept, old, new, jnp.ones(len(old)), config.gaussians)
    np.testing.assert_allclose(after['means'][c], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after['covariances'][c], covariance, rtol=1e-3, atol=1e-5)
  model = load_model(tmp_path / 'trial_1')
  images, labels = TaskStream(open_dataset('digits', ''), model.tasks).task(0).decode()
  np.testing.assert_allclose(true['means'][1], model.features(images[labels == 1]).mean(0), rtol=1e-5, atol=1e-5)


def made_up(of: int) -> gaussians.Carried:
  """A class whose dreams are draws from one of its three Gaussians, another one, and new images beside it."""
  rng = np.random.default_rng(of)
  roots = rng.normal(size=(3, WIDTH, WIDTH))
  means = rng.normal(size=(3, WIDTH))
  statistics = [{'means': means[None, k], 'covariances': (roots[k] @ roots[k].T)[None]} for k in range(3)]
  kernel = np.zeros((WIDTH, 2))
  kernel[0] = 1, -1  # the model before tells dreams apart by their first feature
  by_old = np.where(np.arange(4)[:, None] == 2, 1.0, -1.0) * np.ones((COUNT, 4, WIDTH))
  by_new = 3 + rng.normal(size=(COUNT, 4, WIDTH))
  by_new[:, 2] = means[of] + rng.normal(size=(COUNT, WIDTH)) @ roots[of].T
  other = {'means': np.ones((1, WIDTH)), 'covariances': np.eye(WIDTH)[None]}
  both = [{key: np.concatenate([one[key], other[key]]) for key in other} for one in statistics]
  both[0] |= {'kernel': kernel, 'bias': np.zeros(2)}
  return gaussians.Carried(('0', '1'), np.array([1, 1]), tuple(both), by_old, by_new)


def polygon(words: str) -> np.ndarray:
  return np.array([pair.split(',') for pair in words.split()], float)


@pytest.mark.parametrize('of', range(3))
def test_an_ellipse_of_two_deviations_holds_86_percent_of_its_gaussian(of):
  parts = ''.join(gaussians.panel(made_up(of), 0))
  *_, dreams = re.findall(r'<path d="([^"]*)"', parts)
  places = np.array(re.findall(r'M([\d.]+) ([\d.]+)', dreams), float)
  rings = [polygon(words) for words in re.findall(r'<polygon points="([^"]*)"', parts)]
  assert len(rings) == 3 and 0.93 * COUNT < len(places) <= COUNT  # some lie outside
  sides = np.roll(rings[of], -1, axis=0) - rings[of]
  apart = places[:, None] - rings[of]
  crosses = sides[:, 0] * apart[..., 1] - sides[:, 1] * apart[..., 0]
  inside = (crosses > 0).all(1) | (crosses < 0).all(1)
  assert inside.sum() / COUNT == pytest.approx(1 - np.exp(-2), abs=0.02)


def test_the_true_ellipse_is_a_circle_left_of_the_new_images_and_above_the_mean_before():
  found = made_up(1)
  points, means, rings = gaussians.projected(found, 0)
  np.testing.assert_allclose(np.linalg.norm(rings[2], axis=1), 2)  # around zero, the true mean
  np.testing.assert_allclose(means[2], 0, atol=1e-9)
  right = points[1].mean(0)
  assert right[0] > 0 and right[1] == pytest.approx(0, abs=1e-9) and means[0, 1] < 0


def test_a_carried_mean_halfway_to_the_true_one_is_half_nearer():
  found = made_up(1)
  before, _, true = found.statistics
  between = lambda share: {'means': before['means'] + share * (true['means'] - before['means'])}
  shares = {share: found._replace(statistics=(before, between(share), true)).nearer(0) for share in (1, 0.5, -0.5)}
  assert shares == {1: '100 % nearer', 0.5: '50 % nearer', -0.5: '50 % farther'}
