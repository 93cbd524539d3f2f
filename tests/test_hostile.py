"""What nobody meant to give us: whatever it is, the answer is a result or one line, never a traceback."""

import io
import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES, REPO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from abd_jax.analysis.audit import audit
from abd_jax.analysis.records import read_run
from abd_jax.commands import options, predict
from abd_jax.config import check, default, flatten, parse_argument, restored
from abd_jax.data import archives
from abd_jax.data import images as images_lib
from abd_jax.data.builders import tiny_imagenet
from abd_jax.errors import UserError
from abd_jax.files import read_lines, sealed
from abd_jax.protocol import tasks
from abd_jax.report.page import report
from abd_jax.run.checkpoint import read_manifest
from abd_jax.run.workdir import read_finished

settings.register_profile(
  'here', database=None, deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)
settings.load_profile('here')
few = settings(max_examples=6)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
  SCALARS,
  lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
  max_leaves=6,
)
FIELDS = sorted(flatten(default().to_dict()))


def answer(function, *arguments):
  """What it returns, or None for a UserError, which must be one line."""
  try:
    return function(*arguments)
  except UserError as error:
    assert str(error) and len(str(error).splitlines()) == 1
    return None


# Configs, splits and orders.


@given(st.sampled_from(FIELDS), st.text(max_size=12) | st.integers().map(str) | st.lists(st.integers()).map(str))
def test_the_text_of_a_field_is_a_value_of_its_type_or_refused(name, text):
  like = flatten(default().to_dict())[name]
  value = answer(options.read, name, text, like)
  assert value is None or isinstance(value, type(like))


@given(st.sampled_from(FIELDS), SCALARS | st.lists(SCALARS, max_size=4).map(tuple))
def test_a_config_with_any_value_in_a_field_is_checked_or_refused(name, value):
  def changed():
    config = default()
    with config.ignore_type():
      config.update_from_flattened_dict({name: value})
    check(config)

  answer(changed)


@given(st.text(max_size=20) | st.lists(st.sampled_from(['tasks', 'method', 'quick', '=', ',', '1', 'x'])).map(''.join))
def test_the_options_after_the_colon(text):
  found = answer(parse_argument, text)
  assert found is None or found.keys() <= {'tasks', 'method', 'trial', 'quick'}


@given(st.lists(st.sampled_from(['--', '-', '--config.', 'tasks', 'lwf.', '=', '3', '--workdir', '\n', 'é']).map(str)))
def test_a_command_line(parts):
  answer(options.parse, [''.join(parts[k : k + 3]) for k in range(0, len(parts), 3)], ('workdir', 'config'), True)


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


# What stands in a workdir.

CONFIG, RESULTS, MANIFEST = (
  json.loads((FIXTURES / 'abd' / name).read_text()) for name in ('config.json', 'results.json', 'teachers/1.json')
)


@st.composite
def spoilt(draw, record):
  """A record with one value, anywhere in it, another or gone."""
  record = json.loads(json.dumps(record))
  at = record
  while True:
    key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
      break
    at = at[key]
  if draw(st.booleans()):
    at[key] = draw(VALUES)
  else:
    del at[key]
  return record


@given(spoilt(CONFIG))
def test_a_stored_config_is_restored_or_refused(stored):
  answer(restored, stored)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A run whose files the tests write over."""
  return shutil.copytree(FIXTURES / 'abd', tmp_path_factory.mktemp('hostile') / 'run')


@pytest.fixture
def whole(folder):
  yield folder
  shutil.copytree(FIXTURES / 'abd', folder, dirs_exist_ok=True)


def read_and_report(workdir):
  return report([read_run(workdir, look=False)])


@pytest.mark.parametrize(
  'seal', [sealed, lambda record: record | {'checksum': 'none'}, lambda record: _unsealed(record)]
)
def test_results_are_reported_printed_or_refused(whole, seal):
  from abd_jax.report.tables import summary_line

  @given(spoilt(RESULTS))
  def one(record):
    (whole / 'results.json').write_text(json.dumps(seal(record)))
    answer(read_and_report, whole)
    finished = answer(read_finished, str(whole), CONFIG)
    assert finished is None or summary_line(finished)

  one()


def _unsealed(record):
  return {name: value for name, value in record.items() if name != 'checksum'}


@given(spoilt(MANIFEST), st.booleans())
def test_a_manifest_is_read_or_refused(tmp_path_factory, record, again):
  place = tmp_path_factory.mktemp('manifest') / '1'
  shutil.copytree(FIXTURES / 'abd' / 'teachers' / '1', place)
  place.with_name('1.json').write_text(json.dumps(sealed(record) if again else record))
  found = answer(read_manifest, place)
  assert found is None or again or found == MANIFEST


@pytest.mark.parametrize('name', ['config.json', 'results.json', 'teachers/0.json', 'teachers/1.json', 'metrics.jsonl',
                                  'phases.jsonl', 'reads.jsonl', 'confusion/task_2.csv',
                                  'dreams/task_1.png'])  # fmt: skip
def test_bytes_of_any_kind_in_a_file_are_told_by_report_and_audit(whole, name):
  content = (whole / name).read_bytes()

  @few
  @given(st.binary(max_size=64), st.integers(0, len(content)), st.booleans())
  def one(noise, start, instead):
    (whole / name).write_bytes(noise if instead else content[:start] + noise + content[start + len(noise) :])
    answer(read_and_report, whole)
    answer(audit, whole)

  one()


@pytest.mark.parametrize(
  'name', ['config.json', 'teachers/1.json', 'teachers/1/_METADATA', 'teachers/1/manifest.ocdbt']
)
def test_predict_tells_damage_in_one_line(whole, name, tmp_path):
  Image.new('L', (8, 8)).save(tmp_path / 'a.png')
  file, words = whole / name, [str(whole), str(tmp_path / 'a.png')]
  content = file.read_bytes()
  for spoiled in (b'', b'[]', b'{}', b'\xff\xfe', content[: len(content) // 2], content.replace(b'4', b'5', 1)):
    file.write_bytes(spoiled)
    if name != 'config.json':  # which predict does not read
      with pytest.raises(UserError) as error:
        predict.run(words)
      assert len(str(error.value).splitlines()) == 1
    answer(audit, whole)


@given(st.lists(st.binary(max_size=12) | VALUES.map(lambda value: json.dumps(value).encode()), max_size=6))
def test_a_log_gives_records_or_is_refused(tmp_path_factory, lines):
  file = tmp_path_factory.getbasetemp() / 'log.jsonl'
  file.write_bytes(b'\n'.join(lines))
  found = answer(read_lines, file)
  assert found is None or all(isinstance(record, dict) for record in found)


def test_a_record_that_never_ends_is_refused(whole):
  (whole / 'results.json').write_text('[' * 100_000)
  assert answer(read_and_report, whole) is None
  (whole / 'metrics.jsonl').write_text('[' * 100_000 + '\n{}\n')
  assert answer(audit, whole) is None


# Images.


def encoded(form, size=(8, 8), mode='L'):
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(noise).convert(mode).save(buffer, format=form)
  return buffer.getvalue()


FORMS = {form: encoded(form) for form in ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'PPM')} | {
  'WEBP': encoded('WEBP', mode='RGB')
}


@settings(max_examples=200)
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


@pytest.mark.parametrize('side', [10_000, 60_000])  # of which Pillow would warn, and raise
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
  (tmp_path / 'bomb.png').write_bytes(bomb(side))
  with pytest.raises(UserError, match='more pixels than are safe to decode'):
    predict.read_image(tmp_path / 'bomb.png', (8, 8, 1))
  for look in (images_lib.header, lambda file: images_lib.plain(file.read_bytes(), 1)):
    with pytest.raises(images_lib.BadImage, match='has more pixels than are safe to decode'):
      look(tmp_path / 'bomb.png')


# Archives.


def tar_of(path, members):
  with tarfile.open(path, 'w:gz') as archive:
    for name, content, kind in members:
      member = tarfile.TarInfo(name)
      member.size, member.type = len(content), kind
      member.linkname = '/etc/hostname'
      archive.addfile(member, io.BytesIO(content))
  return path


ESCAPES = ('../evil', '/evil', 'a/../../evil', '..\\evil', 'C:evil')


@pytest.mark.parametrize('name', ESCAPES)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
  with pytest.raises(UserError, match=re.escape(f'would write to {name!r}, outside of its own folder')):
    archives.read_members(tar_of(tmp_path / 'a.tar.gz', [(name, b'x', tarfile.REGTYPE)]), 100)
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('tiny-imagenet-200/wnids.txt', 'n1')
    archive.writestr(name, 'x')
  with pytest.raises(UserError, match='outside of its own folder'):
    tiny_imagenet._unpacked(tmp_path / 'a.zip')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.tar.gz', 'a.zip']


def test_an_archive_larger_than_its_data_set_is_refused_before_it_is_read(tmp_path, monkeypatch):
  big = tar_of(tmp_path / 'a.tar.gz', [('a', bytes(60), tarfile.REGTYPE), ('b', bytes(60), tarfile.REGTYPE)])
  with pytest.raises(UserError, match='would unpack to 120 bytes, more than the 100'):
    archives.read_members(big, 100)
  monkeypatch.setattr(tiny_imagenet, '_LARGEST', 10)
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('tiny-imagenet-200/wnids.txt', bytes(11))
  with pytest.raises(UserError, match='would unpack to 11 bytes'):
    tiny_imagenet._unpacked(tmp_path / 'a.zip')
  assert not (tmp_path / 'tiny-imagenet-200').exists()


def test_links_in_an_archive_are_left_out(tmp_path):
  members = [('a/one', b'1', tarfile.REGTYPE), ('a/link', b'', tarfile.SYMTYPE), ('a/hard', b'', tarfile.LNKTYPE)]
  assert archives.read_members(tar_of(tmp_path / 'a.tar.gz', members), 100) == {'one': b'1'}


@few
@given(st.data())
def test_a_damaged_archive_is_read_or_refused(tmp_path_factory, data):
  root = tmp_path_factory.mktemp('archive')
  tar_of(root / 'a.tar.gz', [('a', bytes(range(256)) * 8, tarfile.REGTYPE)])
  with zipfile.ZipFile(root / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('tiny-imagenet-200/wnids.txt', bytes(range(256)) * 8)
  for name, read in (
    ('a.tar.gz', lambda file: archives.read_members(file, 10_000)),
    ('a.zip', tiny_imagenet._unpacked),
  ):
    content = bytearray((root / name).read_bytes())
    for _ in range(4):
      content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (root / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    answer(read, root / name)


# Code.


def test_nothing_is_ever_unpickled():
  """Pickles run code. The word stands where it is turned off, and nowhere else."""
  found = []
  for root in ('abd_jax', 'experiments', 'configs'):
    for file in (REPO / root).rglob('*.py'):
      found += [line.strip() for line in file.read_text().splitlines() if re.search('pickle|marshal|shelve', line)]
  assert found and all('allow_pickle=False' in line for line in found)


def test_arrays_are_loaded_where_pickles_are_off():
  loads = [
    (file.name, line.strip())
    for file in Path(REPO / 'abd_jax').rglob('*.py')
    for line in file.read_text().splitlines()
    if 'np.load(' in line
  ]
  assert {name for name, _ in loads} == {'records.py', 'diagnose.py'}
  assert all('allow_pickle=False' in line for _, line in loads)
