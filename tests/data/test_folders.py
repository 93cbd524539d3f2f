"""Folders of photographs: what is made of them, and which are refused."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, snapshot
from made_up import RNG, write, write_classes
from PIL import Image

from abd_jax.data import sources
from abd_jax.data.builders import _files, image_folder
from abd_jax.data.prepare import Options, Place


def open_folder(folder, **options):
  return sources.open_dataset('image_folder', str(folder), options=Options(**options))


def values(source):
  """The value of each image, where all its pixels have one."""
  return source[:][:, 0, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'photos'


@pytest.fixture
def split_folder(folder):
  """A folder with train and test in PNG, and by split its pixels and labels, in the order of their names."""
  pixels = {'train': [], 'test': []}
  for split, count in (('train', 6), ('test', 4)):
    for k in range(count):
      name = ('bee', 'ant')[k % 2]
      pixels[split].append((write(folder / split / name / f'{k}.png'), ('ant', 'bee').index(name)))
  return folder, pixels


def test_png_of_the_right_size_are_the_very_same_pixels(split_folder, monkeypatch):
  monkeypatch.setattr(_files, '_SHARD', 4)  # of more images there is another file
  folder, pixels = split_folder
  data = open_folder(folder)
  assert (data.class_names, data.image_shape) == (('ant', 'bee'), (32, 32, 3))
  for split, (images, labels) in (('train', data.train((0, 1)).decode()), ('test', data.test((0, 1)).decode())):
    np.testing.assert_array_equal(images, [image for image, _ in pixels[split]])
    np.testing.assert_array_equal(labels, [label for _, label in pixels[split]])


def test_the_copy_is_used_again_until_a_file_changes(split_folder, capsys):
  folder, _ = split_folder
  first = open_folder(folder)
  capsys.readouterr()
  again = open_folder(folder)
  assert capsys.readouterr().err == '' and again.fingerprint == first.fingerprint
  write(folder / 'train/bee/2.png')  # other pixels
  changed = open_folder(folder)
  write(folder / 'train/bee/7.png')
  more = open_folder(folder)
  assert len(more.train((0, 1))) == 7
  assert len({first.fingerprint, changed.fingerprint, more.fingerprint}) == 3


def test_names_are_ordered_as_people_count(folder):
  for k in (10, 9, 2):
    write(folder / 'train/01' / f'x{k}.png', value=k)
    write(folder / 'train/1' / f'x{k + 20}.png', value=k + 20)
    write(folder / 'test' / ('1', '01')[k % 2] / f'x{k}.png')
  write(folder / 'train/1/x02.png', value=3)  # x2 and x02 are equal numbers: the class decides
  data = open_folder(folder)
  train = data.train((0, 1))
  assert data.class_names == ('01', '1')
  assert values(train) == [2, 3, 9, 10, 22, 29, 30] and train.labels.tolist() == [0, 1, 0, 0, 1, 1, 1]


def test_the_order_does_not_depend_on_the_file_system(folder, tmp_path, monkeypatch):
  for name in 'ab':
    for day in range(6):
      write(folder / name / f'day{day}' / 'IMG_1.png')
  scan, keys, splits = os.scandir, [], []
  for order in (1, -1):

    class Scanned(list):
      __enter__ = lambda self: self
      __exit__ = lambda self, *_: None

    monkeypatch.setattr(os, 'scandir', lambda place, order=order: Scanned(sorted(scan(place), key=str)[::order]))
    keys.append(image_folder.Builder.key(folder, Options(layout='classes')))
    splits.append(image_folder.Builder.find(Place(folder, tmp_path, False), Options(layout='classes')).splits)
  assert keys[0] == keys[1] and splits[0] == splits[1]


def test_one_folder_of_classes_is_split_by_seed(folder):
  write_classes(folder, 20)
  write(folder / 'c/1.png')  # one image of a class is for training, and one of two
  tested = lambda data: set(values(data.test((0, 1))))
  data = open_folder(folder)
  assert np.bincount(data.test(range(3)).labels).tolist() == [2, 2]
  assert not tested(data) & set(values(data.train((0, 1))))
  assert tested(open_folder(folder)) == tested(data) != tested(open_folder(folder, split_seed=1))
  shutil.copy(folder / 'c/1.png', folder / 'c/2.png')
  data = open_folder(folder, test_fraction=0.9)
  assert np.bincount(data.train(range(3)).labels).tolist() == [1, 1, 1]
  assert np.bincount(data.test(range(3)).labels).tolist() == [9, 9, 1]


@pytest.mark.parametrize(
  'sides, options, expected',
  [
    ((28, 28, 3), {}, (28, 28, 3)),
    ((40, 60, 3), {}, (32, 32, 3)),
    ((70, 90, 3), {}, (64, 64, 3)),
    ((600, 900, 3), {}, (224, 224, 3)),
    ((32, 32), {}, (32, 32, 1)),  # grey
    ((32, 32), {'channels': 3}, (32, 32, 3)),
    ((600, 900, 3), {'size': 32}, (32, 32, 3)),
  ],
)
def test_size_and_channels_fit_the_photographs(folder, sides, options, expected):
  write_classes(folder, 4, sides)
  assert open_folder(folder, **options).image_shape == expected


def test_varying_sizes_are_kept_for_random_crops(folder):
  for k in range(8):
    write(folder / 'ab'[k % 2] / f'{k}.png', (40 + k, 50, 3))
  data = open_folder(folder, crop='resized', size=32)
  train = data.train((0, 1))
  assert data.image_shape == (32, 32, 3) and train.view.stored == (None, None, 3)
  draws = RNG.random((6, 22))
  assert train.images(np.arange(6), draws).shape == (6, 32, 32, 3)
  assert (train.images(np.arange(6), draws) != train.images(np.arange(6))).any()


def test_odd_photographs_are_converted_and_a_damaged_one_named(folder, capsys):
  """300 photographs of odd sizes: one is grey, RGBA, CMYK, rotated, cut short; and a file that is no image."""
  for k in range(300):
    write(folder / 'abc'[k % 3] / f'{k}.jpg', (*RNG.integers(20, 60, 2), 3))
  write(folder / 'a/grey.jpg', (40, 50))
  write(folder / 'a/clear.png', (40, 50, 4))
  Image.fromarray(RNG.integers(0, 256, (40, 50, 4), np.uint8), 'CMYK').save(folder / 'b/print.jpg')
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.open(folder / 'b/1.jpg').save(folder / 'b/turned.jpg', exif=exif)
  os.truncate(folder / 'c/2.jpg', (folder / 'c/2.jpg').stat().st_size * 3 // 4)
  (folder / 'c/notes.HEIC').write_text('no image')
  with refused(folder / 'c/2.jpg', '--config.data.damaged=skip'):
    open_folder(folder)
  data = open_folder(folder, damaged='skip')
  assert len(data.train((0, 1, 2))) + len(data.test((0, 1, 2))) == 303
  skipped, line = capsys.readouterr().err.strip().split('\n')
  assert str(folder / 'c/2.jpg') in skipped
  for words in ('1 grey', '1 RGBA', '1 CMYK', '1 rotated', 'skipped: 1', '1 .heic'):
    assert words in line


def write_deep(folder, kind, values, dtype):
  """Images 0, 1, ... of one raw value each in classes a and b, by turns, and of the last one in the test split."""
  for k, value in enumerate(values):
    file = folder / ('test' if k >= len(values) - 2 else 'train') / 'ab'[k % 2] / f'{k}.{kind}'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, dtype)).save(file)


@pytest.mark.parametrize(
  ('kind', 'dtype', 'low', 'high'),
  [('png', np.uint16, 0, 4095), ('tif', np.int32, -1000, 1000), ('tif', np.float32, 0, 1), ('tif', np.int32, 0, 255)],
)
def test_the_range_of_deep_images_is_measured_over_the_training_split(folder, capsys, kind, dtype, low, high):
  middle = low + (high - low) / 4
  write_deep(folder, kind, [low, middle, middle, high, high + (high - low), low], dtype)
  data = open_folder(folder)
  grey = round((np.asarray(middle, dtype) - low) / (high - low) * 255)
  assert values(data.train((0, 1))) == [0, grey, grey, 255] and data.value_range == (low, high)
  line = capsys.readouterr().err
  assert f'raw values {low} to {high} became 0 to 255' in line and '1 saturated' in line
  given = open_folder(folder, value_range=(low, high + 1))
  assert given.value_range == (low, high + 1) and given.fingerprint != data.fingerprint


def test_every_format_of_photographs_that_pillow_opens_is_taken_without_a_range(folder, capsys):
  write_classes(folder, 4)
  kinds = ['jp2', 'tga', 'dib', *(['avif'] if '.avif' in Image.registered_extensions() else [])]
  for kind in kinds:
    write(folder / 'a' / f'x.{kind}', value=99)
  data = open_folder(folder)
  found = sorted(values(data.train((0, 1))) + values(data.test((0, 1))))
  assert found[:4] == [0, 1, 2, 3] and data.value_range == ()
  assert sum(abs(value - 99) < 3 for value in found) == len(kinds) == len(found) - 4
  line = capsys.readouterr().err
  assert 'passed over' not in line and 'raw values' not in line


def test_class_folders_are_ordered_as_people_count_and_older_copies_are_made_anew(folder, monkeypatch):
  for k in range(12):
    for j in range(2):
      write(folder / str(k) / f'{j}.png', value=k)
  with monkeypatch.context() as patch:  # as prepared until then
    patch.setattr(image_folder.Builder, 'VERSION', '1.0.0')
    patch.setattr(image_folder, 'in_order', sorted)
    assert open_folder(folder).class_names[:3] == ('0', '1', '10')
  data = open_folder(folder)
  assert data.class_names == tuple(map(str, range(12)))
  assert values(data.train(range(12))) == data.train(range(12)).labels.tolist()


def test_folders_of_one_name_in_two_forms_of_unicode_are_one_class(folder):
  for split, name in (('train', 'cafe\u0301'), ('test', 'caf\xe9'), ('train', 'owl'), ('test', 'owl')):
    write(folder / split / name / '1.png')
  write(folder / 'train/caf\xe9/2.png')
  data = open_folder(folder)
  assert data.class_names == ('caf\xe9', 'owl')
  assert np.bincount(data.train((0, 1)).labels).tolist() == [2, 1]


def test_what_systems_put_into_folders_is_passed_over_and_told(split_folder, capsys):
  folder, _ = split_folder
  junk = ['train/bee/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg', '__MACOSX/train/bee/._0.png', 'train/#recycle/old.png']
  junk += ['train/ant/.thumbnails/1.png', 'test/$RECYCLE.BIN/x.png', 'test/bee/@eaDir/y.png', 'lost+found/z.png']
  for name in (*junk, 'train/bee/._0.png', 'train/stray.png', 'val/bee/1.png', 'train/bee/notes.txt'):
    write(folder / name, form='png')
  data = open_folder(folder)
  assert data.class_names == ('ant', 'bee') and (len(data.training), len(data.testing)) == (6, 4)
  line = capsys.readouterr().err
  told = ['2 @eaDir/', '1 __MACOSX/', '1 #recycle/', '1 .thumbnails/', '1 $RECYCLE.BIN/', '1 lost+found/']
  told += ['1 hidden', '1 images outside the class folders', '1 val/', '1 .txt']
  assert 'passed over: ' in line and all(words in line for words in told), line


def test_the_same_bytes_twice_are_counted(split_folder, capsys):
  folder, _ = split_folder
  for source, copy in (
    ('train/bee/0.png', 'test/bee/9.png'),  # leaks
    ('train/bee/0.png', 'train/bee/8.png'),
    ('train/bee/2.png', 'train/bee/7.png'),
    ('train/bee/0.png', 'train/ant/7.png'),
  ):
    shutil.copy(folder / source, folder / copy)
  open_folder(folder)
  told = ['1 test images that are training images', '2 twice in one split', '1 twice in one split, in two classes']
  line = capsys.readouterr().err
  assert all(words in line for words in told), line


# Which folders are splits, and which are classes.


@pytest.mark.parametrize(
  'names',
  [
    ('Train', 'Test'), ('training', 'valid'), ('TRAIN', 'Validation'), ('training_set', 'test_set'),
    ('trainset', 'Eval'), ('Train-Images', 'DEV'), ('train data', 'evaluation'), ('train/train', 'test/test'),
  ],
)  # fmt: skip
def test_splits_are_known_by_several_names(split_folder, names):
  folder, _ = split_folder
  for old, new in zip(('train', 'test'), names, strict=True):
    (folder / old).rename(folder / 'x')
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / 'x').rename(folder / new)
  if names[1] == 'Test':
    shutil.copytree(folder / 'Train', folder / 'val')  # beside a folder of tests this one is not taken
  if names[1] == 'valid':
    write(folder / 'test/1.png')  # and this one is, if that has no classes
  data = open_folder(folder)
  assert data.class_names == ('ant', 'bee')
  assert (len(data.train((0, 1))), len(data.test((0, 1)))) == (6, 4)


@pytest.mark.parametrize('names', [('a_part', 'b_part'), ('a_part', 'b_part', 'c_part'), ('seg/train', 'seg/test')])
def test_splits_of_other_names_are_refused_until_the_layout_is_said(split_folder, names):
  folder, _ = split_folder
  for old, new in zip(('train', 'test', 'train'), names, strict=False):
    shutil.copytree(folder / old, folder.with_name('other') / new)
  other = folder.with_name('other')
  (other / 'docs').mkdir()
  with refused('training', 'dev', '--config.data.layout=classes', *(names[:1] if '/' not in names[0] else ())):
    open_folder(other)
  data = open_folder(other, layout=f'{names[0]}, {names[1]}')
  assert (data.class_names, len(data.training), len(data.testing)) == (('ant', 'bee'), 6, 4)


@pytest.mark.parametrize(
  ('names', 'within', 'words'),
  [
    (('train', 'bus', 'car'), '', ['unlabelled']),
    (('valid', 'invalid'), '', ['unlabelled']),
    (('train', 'test'), '', ['unlabelled']),
    (('a', 'b'), 'day{}', ['day0, day1', '--config.data.layout=a,b']),
    (('a', 'b'), 'images', []),  # each holds one folder alone: no sign of splits
  ],
)
def test_folders_that_may_be_splits_are_classes_if_that_is_said(folder, names, within, words):
  for k in range(8):
    write(folder / names[k % len(names)] / within.format(k // 4) / f'{k}.png')
  with refused('--config.data.layout=classes', *words) if words else nullcontext():
    open_folder(folder)
  data = open_folder(folder, layout='classes')
  assert data.class_names == tuple(sorted(names)) and len(data.training) + len(data.testing) == 8


def test_copies_within_the_photographs_are_refused(split_folder):
  folder, _ = split_folder
  before = snapshot(folder)
  for place in (folder, folder / 'train/bee/copies'):
    with refused('--config.data.prepared', 'within the photographs'):
      sources.open_dataset('image_folder', str(folder), prepared=str(place))
  assert snapshot(folder) == before


# What is refused.


def test_options_that_cannot_be_right(split_folder):
  folder, _ = split_folder
  with refused('--config.data.dir'):
    sources.open_dataset('image_folder', '')
  for layout in ('class', 'train', 'train,tset', 'train,test,val', ','):
    with refused(f"config.data.layout='{layout}'", "'classes'", 'train,test'):
      open_folder(folder, layout=layout)


@pytest.mark.parametrize(
  ('owner', 'name', 'error', 'words'),
  [
    (Path, 'read_bytes', PermissionError(13, 'Permission denied'), ['train/bee/0.png', 'Permission denied']),
    (os, 'rename', OSError(28, 'No space left on device'), ['No space left', '--config.data.prepared']),
  ],
)
def test_an_error_of_the_disk_leaves_nothing(split_folder, monkeypatch, owner, name, error, words):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(owner, name, fail)
  with refused(*words):
    open_folder(split_folder[0])
  left = [path for path in split_folder[0].with_name('photos.prepared').rglob('*') if path.is_file()]
  assert [path.name for path in left] == ['.image_folder.lock']


def empty_test(folder):
  (folder / 'train').mkdir()
  for name in 'ab':
    (folder / name).rename(folder / 'train' / name)
  (folder / 'test').mkdir()


def put_into_a_folder(folder):
  folder.rename(folder.with_name('q'))
  shutil.move(folder.with_name('q'), folder / 'q')


@pytest.mark.parametrize(
  ('spoil', 'words'),
  [
    (shutil.rmtree, ['No such file']),
    (lambda folder: [shutil.rmtree(folder / name) for name in 'ab'], ['no folders of images']),
    (lambda folder: [(folder / f'a/{k}.png').unlink() for k in (0, 2, 4, 6)], ["class 'a'", 'no training images']),
    (
      lambda folder: (folder / 'b').rename(folder / 'train'),
      ['train has no folders of classes', 'data.layout=classes'],
    ),
    (lambda folder: (folder / 'a/z.png').symlink_to('nowhere'), ['a/z.png', 'No such file']),
    (lambda folder: (folder / 'a/up').symlink_to(folder), ['a/up', 'is a link to a folder that it lies in']),
    (put_into_a_folder, ["one class, 'q'"]),
    (lambda folder: shutil.copytree(folder / 'b', folder / 'a' / 'Test'), ["folder 'Test' within a class"]),
    (empty_test, ['test has no folders of classes']),
    (
      lambda folder: put_into_a_folder(folder) or shutil.copytree(folder / 'q', folder / 'q/train'),
      ['Give', 'photos/q as'],
    ),
    (lambda folder: shutil.copytree(folder, folder / 'train'), ['none for the test split', 'photos/train as --config']),
    (
      lambda folder: [empty_test(folder), write(folder / 'test/A/1.png'), write(folder / 'test/b/1.png')],
      ["class 'A'", "'a' has some"],
    ),
  ],
)
def test_folders_that_cannot_be_used(folder, spoil, words):
  write_classes(folder, 8)
  spoil(folder)
  with refused(*words):
    open_folder(folder)


def test_a_split_of_damaged_files_alone(split_folder):
  folder, _ = split_folder
  for file in (folder / 'test').rglob('*.png'):
    file.write_bytes(b'no image')
  with refused('no test image'):
    open_folder(folder, damaged='skip')
