"""Damaged and odd inputs: whatever it is, the answer is a result or one line, never a traceback."""

import io
import re

import numpy as np
import pytest
from conftest import REPO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from abd_jax.analysis.audit import audit
from abd_jax.analysis.records import read_run
from abd_jax.commands import predict
from abd_jax.config import FIELDS, parse_argument
from abd_jax.data import images as images_lib
from abd_jax.errors import UserError
from abd_jax.files import read_lines
from abd_jax.protocol import tasks
from abd_jax.report.page import report

settings.register_profile(
  'here', database=None, deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)
settings.load_profile('here')
few = settings(max_examples=6)


def answer(function, *arguments):
  """What it returns, or None for a UserError, which must be one line."""
  try:
    return function(*arguments)
  except UserError as error:
    assert str(error) and len(str(error).splitlines()) == 1
    return None


# Configs, splits and orders.


@given(
  st.sampled_from(sorted(FIELDS)), st.text(max_size=12) | st.integers().map(str) | st.lists(st.integers()).map(str)
)
def test_the_text_of_a_field_is_a_value_of_its_type_or_refused(name, text):
  value = answer(FIELDS[name].read, name, text)
  assert value is None or isinstance(value, type(FIELDS[name].default))


@given(st.text(max_size=20) | st.lists(st.sampled_from(['tasks', 'method', 'quick', '=', ',', '1', 'x'])).map(''.join))
def test_the_options_after_the_colon(text):
  found = answer(parse_argument, text)
  assert found is None or found.keys() <= {'tasks', 'method', 'trial', 'quick'}


@given(st.integers(1, 30), st.integers(-2, 40), st.integers(-2, 40), st.lists(st.integers(-1, 12), max_size=5))
def test_a_split_covers_classes_once_or_is_refused(classes, count, first, sizes):
  found = answer(tasks.split, classes, count, first, sizes)
  if found is not None:
    assert min(found) > 0 and (sum(found) <= classes if sizes else sum(found) == classes and len(found) == count)


@given(st.integers(1, 12), st.data())
def test_an_order_is_a_permutation_or_refused(classes, data):
  ids = data.draw(st.permutations(range(classes)) | st.lists(st.integers(-2, 14)))
  text = data.draw(st.sampled_from([', '.join(map(str, ids)), f'numpy:{len(ids)}', '']) | st.text(max_size=9))
  found = answer(tasks.parse_class_order, text, [f'c{k}' for k in range(classes)], 0)
  assert found is None or sorted(found) == list(range(classes))


# Files of a workdir.


@pytest.mark.parametrize('name', ['config.json', 'results.json', 'teachers/1.json', 'reads.jsonl', 'dreams/task_1.png'])
def test_report_and_audit_refuse_a_damaged_file_in_one_line(small_run, name):
  run = small_run()
  content = (run / name).read_bytes()

  @few
  @given(st.binary(max_size=64), st.integers(0, len(content)), st.booleans())
  def one(noise, start, replaced):
    (run / name).write_bytes(noise if replaced else content[:start] + noise + content[start + len(noise) :])
    answer(lambda: report([read_run(run, look=False)]))
    answer(audit, run)

  one()


@given(st.lists(st.sampled_from([b'{}', b'{"task": 0}', b'[]', b'3', b'{"task"']) | st.binary(max_size=12), max_size=6))
def test_a_log_gives_records_or_is_refused(tmp_path_factory, lines):
  file = tmp_path_factory.getbasetemp() / 'log.jsonl'
  file.write_bytes(b'\n'.join(lines))
  found = answer(read_lines, file)
  assert found is None or all(isinstance(record, dict) for record in found)


# Images.


def encoded(form, size=(8, 8), mode='L'):
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(noise).convert(mode).save(buffer, format=form)
  return buffer.getvalue()


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
  found = answer(predict.read_image, file, (8, 8, 1))
  assert found is None or (found.shape, found.dtype) == ((8, 8, 1), np.uint8)
  for look in (
    lambda: images_lib.header(file),
    lambda: images_lib.check_stored(content, (8, 8, 1)),
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


@pytest.mark.parametrize('side', [10_000, 60_000])  # Pillow warns of the first and raises for the second
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
  (tmp_path / 'bomb.png').write_bytes(bomb(side))
  with pytest.raises(UserError, match='more pixels'):
    predict.read_image(tmp_path / 'bomb.png', (8, 8, 1))
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
