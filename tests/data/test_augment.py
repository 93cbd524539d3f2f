"""abd_jax.data.augment: against NumPy and Pillow, and its randomness recovered from the images alone."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance

from abd_jax.data import augment as module
from abd_jax.data.augment import adjust_brightness, adjust_contrast, jitter, make_augment

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


def test_same_draws_and_dtype_under_x64():
  images = random_images((16, HEIGHT, WIDTH, 3))
  plain = make_augment(**FULL).augment(jax.random.key(3), images)
  with jax.enable_x64(True):
    wide = jax.jit(make_augment(**FULL).augment)(jax.random.key(3), images)
    double = make_augment(**FULL, dtype=jnp.float64).augment(jax.random.key(3), images)
    assert double.dtype == jnp.float64
  assert wide.dtype == jnp.float32
  np.testing.assert_allclose(wide, plain, atol=1e-6)
  np.testing.assert_allclose(double, plain, atol=1e-5)


def test_bfloat16_is_rounded_once():
  images = random_images((8, HEIGHT, WIDTH, 3))
  key = jax.random.key(0)
  half = make_augment(**FULL, dtype=jnp.bfloat16).augment(key, images)
  full = make_augment(**FULL).augment(key, images)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))


def test_sharded_batch_stays_sharded():
  mesh = jax.make_mesh((jax.device_count(),), ('batch',), axis_types=(AxisType.Auto,))
  batch = NamedSharding(mesh, PartitionSpec('batch'))
  images = random_images((8 * jax.device_count(), HEIGHT, WIDTH, 3))
  key = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
  augment = make_augment(**FULL).augment
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


# Colour jitter.

# Elsewhere compilers let Pillow itself multiply and add in one step, with another rounding.
same_as_pillow = pytest.mark.skipif(
  platform.machine() not in ('x86_64', 'AMD64'), reason="Pillow's arithmetic differs off x86-64"
)
OURS = {'Brightness': adjust_brightness, 'Contrast': adjust_contrast}


def pillow(kind, images, factors):
  enhance = lambda image, factor: getattr(ImageEnhance, kind)(Image.fromarray(image)).enhance(float(factor))
  return np.stack([enhance(image, factor) for image, factor in zip(images, factors, strict=True)])


def photos(n, size=8, channels=3, seed=0):
  """Noise of all contrasts and brightnesses, and images of one colour: uint8[n, size, size, channels]."""
  rng = np.random.default_rng(seed)
  low, high = np.sort(rng.integers(0, 256, (2, n, 1, 1, channels)), axis=0)
  images = rng.integers(low, high + 1, (n, size, size, channels), np.uint8)
  for i, colour in enumerate((0, 255, 128, 1, 254)):
    images[i] = colour
  return images


def round_factors(n):
  """Every image meets a short decimal: products then fall beside whole numbers, where one rounding decides."""
  return np.resize(np.arange(20, dtype=np.float32) / np.float32(10), n)


def random_factors(n):
  return np.random.default_rng(1).uniform(0, 2, n).astype(np.float32)


def extreme_factors(n):
  one = np.float32(1)
  near = [np.nextafter(one, np.float32(0)), one, np.nextafter(one, np.float32(2))]
  return np.resize(np.array([*near, 0, 0.2, 1.8, 1 - 63 / 255, 1 + 63 / 255, 3, 1e-3], np.float32), n)


@same_as_pillow
@pytest.mark.parametrize('draw', [round_factors, random_factors, extreme_factors])
@pytest.mark.parametrize(
  'order', [('Brightness',), ('Contrast',), ('Brightness', 'Contrast'), ('Contrast', 'Brightness')]
)
def test_equals_pillow(order, draw):
  ours = expected = photos(600)
  factors = draw(600)

  def apply(images, factors):
    for kind in order:
      images = OURS[kind](images, factors)
    return images

  for kind in order:
    expected = pillow(kind, expected, factors)
  for run in (apply, jax.jit(apply)):  # Compiled, it may be fused.
    result = run(ours, factors)
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, expected)


@same_as_pillow
def test_grey_images():
  images, factors = photos(100, channels=1), round_factors(100)
  expected = pillow('Contrast', images[..., 0], factors)[..., None]
  np.testing.assert_array_equal(jax.jit(adjust_contrast)(images, factors), expected)


@same_as_pillow
def test_mean_grey_rounds_half_up():
  # Two levels in equal parts: the mean ends in 1/2. Factor 0 shows it.
  images = np.zeros((255, 2, 2, 3), np.uint8)
  images[:, 0] = np.arange(255, dtype=np.uint8)[:, None, None]
  images[:, 1] = images[:, 0] + 1
  ours = adjust_contrast(images, np.zeros(255, np.float32))
  np.testing.assert_array_equal(ours[:, 0, 0, 0], np.arange(1, 256))
  np.testing.assert_array_equal(ours, pillow('Contrast', images, np.zeros(255)))


@pytest.fixture
def drawn(monkeypatch):
  """What jitter draws with jax.random.uniform from now on, run without jit."""
  draws, real = [], jax.random.uniform
  monkeypatch.setattr(module.jax.random, 'uniform', lambda *a, **k: draws.append(real(*a, **k)) or draws[-1])
  return draws


@same_as_pillow
def test_jitter_is_pillow_in_either_order(drawn):
  n = 400
  images = photos(n)
  ours = np.asarray(jitter(jax.random.key(0), images))
  first, second = map(np.asarray, drawn)
  bright, contr = (first, second) if np.ptp(first) < np.ptp(second) else (second, first)
  one = pillow('Contrast', pillow('Brightness', images, bright), contr)
  other = pillow('Brightness', pillow('Contrast', images, contr), bright)
  is_one, is_other = ((ours == x).all((1, 2, 3)) for x in (one, other))
  assert (is_one | is_other).all()
  clear = is_one != is_other  # Images of one colour come out the same.
  assert clear.sum() > 300
  assert abs(is_one[clear].mean() - 0.5) < 0.1  # Four standard deviations.
  # The order is drawn apart from the factors.
  assert all(abs(np.corrcoef(is_one[clear], x[clear])[0, 1]) < 0.2 for x in (bright, contr))


def test_factors_are_uniform_and_independent(drawn):
  n, bins = 20_000, 50
  jitter(jax.random.key(1), np.zeros((n, 1, 1, 3), np.uint8))
  widths = {63 / 255, 0.8}
  for factors in drawn:
    width = min(widths, key=lambda w: abs(w - np.abs(factors - 1).max()))
    widths.remove(width)
    counts, _ = np.histogram(factors, bins, (1 - width, 1 + width))
    assert counts.sum() == n
    chi2 = ((counts - n / bins) ** 2 / (n / bins)).sum()
    assert chi2 < 100, counts  # 49 degrees of freedom: mean 49, standard deviation 10.
  assert not widths
  assert abs(np.corrcoef(*drawn)[0, 1]) < 0.03


def test_width_zero_changes_nothing():
  images = photos(64)
  key = jax.random.key(0)
  np.testing.assert_array_equal(jitter(key, images, brightness_width=0, contrast_width=0), images)
  # Brightness alone leaves black black; contrast alone leaves images of one colour as they are.
  holes = np.where(np.random.default_rng(0).random(images.shape) < 0.5, images, 0)
  assert (np.asarray(jitter(key, holes, contrast_width=0))[holes == 0] == 0).all()
  plain = np.broadcast_to(images[:, :1, :1, :1], images.shape)
  np.testing.assert_array_equal(jitter(key, plain, brightness_width=0), plain)


# In the augmentation.


@pytest.mark.parametrize(
  'widths', [dict(brightness=63 / 255), dict(contrast=0.8), dict(brightness=63 / 255, contrast=0.8)]
)
def test_jitter_comes_before_the_black_border(widths):
  """Contrast leaves an image of one colour as it is, unless it sees a border around it."""
  images = np.full((64, 8, 8, 3), 100, np.uint8)
  out = make_augment(**UNSCALED, pad=4, flip=True, **widths).augment(jax.random.key(0), images)
  for image in np.asarray(out):
    assert len(set(image.ravel()) - {0}) == 1
  inside = np.asarray(out).max((1, 2, 3))
  assert inside.min() >= 75 and inside.max() <= 124
  assert (len(set(inside)) > 20) == ('brightness' in widths)


def test_jitter_leaves_flips_and_crops_as_they_were():
  images = np.where(np.random.default_rng(0).random((64, 8, 8, 3)) < 0.5, 0, 200).astype(np.uint8)
  key = jax.random.key(5)
  without = make_augment(**UNSCALED, pad=2, flip=True).augment(key, images)
  jittered = make_augment(**UNSCALED, pad=2, flip=True, brightness=0.2).augment(key, images)
  np.testing.assert_array_equal(jittered == 0, without == 0)
  assert len(np.unique(jittered)) > 20
