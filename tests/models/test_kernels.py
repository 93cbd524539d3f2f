"""The forms of hot operations for other hardware: each computes what the one for CPUs does."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from abd_jax.data.augment import crop_by_choice, crop_by_index
from abd_jax.models.cast_and_fold import fold, narrow, with_narrow
from abd_jax.models.kernels import (
  PIECE,
  conv_on_cpu,
  kernels_for,
  plain_conv,
  upsample_conv_of_four,
  upsample_conv_of_one,
)
from abd_jax.models.moments import TWO_PASSES, in_sums
from abd_jax.models.resnet import Classifier, ResNet

SHARDS = (1, 4)
EPS32 = float(np.finfo(np.float32).eps)


def sums(shards, one_pass=True):
  return in_sums(shards, lambda array: array, one_pass=one_pass)


def channels():
  """f32[64, 8, 8, 6] and what is hard about each channel."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, 8, 8, 6))
  x[..., 1] = 0.1 + 1e4  # constant
  x[..., 2] += 1e4  # a mean 1e4 deviations away
  x[..., 3] = 1e-3 * x[..., 3] + 10  # the same, and small
  x[::16, 4, 4, 4] = 10  # what is subtracted is an outlier
  x[..., 5] += np.where(np.arange(64) < 32, -50, 50)[:, None, None]  # shards of different means
  return np.float32(x)


@pytest.mark.parametrize('shards', SHARDS)
def test_one_pass_keeps_to_its_bound_against_float64(shards):
  x = channels()
  mean, var = jax.jit(sums(shards).moments)(x)
  wide = np.float64(x).reshape(-1, x.shape[-1])
  parts = np.float64(x).reshape(shards, -1, *x.shape[1:])
  away, spread = np.abs(parts[:, 0, 4, 4] - parts.mean((1, 2, 3))), parts.std((1, 2, 3)) + 1e-30
  # As the docstring has it: rounding, times how far in deviations the value subtracted lies from the mean.
  bound = 64 * EPS32 * (1 + np.square(away / spread).max(0))
  assert (np.abs(var - wide.var(0)) <= bound * wide.var(0)).all() and (bound < 1e-3).all()
  assert (np.abs(mean - wide.mean(0)) <= 64 * EPS32 * (np.abs(wide.mean(0)) + (away + spread).max(0))).all()
  assert var[1] == 0 and mean[1] == np.float32(0.1 + 1e4)


@pytest.mark.parametrize('shards', SHARDS)
@pytest.mark.parametrize('one_pass', [True, False])
@pytest.mark.parametrize('affine', [True, False])
def test_sums_and_their_derivatives_are_those_of_two_passes(shards, one_pass, affine):
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    x, weights = rng.normal(2, 3, (8, 3, 4, 5)), rng.normal(size=(8, 3, 4, 5))
    scale, bias = (rng.normal(size=5), rng.normal(size=5)) if affine else (None, None)

    def of(statistics):
      def loss(x, scale, bias):
        y, mean, var = statistics.normalise(x, scale, bias, 0.1)
        read_mean, read_var = statistics.moments(x)
        value = (weights * y).sum() + jnp.sin(mean).sum() + jnp.log(var).sum()
        return value + jnp.cos(read_mean).sum() + jnp.sqrt(read_var).sum(), (y, mean, var)

      return jax.jit(jax.value_and_grad(loss, (0, 1, 2) if affine else 0, has_aux=True))(x, scale, bias)

    chex.assert_trees_all_close(of(sums(shards, one_pass)), of(TWO_PASSES), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('one_pass', [True, False])
def test_sums_of_bfloat16_are_computed_in_float32(one_pass):
  x = jnp.asarray(channels()[..., :1], jnp.bfloat16)
  statistics = sums(1, one_pass)
  y, mean, var = statistics.normalise(x, None, None, 1e-5)
  assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
  np.testing.assert_allclose(var, np.float64(x).var(), rtol=1e-5)
  assert jax.grad(lambda x: statistics.normalise(x, None, None, 1e-5)[0].sum().astype(jnp.float32))(x).dtype == x.dtype


def outputs_and_gradients(conv, images, kernel, stride, prepare=lambda images: images):
  """Of a padded 3x3 convolution of images that are prepared first."""

  def loss(images, kernel):
    around = ((1, 1), (1, 1))
    out = conv(prepare(images), kernel, (stride, stride), around, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.sum(jnp.sin(out)), out

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(images, kernel)


doubled = lambda images: images.repeat(2, axis=1).repeat(2, axis=2)


@pytest.mark.parametrize(
  'conv, stride, prepare, count',
  [
    (upsample_conv_of_four(plain_conv), 1, doubled, 3),
    (upsample_conv_of_one, 1, doubled, 3),
    (conv_on_cpu, 1, None, 2 * PIECE + 5),  # the last piece is a short one
    (conv_on_cpu, 2, None, 2 * PIECE + 5),
  ],
  ids=['four', 'one', 'pieces', 'pieces at every second place'],
)
def test_convolutions_and_their_gradients_are_the_plain_one_of_prepared_images(conv, stride, prepare, count):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(count, 4, 5, 2)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
  found = outputs_and_gradients(conv, images, kernel, stride)
  expected = outputs_and_gradients(plain_conv, images, kernel, stride, *([prepare] if prepare else ()))
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_gradients_are_those_of_float32_to_its_rounding():
  rng = np.random.default_rng(0)
  images, kernel = (rng.normal(size=shape).astype(jnp.bfloat16) for shape in ((PIECE + 3, 4, 5, 2), (3, 3, 2, 4)))
  for form in (lambda conv: conv, upsample_conv_of_four):  # the second pads the sides of a smaller kernel unequally
    wide, narrow = (
      outputs_and_gradients(form(conv), images.astype(dtype), kernel.astype(dtype), 1)[1]
      for conv, dtype in ((plain_conv, np.float32), (conv_on_cpu, jnp.bfloat16))
    )
    for expected, found in zip(wide, narrow, strict=True):
      assert np.linalg.norm(found.astype(np.float32) - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize('variant', ['abd', 'rdfcil', 'imagenet', 'bottleneck'])
def test_a_folded_classifier_says_what_the_whole_one_does(variant):
  with jax.enable_x64(True):
    whole, folded = (
      Classifier(
        ResNet((1, 1), (4, 8), variant, dtype=jnp.float64, param_dtype=jnp.float64, folded=folds), 5, jnp.float64
      )
      for folds in (False, True)
    )
    x, rng = np.random.default_rng(0).normal(size=(2, 32, 32, 3)), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: whole.init(jax.random.key(0), jnp.asarray(x), train=False))
    params, stats = (reference.random_weights(shapes[name], rng) for name in ('params', 'batch_stats'))
    expected = jax.jit(lambda x: whole.apply({'params': params, 'batch_stats': stats}, x, train=False))(x)
    outputs = jax.jit(lambda x: folded.apply({'params': fold(params, stats)}, x, train=False))(x)
    chex.assert_trees_all_close(outputs, expected, rtol=1e-10, atol=1e-12)


def test_only_what_convolutions_read_is_narrowed():
  params = {
    'conv': {'kernel': np.ones((3, 3, 1, 2), np.float32), 'bias': np.ones(2, np.float32)},
    'norm': {'scale': np.ones(2, np.float32)},
    'head': {'kernel': np.ones((2, 3), np.float32)},
  }
  assert not narrow(params, jnp.float32) and with_narrow(params, {}) is params
  copies = jax.tree.map(jnp.asarray, narrow(params, jnp.bfloat16))
  assert set(copies) == {('conv', 'kernel'), ('conv', 'bias')}
  dtypes = jax.tree.map(lambda leaf: str(leaf.dtype), with_narrow(params, copies))
  assert dtypes['conv'] == {'kernel': 'bfloat16', 'bias': 'bfloat16'}
  assert dtypes['norm'] == {'scale': 'float32'} and dtypes['head'] == {'kernel': 'float32'}


def test_the_devices_choose():
  """Not the process: programs are compiled for devices that are not here."""
  mesh = lambda platform, size: SimpleNamespace(platform=platform, size=size, gather=None, gather_by_sum=None)
  one, several, gpu, tpu = map(kernels_for, (mesh('cpu', 1), mesh('cpu', 8), mesh('gpu', 1), mesh('tpu', 8)))
  assert one.conv is conv_on_cpu and several.conv is gpu.conv is tpu.conv is plain_conv
  assert one.statistics is several.statistics is TWO_PASSES and not one.folds and not several.folds
  assert gpu.upsample_conv is tpu.upsample_conv is upsample_conv_of_one and gpu.folds and tpu.folds
  assert gpu.crop is one.crop is crop_by_index and tpu.crop is crop_by_choice
