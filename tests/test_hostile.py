"""Damaged images: the answer is an array or one line, never a traceback. And no file runs code."""

import io
import re

import numpy as np
import pytest
from conftest import REPO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from abd_jax.data import images as images_lib
from abd_jax.errors import UserError

settings.register_profile(
  'here', database=None, deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)
settings.load_profile('here')


def encoded(form, size=(8, 8), mode='L'):
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(noise).convert(mode).save(buffer, format=form)
  return buffer.getvalue()


READING = images_lib.Reading(images_lib.View((None, None, 1), (8, 8, 1), 'padded'))
FORMS = {form: encoded(form) for form in ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'PPM')} | {
  'WEBP': encoded('WEBP', mode='RGB')
}


@given(st.sampled_from(sorted(FORMS)), st.data())
def test_a_damaged_image_is_read_or_refused(tmp_path_factory, form, data):
  content = bytearray(FORMS[form])
  for _ in range(data.draw(st.integers(1, 6))):
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  content = bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
  file = tmp_path_factory.getbasetemp() / 'image'
  file.write_bytes(content)
  try:
    found = READING.read(file)
    assert (found.shape, found.dtype) == ((8, 8, 1), np.uint8)
  except UserError as error:
    assert len(str(error).splitlines()) == 1
  for look in (
    lambda: images_lib.header(file),
    lambda: images_lib.decode(content, (8, 8, 1)),
    lambda: images_lib.decode(content, (None, None, 1)),
    lambda: images_lib.plain(content, 1),
  ):
    try:
      look()
    except images_lib.BadImage as error:
      assert len(str(error).splitlines()) == 1


def bomb(side):
  """A PNG whose header says side x side."""
  import struct
  import zlib

  chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
  head = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0))
  return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes(64))) + chunk(b'IEND', b'')


@pytest.mark.parametrize('side', [25_000, 60_000])  # Pillow warns of the first and raises for the second
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
  (tmp_path / 'bomb.png').write_bytes(bomb(side))
  with pytest.raises(UserError, match='more pixels'):
    READING.read(tmp_path / 'bomb.png')
  for look in (images_lib.header, lambda file: images_lib.plain(file.read_bytes(), 1)):
    with pytest.raises(images_lib.BadImage, match='more pixels'):
      look(tmp_path / 'bomb.png')


# Code.


def test_no_file_is_unpickled():
  """A pickle runs code. The word may stand only where it is turned off."""
  lines = [
    line.strip()
    for root in ('abd_jax', 'experiments', 'configs')
    for file in (REPO / root).rglob('*.py')
    for line in file.read_text().splitlines()
    if re.search(r'pickle|marshal|shelve|np\.load\(', line)
  ]
  assert lines and all('allow_pickle=False' in line for line in lines)
