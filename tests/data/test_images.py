"""abd_jax.data.images: any photograph becomes pixels, and what is wrong with one is said."""

import io

import numpy as np
import pytest
from PIL import Image

from abd_jax.data import images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image, form='png', **options):
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


def plain(image, form='png', channels=3, **options):
  found, done = images.plain(encoded(image, form, **options), channels)
  return np.asarray(found), done


def test_rgb_and_grey_stay_as_they_are():
  found, done = plain(Image.fromarray(PIXELS))
  np.testing.assert_array_equal(found, PIXELS)
  assert done == []
  found, done = plain(Image.fromarray(PIXELS[..., 0]), channels=1)
  np.testing.assert_array_equal(found, PIXELS[..., 0])
  assert done == []


def test_grey_becomes_three_equal_channels():
  found, done = plain(Image.fromarray(PIXELS[..., 0]))
  np.testing.assert_array_equal(found, np.repeat(PIXELS[..., :1], 3, -1))
  assert done == ['grey']


def test_what_is_transparent_becomes_white():
  alpha = np.full((20, 30, 1), 255, np.uint8)
  alpha[:5] = 0
  found, done = plain(Image.fromarray(np.concatenate([PIXELS, alpha], -1)))
  assert (found[:5] == 255).all() and done == ['RGBA']
  np.testing.assert_array_equal(found[5:], PIXELS[5:])


def test_palette_and_sixteen_bits():
  image = Image.fromarray(PIXELS).quantize(16)
  found, done = plain(image)
  np.testing.assert_array_equal(found, np.asarray(image.convert('RGB')))
  assert done == ['palette']
  found, done = plain(Image.fromarray(np.array([[0, 257 * 7, 65535]], np.uint16)), channels=1)
  assert found.tolist() == [[0, 7, 255]] and done == ['16-bit']


def test_exif_that_cannot_be_read_is_a_bad_image():
  buffer = io.BytesIO()
  Image.new('L', (4, 4)).save(buffer, format='png', exif=b'Exif\0\0no TIFF at all')
  with pytest.raises(images.BadImage, match='EXIF data that cannot be read'):
    images.plain(buffer.getvalue())


def test_exif_turns_the_image_upright():
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  found, done = plain(Image.fromarray(PIXELS), exif=exif)
  np.testing.assert_array_equal(found, np.rot90(PIXELS, -1))
  assert done == ['rotated']
  assert images.header(io.BytesIO(encoded(Image.fromarray(PIXELS), exif=exif))) == ((30, 20), False)


@pytest.mark.parametrize(
  'data, words',
  [
    (b'', 'no bytes'),
    (b'hello', 'no image'),
    (encoded(Image.fromarray(PIXELS))[:-1], 'cut short'),
    (encoded(Image.fromarray(PIXELS), 'jpeg')[:-1], 'truncated'),
    (encoded(Image.fromarray(PIXELS))[:200], 'cut short'),
    (encoded(Image.fromarray(PIXELS[:4])), '4x30, not 20x30'),
    (encoded(Image.fromarray(PIXELS[..., 0])), '1 channels (L), not 3'),
    (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16))), '16 or more bits'),
  ],
)
def test_what_is_stored_is_checked_without_being_decoded(data, words):
  with pytest.raises(images.BadImage) as error:
    images.check_stored(data, (20, 30, 3))
  assert words in str(error.value)


def test_sound_images_pass():
  for form in ('png', 'jpeg'):
    images.check_stored(encoded(Image.fromarray(PIXELS), form), (20, 30, 3))
    images.check_stored(encoded(Image.fromarray(PIXELS), form), (None, None, 3))


def test_random_boxes_lie_within_and_are_of_the_sizes_and_aspects_asked_for():
  for width, height in ((300, 200), (200, 300)):
    boxes = np.array([images.random_box(width, height, row) for row in RNG.random((2000, images.DRAWS))])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    share, aspect = (right - left) * (bottom - top) / (width * height), (right - left) / (bottom - top)
    assert 0.07 < share.min() < 0.12 and 0.85 < share.max() <= 8 / 9
    assert 0.72 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.38
    assert abs(np.median(left / (width - (right - left) + 1)) - 0.5) < 0.05  # places are uniform


def test_a_crop_that_never_fits_is_the_largest_centred_one():
  draws = np.full(images.DRAWS, 1 - 1e-9)  # all of the image, at 4:3
  assert images.random_box(100, 400, draws) == (0, 133.5, 100, 266.5)
  assert images.random_box(400, 100, draws) == (133.5, 0, 266.5, 100)


def test_the_centre_of_a_test_image():
  assert images.centre_box(512, 256) == (144, 16, 368, 240)  # 224 of 256 pixels
