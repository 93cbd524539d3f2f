"""abd_jax.models: sizes, shapes, first weights, and outputs against the NumPy restatement."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from abd_jax.config import default
from abd_jax.models.generator import Generator, Pixels
from abd_jax.models.moments import TWO_PASSES
from abd_jax.models.norm import BatchNorm
from abd_jax.models.resnet import Block, Classifier, ResNet
from abd_jax.models.vae import VAE
from abd_jax.steps import components as components_lib
from abd_jax.steps.student import init_student

CIFAR = (32, 32, 3)
KEY = jax.random.key(0)


def components_of(num_classes=100, **fields):
  config = default()
  config.update_from_flattened_dict(fields)
  return components_lib.make_components(config, num_classes, CIFAR, None)


def init(module, shape, dtype=jnp.float32):
  return module.init(jax.random.key(0), jnp.zeros(shape, dtype), train=False)


def count(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables['params']))


def weights_at(variables, end):
  """{path: f[...]} of the parameters whose name is `end`."""
  params = variables['params']
  return {p: np.asarray(reference.get(params, p)) for p in reference.leaf_paths(params) if p[-1] == end}


# Sizes and shapes.


# name -> network, shape of its input, parameters, batch norms (None: not counted here)
PUBLISHED = {
  'ResNet-32, 100 classes': (components_of(100).model, (1, *CIFAR), 470_004, 31),
  'ResNet of ImageNet-50': (Classifier(ResNet((2, 2, 2), (16, 32, 64)), 1000), (1, 224, 224, 3), 236_856, 13),
  'ResNet-18': (
    Classifier(ResNet((2, 2, 2, 2), (64, 128, 256, 512), 'imagenet'), 1000), (1, 224, 224, 3), 11_689_512, 20
  ),
  'ResNet-50': (
    Classifier(ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), 'bottleneck'), 1000), (1, 224, 224, 3), 25_557_032, 53
  ),
  'generator of CIFAR': (components_of().generator, (1, 1000), 8_423_939, None),
  'generator of ImageNet': (Generator(1000, (7, 7, 64), (64,) * 5, 3), (1, 1000), 3_326_275, None),
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_networks_have_the_published_sizes(name):
  module, shape, size, norms = PUBLISHED[name]
  variables = jax.eval_shape(lambda: init(module, shape))
  assert count(variables) == size
  assert norms is None or len(jax.tree.leaves(variables['batch_stats'])) == 2 * norms


# First weights.


@pytest.fixture(scope='module')
def resnet():
  return jax.jit(lambda: {'params': init(Classifier(ResNet((1, 1), (32, 64)), 200), (1, 8, 8, 3))['params']})()


@pytest.fixture(scope='module')
def generator():
  module = Generator(100, (2, 2, 16), (8,), 3, gamma_init='uniform')
  return jax.jit(lambda: {'params': init(module, (1, 100))['params']})()


def test_kernels_are_kaiming_normal_and_not_truncated(resnet):
  for path, kernel in weights_at(resnet, 'kernel').items():
    z = kernel / np.sqrt(2 / np.prod(kernel.shape[:-1]))
    tolerance = 5 / np.sqrt(2 * z.size)  # five standard errors
    assert abs(z.std() - 1) < tolerance and abs(z.mean()) < 2 * tolerance, path
    if z.size > 5000:
      assert 0.5 < (abs(z) > 2.5).mean() / 0.0124 < 1.5, path  # truncated: none beyond 2.28


def test_head_bias_is_uniform_within_an_eighth(resnet):
  bias = resnet['params']['head']['bias']
  assert 0.12 < bias.max() <= 0.125 and -0.125 <= bias.min() < -0.12


def test_generator_weights_are_uniform_within_fan_in(generator):
  fan_in = {'project': 100, 'conv0': 9 * 16, 'to_image': 9 * 8}
  for (name, _), kernel in weights_at(generator, 'kernel').items():
    z, bias = kernel * fan_in[name] ** 0.5, generator['params'][name]['bias'] * fan_in[name] ** 0.5
    assert 0.95 < abs(z).max() <= 1 + 1e-6 and abs(z.var() - 1 / 3) < 0.04, name
    assert abs(bias).min() > 0 and abs(bias).max() <= 1 + 1e-6, name
  assert len(fan_in) == len(weights_at(generator, 'kernel'))


def test_norms_start_as_configured(resnet, generator):
  assert all((gamma == 1).all() for gamma in weights_at(resnet, 'scale').values())
  gammas = np.concatenate(list(weights_at(generator, 'scale').values()))
  assert gammas.min() >= 0 and gammas.max() <= 1 and abs(gammas.mean() - 0.5) < 0.25 and gammas.std() > 0.15
  betas = [value for path, value in weights_at(resnet, 'bias').items() if path[-2] != 'head']
  assert len(betas) == 5 and not any(beta.any() for beta in betas)
  gamma_init = lambda **fields: (
    components_of(**fields).model.backbone.gamma_init,
    components_of(**fields).generator.gamma_init,
  )
  assert gamma_init() == ('ones', 'ones') and gamma_init(bn_gamma_init='uniform') == ('uniform', 'uniform')


def test_fresh_student_has_untouched_statistics_and_nothing_else_that_init_made():
  components = components_of(**{'model.blocks': (1,), 'model.widths': (4,)})
  state = jax.eval_shape(lambda: init_student(components, CIFAR, None, 0))
  assert set(state.params) == {'backbone', 'head'} and state.extra == {}
  stats = jax.jit(lambda: init_student(components, CIFAR, None, 0).batch_stats)()
  for path in reference.leaf_paths(stats):
    assert path[-1] in ('mean', 'var')
    np.testing.assert_array_equal(reference.get(stats, path), float(path[-1] == 'var'))


# Batch norm.


def test_moments_survive_a_mean_a_million_times_the_deviation():
  x = np.float32(np.random.default_rng(0).normal(1e3, 1e-3, size=(8, 4, 4, 2)))
  _, var = jax.jit(TWO_PASSES.moments)(x)
  wide = np.float64(x).reshape(-1, 2)
  np.testing.assert_allclose(var, wide.var(0), rtol=0.05)
  assert (wide.var(0) < 1e-5).all()


# Outputs.


@pytest.mark.parametrize('stride', [1, 2])
def test_block_of_rdfcil_begins_as_its_shortcut_pads_behind_and_keeps_what_is_negative(stride):
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
  conv = partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False)
  block = Block(8, stride, conv, BatchNorm, 'rdfcil')
  y, variables = jax.jit(lambda x: block.init_with_output(jax.random.key(0), x, train=False))(x)
  assert not np.asarray(variables['params']['norm2']['scale']).any()  # so the sum is the shortcut alone
  assert np.asarray(variables['params']['norm1']['scale']).all()
  np.testing.assert_array_equal(y[..., :3], x[:, ::stride, ::stride])
  assert not np.asarray(y[..., 3:]).any() and (np.asarray(y) < 0).any()


def test_kernels_of_rdfcil_start_by_their_fan_out():
  resnet = lambda variant: ResNet((1,), (64,), variant).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  std = lambda variant: float(resnet(variant)['params']['stem']['conv']['kernel'].std())
  assert std('abd') == pytest.approx((2 / (9 * 3)) ** 0.5, rel=0.1)
  assert std('rdfcil') == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


def random_case(module, x):
  """Weights and statistics in float64 that no layer is indifferent to."""
  variables = jax.eval_shape(lambda: init(module, x.shape, jnp.float64))
  rng = np.random.default_rng(1)
  return tuple(reference.random_weights(variables[name], rng) for name in ('params', 'batch_stats'))


@pytest.mark.parametrize('train', [True, False])
def test_resnet_equals_the_restatement(train):
  with jax.enable_x64(True):
    net = ResNet((2, 1), (3, 6), dtype=jnp.float64, param_dtype=jnp.float64)
    module = Classifier(net, 5, jnp.float64)
    x = np.random.default_rng(0).normal(size=(4, 7, 6, 3))
    params, stats = random_case(module, x)
    apply = lambda x: module.apply({'params': params, 'batch_stats': stats}, x, train=train, mutable=['moments'])
    (features, logits), written = jax.jit(apply)(x)
    *expected, moments = reference.resnet_forward(params, stats, x, train)
    np.testing.assert_allclose(features, expected[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(logits, expected[1], rtol=1e-10, atol=1e-12)
    for path in reference.leaf_paths(stats):
      ours, theirs = reference.get(written['moments'], path), reference.get(moments, path)
      np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('variant', ['abd', 'rdfcil', 'bottleneck'])
def test_features_in_bfloat16_are_those_of_float32_to_its_rounding(variant):
  images = jax.random.normal(KEY, (16, *CIFAR))
  wide, narrow = (ResNet((1, 1, 1), (16, 32, 64), variant, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
  variables = wide.init(KEY, images[:1], train=False)
  expected, found = (jax.jit(partial(model.apply, train=False))(variables, images) for model in (wide, narrow))
  assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize('train', [True, False])
def test_generator_equals_the_restatement(train):
  with jax.enable_x64(True):
    module = Generator(5, (2, 3, 4), (3, 2), 3, dtype=jnp.float64, param_dtype=jnp.float64)
    z = np.random.default_rng(0).normal(size=(4, 5))
    params, stats = random_case(module, z)
    apply = lambda z: module.apply({'params': params, 'batch_stats': stats}, z, train=train)
    images = jax.jit(apply)(z)
    # Inner epsilon 0.8 included: these variances are small enough to tell.
    expected, _ = reference.generator_forward(params, z, None if train else stats, (2, 3))
    assert images.shape == (4, 8, 12, 3)
    np.testing.assert_allclose(images, expected, rtol=1e-10, atol=1e-12)
    if train:
      np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-12)
      np.testing.assert_allclose(images.std((0, 1, 2)), 1, rtol=0.01)


def test_autoencoder_equals_the_restatement():
  with jax.enable_x64(True):
    vae, x = VAE((5, 3), 7, (8, 12, 2)), np.random.default_rng(0).uniform(size=(4, 8, 12, 2))
    shape = jax.eval_shape(lambda: vae.init(KEY, jnp.zeros(x.shape), KEY))['params']
    params = reference.random_weights(shape, np.random.default_rng(1))
    outputs = jax.jit(lambda x: vae.apply({'params': params}, x, KEY))(x)
    noise = np.asarray(jax.random.normal(KEY, (4, 7), jnp.float64))
    expected = reference.vae_forward(params, x, noise, (2, 3, 3))
    chex.assert_trees_all_close(outputs, expected, rtol=1e-10, atol=1e-10)
    again, mean, _ = jax.jit(lambda x: vae.apply({'params': params}, x, jax.random.key(1)))(x)
    np.testing.assert_array_equal(mean, outputs[1])
    assert not np.allclose(again, outputs[0])


def test_pixels_are_parameters_drawn_by_number():
  module = Pixels(50, (2, 3, 1))
  index = module.draw(KEY, 500)
  assert index.shape == (500,) and index.dtype == jnp.int32
  assert set(np.asarray(index).tolist()) == set(range(50))
  images, variables = jax.jit(lambda i: module.init_with_output(KEY, i, train=True))(index)
  (pixels,) = jax.tree.leaves(variables)
  assert pixels.shape == (50, 2, 3, 1) and abs(pixels.mean()) < 0.3 and 0.8 < pixels.std() < 1.2
  np.testing.assert_array_equal(images, pixels[index])
  np.testing.assert_array_equal(module.apply(variables, jnp.array([7, 7, 3]), train=False), pixels[np.array([7, 7, 3])])
