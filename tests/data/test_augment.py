"""abd_jax.data.augment: against NumPy and Pillow, and its randomness recovered from the images alone."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import ImageEnhance

from abd_jax.data.augment import Augment, jitter
from abd_jax.data.images import from_array, pixels

HEIGHT, WIDTH, PAD = 6, 5, 2
# Every pixel differs, and none is 0, so that a crop of it tells its offsets and its flip.
CODED = (1 + np.arange(HEIGHT * WIDTH, dtype=np.uint8)).reshape(HEIGHT, WIDTH, 1)
RGB = dict(max_value=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
UNSCALED = dict(max_value=1.0, mean=0.0, std=1.0)
FULL = dict(**RGB, pad=PAD, flip=True, brightness=0.2, contrast=0.8)


def crop(image, flipped, top, left, pad=PAD):
  """The augmentation restated in NumPy, up to normalisation."""
  height, width, _ = image.shape
  image = image[:, ::-1] if flipped else image
  image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  return image[top : top + height, left : left + width]


def random_images(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize('pad, flip', [(PAD, True), (0, True), (PAD, False)])
def test_draws_are_uniform_and_independent(pad, flip):
  n, side = 20_000, 2 * pad + 1
  draws = [(flipped, top, left) for flipped in range(1 + flip) for top in range(side) for left in range(side)]
  candidates = np.stack([crop(CODED, *draw, pad) for draw in draws]).reshape(len(draws), -1)
  augment = jax.jit(Augment(**UNSCALED, pad=pad, flip=flip).augment)
  out = np.asarray(augment(jax.random.key(0), np.broadcast_to(CODED, (n, *CODED.shape)))).reshape(n, -1)

  matches = (out[:, None] == candidates).all(-1)
  assert (matches.sum(1) == 1).all()  # Every result is exactly one flip and crop.
  counts, expected = matches.sum(0), n / len(draws)
  chi2 = ((counts - expected) ** 2 / expected).sum()
  degrees = len(draws) - 1  # of freedom: the mean; the standard deviation is sqrt(2 * degrees)
  assert chi2 < degrees + 5 * np.sqrt(2 * degrees), counts
  # Neighbours in the batch draw independently: a pair agrees as often as chance has it.
  draw = matches.argmax(1)
  assert abs((draw[1:] == draw[:-1]).mean() - 1 / len(draws)) < 0.02


def test_images_are_normalised_after_the_black_border_and_back():
  images, key = random_images((32, HEIGHT, WIDTH, 3)), jax.random.key(1)
  raw = np.asarray(Augment(**UNSCALED, pad=PAD, flip=True).augment(key, images))
  out = Augment(**RGB, pad=PAD, flip=True).augment(key, images)
  assert out.dtype == np.float32 and (raw == 0).all(-1).any()
  np.testing.assert_allclose(out, (raw / 255 - RGB['mean']) / RGB['std'], atol=1e-5)
  tools = Augment(**RGB, pad=0, flip=False)
  normal = tools.normalise(images)
  np.testing.assert_array_equal(tools.augment(key, images), normal)
  np.testing.assert_allclose(tools.denormalise(normal), images / 255, atol=1e-6)
  out_of_range = jnp.array([-9.0, 9.0])[:, None, None, None] * jnp.ones((2, 1, 1, 3))
  np.testing.assert_array_equal(tools.denormalise(out_of_range).reshape(2, 3), [[0, 0, 0], [1, 1, 1]])


def test_draws_are_the_same_in_every_precision():
  images, key = random_images((16, HEIGHT, WIDTH, 3)), jax.random.key(3)
  plain = Augment(**FULL).augment(key, images)
  half = Augment(**FULL, dtype=jnp.bfloat16).augment(key, images)
  np.testing.assert_array_equal(half, plain.astype(jnp.bfloat16), strict=True)  # rounded once
  with jax.enable_x64(True):
    single = jax.jit(Augment(**FULL).augment)(key, images)
    double = Augment(**FULL, dtype=jnp.float64).augment(key, images)
  assert single.dtype == jnp.float32 and double.dtype == jnp.float64
  np.testing.assert_allclose(single, plain, atol=1e-6)
  np.testing.assert_allclose(double, plain, atol=1e-5)


def test_sharded_batch_stays_sharded():
  mesh = jax.make_mesh((jax.device_count(),), ('batch',), axis_types=(AxisType.Auto,))
  batch = NamedSharding(mesh, PartitionSpec('batch'))
  images = random_images((8 * jax.device_count(), HEIGHT, WIDTH, 3))
  key = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
  augment = Augment(**FULL).augment
  sharded = jax.jit(augment, out_shardings=batch)
  hlo = sharded.lower(key, jax.device_put(images, batch)).compile().as_text()
  assert not any(name in hlo for name in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'))
  np.testing.assert_array_equal(sharded(key, jax.device_put(images, batch)), jax.jit(augment)(key, images))


def test_padding_with_the_mean_is_zero_after_normalising():
  images = np.full((64, 4, 4, 1), 255, np.uint8)
  made = lambda word: Augment(max_value=255, mean=0.5, std=0.5, pad=2, pad_value=word, flip=False).augment
  rounded = lambda array: np.round(np.asarray(array), 6)  # XLA may divide by multiplying
  black, mean = (rounded(jax.jit(made(word))(jax.random.key(0), images)) for word in ('black', 'mean'))
  assert set(np.unique(black)) == {-1.0, 1.0} and set(np.unique(mean)) == {0.0, 1.0}
  np.testing.assert_array_equal(mean == 1, black == 1)  # the same crops


# Colour jitter.

# Elsewhere compilers let Pillow itself multiply and add in one step, with another rounding.
same_as_pillow = pytest.mark.skipif(
  platform.machine() not in ('x86_64', 'AMD64'), reason="Pillow's arithmetic differs off x86-64"
)


def pillow(kind, images, factors):
  enhancer = getattr(ImageEnhance, kind)
  results = [enhancer(from_array(image)).enhance(float(f)) for image, f in zip(images, factors, strict=True)]
  return np.stack([pixels(result) for result in results])


def photos(n, size=8, channels=3, seed=0):
  """Noise of all contrasts and brightnesses, and images of one colour: uint8[n, size, size, channels]."""
  rng = np.random.default_rng(seed)
  low, high = np.sort(rng.integers(0, 256, (2, n, 1, 1, channels)), axis=0)
  images = rng.integers(low, high + 1, (n, size, size, channels), np.uint8)
  for i, colour in enumerate((0, 255, 128, 1, 254)):
    images[i] = colour
  return images


def factors_of(n):
  """Factors of three kinds, by turns.

  Of short decimals, products fall beside whole numbers, where one rounding decides; the others are uniform or extreme.
  """
  decimals = np.arange(20) / 10
  uniform = np.random.default_rng(1).uniform(0, 2, 20)
  near_one = np.nextafter(np.float32(1), np.float32([0, 2]))
  extreme = np.resize([*near_one, 1, 0, 0.2, 1.8, 1 - 63 / 255, 1 + 63 / 255, 3, 1e-3], 20)
  return np.resize(np.stack([decimals, uniform, extreme]).T, n).astype(np.float32)


@pytest.fixture
def jitter_by(monkeypatch):
  """jitter with given factors f32[b] and orders bool[b] in place of random ones."""

  def run(images, brightness, contrast, contrast_first):
    factors = iter((brightness, contrast))
    with monkeypatch.context() as patch:
      patch.setattr(jax.random, 'uniform', lambda *_: next(factors))
      patch.setattr(jax.random, 'bernoulli', lambda *_: contrast_first)
      return jitter(jax.random.key(0), images)

  return run


@same_as_pillow
@pytest.mark.parametrize('compiled', [False, True])  # Compiled, it may be fused.
@pytest.mark.parametrize('channels', [3, 1])
def test_jitter_equals_pillow_in_either_order(jitter_by, channels, compiled):
  n = 1200
  images, bright, contrast = photos(n, channels=channels), factors_of(n), np.roll(factors_of(n), 7)
  contrast_first = np.random.default_rng(2).random(n) < 0.5
  one = pillow('Contrast', pillow('Brightness', images, bright), contrast)
  other = pillow('Brightness', pillow('Contrast', images, contrast), bright)
  run = jax.jit(jitter_by) if compiled else jitter_by
  result = run(images, bright, contrast, contrast_first)
  np.testing.assert_array_equal(result, np.where(contrast_first[:, None, None, None], other, one), strict=True)
  assert (one != other).any((1, 2, 3)).mean() > 0.5


@same_as_pillow
def test_mean_grey_rounds_half_up(jitter_by):
  # Two levels in equal parts: the mean ends in 1/2. Factor 0 shows it.
  images = np.zeros((255, 2, 2, 3), np.uint8)
  images[:, 0] = np.arange(255, dtype=np.uint8)[:, None, None]
  images[:, 1] = images[:, 0] + 1
  one, zero = np.ones(255, np.float32), np.zeros(255, np.float32)
  ours = jitter_by(images, one, zero, np.zeros(255, bool))
  np.testing.assert_array_equal(ours[:, 0, 0, 0], np.arange(1, 256))
  np.testing.assert_array_equal(ours, pillow('Contrast', images, zero))


def test_factors_and_orders_are_uniform_and_independent(monkeypatch):
  n, bins, draws = 20_000, 50, []
  for name in ('uniform', 'bernoulli'):
    real = getattr(jax.random, name)
    monkeypatch.setattr(jax.random, name, lambda *args, real=real: draws.append(real(*args)) or draws[-1])
  jitter(jax.random.key(1), np.zeros((n, 1, 1, 3), np.uint8))
  brightness, contrast, contrast_first = map(np.asarray, draws)
  for factors, width in ((brightness, 63 / 255), (contrast, 0.8)):
    counts, _ = np.histogram(factors, bins, (1 - width, 1 + width))
    assert counts.sum() == n
    chi2 = ((counts - n / bins) ** 2 / (n / bins)).sum()
    assert chi2 < 100, counts  # 49 degrees of freedom: mean 49, standard deviation 10.
  assert abs(contrast_first.mean() - 0.5) < 0.015  # Four standard deviations.
  assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.03


def test_jitter_comes_before_the_black_border_and_leaves_flips_and_crops_as_they_were():
  """Contrast leaves an image of one colour as it is, unless it sees a border around it."""
  images, key = np.full((64, 8, 8, 3), 100, np.uint8), jax.random.key(5)
  out = Augment(**UNSCALED, pad=4, flip=True, contrast=0.8).augment(key, images)
  assert set(np.unique(out)) == {0, 100}
  images = np.where(np.random.default_rng(0).random((64, 8, 8, 3)) < 0.5, 0, 200).astype(np.uint8)
  without = Augment(**UNSCALED, pad=2, flip=True).augment(key, images)
  jittered = Augment(**UNSCALED, pad=2, flip=True, brightness=0.2).augment(key, images)
  np.testing.assert_array_equal(jittered == 0, without == 0)
  assert len(np.unique(jittered)) > 20
