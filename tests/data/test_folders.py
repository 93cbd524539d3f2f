"""Folders of photographs: what is made of them, and which are refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_up import RNG, refused, write, write_classes
from PIL import Image

from abd_jax.data import sources
from abd_jax.data.builders import image_folder
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError


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


@pytest.mark.parametrize('spilled', [False, True])
def test_png_of_the_right_size_are_the_very_same_pixels(split_folder, monkeypatch, spilled):
  """Of more than TFDS holds in memory it would write the rest with TensorFlow."""
  from tensorflow_datasets.core import shuffle

  usual = shuffle.Shuffler
  if spilled:
    monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 100)
  folder, pixels = split_folder
  data = open_folder(folder)
  assert (data.class_names, data.image_shape) == (('ant', 'bee'), (32, 32, 3))
  for split, (images, labels) in (('train', data.train((0, 1)).decode()), ('test', data.test((0, 1)).decode())):
    np.testing.assert_array_equal(images, [image for image, _ in pixels[split]])
    np.testing.assert_array_equal(labels, [label for _, label in pixels[split]])
  assert shuffle.Shuffler is usual


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
    write(folder / 'train/a' / f'x{k}.png', value=k)
    write(folder / 'train/b' / f'x{k + 20}.png', value=k + 20)
    write(folder / 'test' / 'ab'[k % 2] / f'x{k}.png')
  train = open_folder(folder).train((0, 1))
  assert values(train) == [2, 9, 10, 22, 29, 30] and train.labels.tolist() == [0, 0, 0, 1, 1, 1]


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
    keys.append(image_folder.Builder.key(folder, Options()))
    splits.append(image_folder.Builder.find(Place(folder, tmp_path, False), Options()).splits)
  assert keys[0] == keys[1] and splits[0] == splits[1]


def test_one_folder_of_classes_is_split_by_seed(folder):
  write_classes(folder, 20)
  tested = lambda data: set(values(data.test((0, 1))))
  data = open_folder(folder)
  assert np.bincount(data.test((0, 1)).labels).tolist() == [2, 2]
  assert not tested(data) & set(values(data.train((0, 1))))
  assert tested(open_folder(folder)) == tested(data) != tested(open_folder(folder, split_seed=1))
  assert len(open_folder(folder, test_fraction=0.5).test((0, 1))) == 10


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


@pytest.mark.parametrize('names', [('Train', 'Test'), ('training', 'valid'), ('TRAIN', 'Validation')])
def test_splits_are_known_by_several_names(split_folder, names):
  folder, _ = split_folder
  for old, new in zip(('train', 'test'), names, strict=True):
    (folder / old).rename(folder / 'x')
    (folder / 'x').rename(folder / new)
  if names[1] == 'Test':
    shutil.copytree(folder / 'Train', folder / 'val')  # beside a folder of tests this one is not taken
  data = open_folder(folder)
  assert data.class_names == ('ant', 'bee')
  assert (len(data.train((0, 1))), len(data.test((0, 1)))) == (6, 4)


# What is refused.


def test_a_folder_must_be_named():
  with refused('--config.data.dir'):
    sources.open_dataset('image_folder', '')


@pytest.mark.parametrize(
  ('owner', 'name', 'error', 'words'),
  [
    (Path, 'read_bytes', PermissionError(13, 'Permission denied'), ['train/bee/0.png', 'Permission denied']),
    (
      tfds.core.GeneratorBasedBuilder,
      '_download_and_prepare',
      OSError(28, 'No space left on device'),
      ['No space left', '--config.data.prepared'],
    ),
  ],
)
def test_an_error_of_the_disk_leaves_nothing(split_folder, monkeypatch, owner, name, error, words):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(owner, name, fail)
  with refused(*words):
    open_folder(split_folder[0])
  assert not [path for path in split_folder[0].with_name('photos.prepared').rglob('*') if path.is_file()]


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
    (lambda folder: [(folder / f'a/{k}.png').unlink() for k in (0, 2, 4)], ["class 'a'", 'no training images']),
    (lambda folder: (folder / 'b').rename(folder / 'train'), ["no 'test'"]),
    (lambda folder: shutil.copy(folder / 'a/0.png', os.fsencode(folder / 'a') + b'/caf\xe9.png'), ['UTF-8']),
    (lambda folder: (folder / 'a/z.png').symlink_to('nowhere'), ['a/z.png', 'No such file']),
    (lambda folder: (folder / 'a/up').symlink_to(folder), ['a/up', 'is a link to a folder that it lies in']),
    (put_into_a_folder, ["one class, 'q'"]),
    (lambda folder: shutil.copytree(folder / 'b', folder / 'a' / 'Test'), ["folder 'test' within a class"]),
    (empty_test, ['no test images']),
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
  with pytest.raises(UserError, match='no test image'):
    open_folder(folder, damaged='skip')
