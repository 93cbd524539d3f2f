"""abd_jax.data.images: photographs of all kinds become pixels; damaged ones are refused; crops."""

import io
import struct
import zlib

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


GREY = Image.fromarray(PIXELS[..., 0])
ALPHA = np.where(np.arange(20)[:, None, None] < 5, np.uint8(0), np.full((20, 30, 1), 255, np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned clockwise
PALETTE = Image.fromarray(PIXELS).quantize(16)


@pytest.mark.parametrize(
  ('image', 'channels', 'expected', 'done'),
  [
    (Image.fromarray(PIXELS), 3, PIXELS, []),
    (GREY, 1, PIXELS[..., 0], []),
    (GREY, 3, np.repeat(PIXELS[..., :1], 3, -1), ['grey']),
    (Image.fromarray(np.concatenate([PIXELS, ALPHA], -1)), 3, np.where(ALPHA, PIXELS, 255), ['RGBA']),
    (PALETTE, 3, np.asarray(PALETTE.convert('RGB')), ['palette']),
    (Image.fromarray(np.array([[0, 257 * 7, 65535]], np.uint16)), 1, [[0, 7, 255]], ['16-bit']),
  ],
)
def test_any_photograph_becomes_eight_bits(image, channels, expected, done):
  result, changes = images.plain(encoded(image), channels)
  np.testing.assert_array_equal(np.asarray(result), expected)
  assert changes == done


DEEP = np.array([[0, 90, 1000], [2000, 4094, 4095]])


def colours_of_16_bits(*channels):
  """A PNG of grey and transparency, or of RGB, which Pillow reads but does not write."""
  values = np.stack(channels, -1)
  chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
  head = struct.pack('>IIBBBBB', values.shape[1], values.shape[0], 16, {2: 4, 3: 2}[len(channels)], 0, 0, 0)
  rows = zlib.compress(b''.join(b'\0' + row.astype('>u2').tobytes() for row in values))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


@pytest.mark.parametrize(
  ('data', 'low', 'word'),
  [
    (encoded(Image.fromarray(DEEP.astype(np.uint16))), 0, '16-bit'),
    (encoded(Image.fromarray(DEEP.astype(np.uint16)), 'tiff'), 0, '16-bit'),
    (encoded(Image.fromarray((DEEP - 1000).astype(np.int32)), 'tiff'), -1000, '32-bit'),
    (encoded(Image.fromarray((DEEP / 8).astype(np.float32)), 'tiff'), 0, 'float'),
    (colours_of_16_bits(DEEP, DEEP[::-1], DEEP), 0, '16-bit'),
    (colours_of_16_bits(DEEP, np.full_like(DEEP, 65535)), 0, '16-bit'),
  ],
  ids=['png', 'tiff', 'int32', 'float', 'colours', 'transparency'],
)
def test_deep_images_have_all_levels_of_the_range_of_raw_values(tmp_path, data, low, word):
  (tmp_path / 'image').write_bytes(data)
  shape, grey, (low, high) = images.header(tmp_path / 'image')
  assert (shape, grey) == (DEEP.shape, word != '16-bit' or data[:4] != b'\x89PNG' or data[25] == 0)
  scale = 8 if word == 'float' else 1
  assert (low, high) == (low, low + 4095 / scale)
  expected = np.floor(DEEP * 255 / 4095 + 0.5)
  result, done = images.plain(data, 0, (low, high))
  np.testing.assert_array_equal(images.pixels(result)[..., 0], expected)
  if result.mode == 'RGB':
    np.testing.assert_array_equal(np.asarray(result)[..., 1], expected if 'RGBA' in done else expected[::-1])
  assert done[0] == word
  beyond, done = images.plain(data, 0, (low + 90 / scale, low + 1000 / scale))
  assert images.pixels(beyond)[..., 0].tolist() == [[0, 0, 255], [255] * 3] and done[:2] == [word, 'saturated']


def test_deep_images_without_a_range():
  """A format of 16 bits says it; of others it is not known. Colours are as Pillow reads them."""
  for dtype, word in ((np.int32, '32-bit'), (np.float32, 'float')):
    with pytest.raises(images.BadImage, match=f'{word} values, whose range is not known'):
      images.plain(encoded(Image.fromarray(DEEP.astype(dtype)), 'tiff'))
  result, done = images.plain(colours_of_16_bits(*[16 * DEEP] * 3))
  np.testing.assert_array_equal(np.asarray(result)[..., 0], 16 * DEEP // 256)
  assert done == []


@pytest.mark.parametrize(
  ('pixels', 'upright', 'deep'),
  [(PIXELS, PIXELS, []), (DEEP.astype(np.uint16), np.floor(DEEP * 255 / 4095 + 0.5), ['16-bit'])],
)
def test_photographs_are_turned_upright(tmp_path, pixels, upright, deep):
  (tmp_path / 'x.png').write_bytes(data := encoded(Image.fromarray(pixels), exif=TURNED))
  result, done = images.plain(data, 0, (0, 4095))
  np.testing.assert_array_equal(np.asarray(result), np.rot90(upright, -1))
  assert done == [*deep, 'rotated'] and images.header(tmp_path / 'x.png')[0] == pixels.shape[1::-1]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_of_several_pages_the_first_is_taken_and_that_is_said(dtype):
  pages = [Image.fromarray(np.full((4, 4), value, dtype)) for value in (70, 90, 110)]
  result, done = images.plain(encoded(pages[0], 'tiff', save_all=True, append_images=pages[1:]), 0, (0, 255))
  assert np.unique(np.asarray(result)).tolist() == [70] and done[0] == 'first page of several'


def colours_of_16_bits_in_planes():
  """A TIFF that Pillow confuses."""
  tags = [(256, 1, 1), (257, 1, 1), (258, 3, 134), (259, 1, 1), (262, 1, 2), (273, 3, 140), (277, 1, 3), (278, 1, 1)]
  tags += [(279, 3, 146), (284, 1, 2)]
  entries = b''.join(struct.pack('<HHII', tag, 3, count, value) for tag, count, value in tags)
  head, tail = struct.pack('<2sHIH', b'II', 42, 8, len(tags)), [*[16] * 3, *[152, 154, 156], *[2] * 3, 7, 8, 9]
  return head + entries + struct.pack('<I12H', 0, *tail)


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (colours_of_16_bits_in_planes(), 'plane by plane'),
    (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), 'tiff'), 'not finite'),
    (encoded(Image.new('L', (4, 4)), exif=b'Exif\0\0no TIFF at all'), 'EXIF data that cannot be read'),
  ],
)
def test_bad_images(data, words):
  with pytest.raises(images.BadImage, match=words):
    images.plain(data, 0, (0, 1))


@pytest.mark.parametrize('form', ['png', 'jpeg'])
def test_huge_photographs_are_reduced(monkeypatch, form):
  monkeypatch.setattr(images, '_LARGE', 500)
  halves = np.repeat(np.uint8([[0] * 16 + [200] * 16]), 24, 0)
  result, done = images.plain(encoded(Image.fromarray(halves), form))
  assert (result.size, done) == ((16, 12), ['reduced from over 0 megapixels'])
  np.testing.assert_allclose(np.asarray(result), halves[::2, ::2], atol=3)


@pytest.mark.parametrize(
  'data, words',
  [
    (b'', 'no image'),
    (encoded(Image.fromarray(PIXELS))[:-1], 'cut short'),
    (encoded(Image.fromarray(PIXELS), 'jpeg')[:-1], 'truncated'),
    (encoded(Image.fromarray(PIXELS[:4])), '4x30, not 20x30'),
    (encoded(Image.fromarray(PIXELS[..., 0])), 'mode L, not RGB'),
    (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16))), 'mode I;16, not RGB'),
  ],
)
def test_what_is_stored_is_as_its_features_say(data, words):
  with pytest.raises(images.BadImage) as error:
    images.decode(data, (20, 30, 3))
  assert words in str(error.value)
  for shape in ((20, 30, 3), (None, None, 3)):
    np.testing.assert_array_equal(images.decode(encoded(Image.fromarray(PIXELS)), shape), PIXELS)


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
