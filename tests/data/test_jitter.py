"""abd_jax.data.jitter: against Pillow bit for bit, its draws, and its place in the augmentation."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance

from abd_jax.data import jitter as module
from abd_jax.data.augment import make_augment
from abd_jax.data.jitter import brightness, contrast, jitter

# Elsewhere compilers let Pillow itself multiply and add in one step, with another rounding.
same_as_pillow = pytest.mark.skipif(
  platform.machine() not in ('x86_64', 'AMD64'), reason="Pillow's arithmetic differs off x86-64"
)
OURS = {'Brightness': brightness, 'Contrast': contrast}
UNSCALED = dict(max_value=1.0, mean=0.0, std=1.0)


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
  np.testing.assert_array_equal(jax.jit(contrast)(images, factors), expected)


@same_as_pillow
def test_mean_grey_rounds_half_up():
  # Two levels in equal parts: the mean ends in 1/2. Factor 0 shows it.
  images = np.zeros((255, 2, 2, 3), np.uint8)
  images[:, 0] = np.arange(255, dtype=np.uint8)[:, None, None]
  images[:, 1] = images[:, 0] + 1
  ours = contrast(images, np.zeros(255, np.float32))
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


def test_factors_are_never_negative(drawn):
  jitter(jax.random.key(0), np.zeros((500, 1, 1, 3), np.uint8), brightness_width=1.5, contrast_width=2.0)
  assert min(map(np.min, drawn)) >= 0 and max(map(np.max, drawn)) > 2


def test_width_zero_changes_nothing():
  images = photos(64)
  key = jax.random.key(0)
  np.testing.assert_array_equal(jitter(key, images, brightness_width=0, contrast_width=0), images)
  # Brightness alone leaves black black; contrast alone leaves images of one colour as they are.
  holes = np.where(np.random.default_rng(0).random(images.shape) < 0.5, images, 0)
  assert (np.asarray(jitter(key, holes, contrast_width=0))[holes == 0] == 0).all()
  plain = np.broadcast_to(images[:, :1, :1, :1], images.shape)
  np.testing.assert_array_equal(jitter(key, plain, brightness_width=0), plain)


def test_same_under_x64():
  images, key = photos(64), jax.random.key(3)
  plain = jax.jit(jitter)(key, images)
  with jax.enable_x64(True):
    wide = jax.jit(jitter)(key, images)
  assert wide.dtype == jnp.uint8
  np.testing.assert_array_equal(wide, plain)


def test_split_over_devices():
  mesh = jax.make_mesh((jax.device_count(),), ('batch',), axis_types=(AxisType.Auto,))
  batch = NamedSharding(mesh, PartitionSpec('batch'))
  images = photos(8 * jax.device_count())
  key = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
  sharded = jax.jit(jitter, out_shardings=batch).lower(key, jax.device_put(images, batch)).compile()
  assert not any(name in sharded.as_text() for name in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'))
  np.testing.assert_array_equal(sharded(key, jax.device_put(images, batch)), jax.jit(jitter)(key, images))


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
