"""abd_jax.data.augment: against NumPy, and its randomness recovered from the images alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from abd_jax.data.augment import make_augment

HEIGHT, WIDTH, PAD = 6, 5, 2
# Every pixel differs, and none is 0, so that a crop of it tells its offsets and its flip.
CODED = (1 + np.arange(HEIGHT * WIDTH, dtype=np.uint8)).reshape(HEIGHT, WIDTH, 1)
RGB = dict(max_value=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
UNSCALED = dict(max_value=1.0, mean=0.0, std=1.0)


def crop(image, flipped, top, left, pad=PAD):
  """The augmentation restated in NumPy, up to normalisation."""
  height, width, _ = image.shape
  image = image[:, ::-1] if flipped else image
  image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  return image[top : top + height, left : left + width]


def random_images(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_draws_are_uniform_and_independent():
  n, side = 20_000, 2 * PAD + 1
  draws = [(flipped, top, left) for flipped in (0, 1) for top in range(side) for left in range(side)]
  candidates = np.stack([crop(CODED, *draw) for draw in draws]).reshape(len(draws), -1)
  augment = jax.jit(make_augment(**UNSCALED, pad=PAD, flip=True).augment)
  out = np.asarray(augment(jax.random.key(0), np.broadcast_to(CODED, (n, *CODED.shape)))).reshape(n, -1)

  matches = (out[:, None] == candidates).all(-1)
  assert (matches.sum(1) == 1).all()  # Every result is exactly one flip and crop.
  counts = matches.sum(0)
  expected = n / len(draws)
  chi2 = ((counts - expected) ** 2 / expected).sum()
  assert chi2 < 100, counts  # 49 degrees of freedom: mean 49, standard deviation 10.
  # Neighbours in the batch draw independently: a pair agrees as often as chance has it.
  draw = matches.argmax(1)
  assert abs((draw[1:] == draw[:-1]).mean() - 1 / len(draws)) < 0.005


@pytest.mark.parametrize('pad, flip', [(0, True), (PAD, False), (4, True)])
def test_equals_numpy(pad, flip):
  n = 32
  images = random_images((n, HEIGHT, WIDTH, 3))
  out = np.asarray(make_augment(**RGB, pad=pad, flip=flip).augment(jax.random.key(1), images))
  assert out.dtype == np.float32 and out.shape == images.shape
  seen_flips = set()
  for image, result in zip(images, out, strict=True):
    raw = np.rint((result * RGB['std'] + RGB['mean']) * 255).astype(int)
    found = [
      (flipped, top, left)
      for flipped in range(2)
      for top in range(2 * pad + 1)
      for left in range(2 * pad + 1)
      if np.array_equal(crop(image, flipped, top, left, pad), raw)
    ]
    assert len(found) == 1
    # Padding is raw black, hence normalised too.
    expected = (crop(image, *found[0], pad) / 255 - RGB['mean']) / RGB['std']
    np.testing.assert_allclose(result, expected, atol=1e-5)
    seen_flips.add(found[0][0])
  assert seen_flips == ({0, 1} if flip else {0})


def test_normalise_and_back():
  images = random_images((4, HEIGHT, WIDTH, 3))
  tools = make_augment(**RGB, pad=0, flip=False)
  normal = tools.normalise(images)
  np.testing.assert_allclose(normal, (images / 255 - RGB['mean']) / RGB['std'], atol=1e-5)
  np.testing.assert_array_equal(tools.augment(jax.random.key(0), images), normal)
  np.testing.assert_allclose(tools.denormalise(normal), images / 255, atol=1e-6)
  out_of_range = jnp.array([-9.0, 9.0])[:, None, None, None] * jnp.ones((2, 1, 1, 3))
  np.testing.assert_array_equal(tools.denormalise(out_of_range).reshape(2, 3), [[0, 0, 0], [1, 1, 1]])


def test_grey_images_and_scalar_statistics():
  images = np.array([0, 8, 16], np.uint8).reshape(1, 3, 1, 1)
  normal = make_augment(max_value=16, mean=0.25, std=0.5, pad=0, flip=False).normalise(images)
  np.testing.assert_array_equal(normal.ravel(), [-0.5, 0.5, 1.5])


def test_key_decides():
  images = random_images((16, HEIGHT, WIDTH, 3))
  augment = make_augment(**RGB, pad=PAD, flip=True).augment
  one, same, other = (augment(jax.random.key(seed), images) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one, other)


def test_same_draws_and_dtype_under_x64():
  images = random_images((16, HEIGHT, WIDTH, 3))
  plain = make_augment(**RGB, pad=PAD, flip=True).augment(jax.random.key(3), images)
  with jax.enable_x64(True):
    wide = jax.jit(make_augment(**RGB, pad=PAD, flip=True).augment)(jax.random.key(3), images)
    double = make_augment(**RGB, pad=PAD, flip=True, dtype=jnp.float64).augment(jax.random.key(3), images)
    assert double.dtype == jnp.float64
  assert wide.dtype == jnp.float32
  np.testing.assert_allclose(wide, plain, atol=1e-6)
  np.testing.assert_allclose(double, plain, atol=1e-5)


def test_bfloat16_is_rounded_once():
  images = random_images((8, HEIGHT, WIDTH, 3))
  key = jax.random.key(0)
  half = make_augment(**RGB, pad=PAD, flip=True, dtype=jnp.bfloat16).augment(key, images)
  full = make_augment(**RGB, pad=PAD, flip=True).augment(key, images)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))


def test_sharded_batch_stays_sharded():
  mesh = jax.make_mesh((jax.device_count(),), ('batch',), axis_types=(AxisType.Auto,))
  batch = NamedSharding(mesh, PartitionSpec('batch'))
  images = random_images((8 * jax.device_count(), HEIGHT, WIDTH, 3))
  key = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
  augment = make_augment(**RGB, pad=PAD, flip=True).augment
  sharded = jax.jit(augment, out_shardings=batch)
  hlo = sharded.lower(key, jax.device_put(images, batch)).compile().as_text()
  assert not any(name in hlo for name in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'))
  np.testing.assert_array_equal(sharded(key, jax.device_put(images, batch)), jax.jit(augment)(key, images))


def test_padding_with_the_mean_is_zero_after_normalising():
  images = np.full((64, 4, 4, 1), 255, np.uint8)
  made = lambda word: make_augment(max_value=255, mean=0.5, std=0.5, pad=2, pad_value=word, flip=False).augment
  black, mean = (np.asarray(jax.jit(made(word))(jax.random.key(0), images)) for word in ('black', 'mean'))
  assert set(np.unique(black)) == {-1.0, 1.0} and set(np.unique(mean)) == {0.0, 1.0}
  np.testing.assert_array_equal(mean == 1, black == 1)  # the same crops
