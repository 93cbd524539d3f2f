"""Folders of photographs: what is made of them, found out from them, and refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from abd_jax.data import sources
from abd_jax.data.builders import image_folder
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError

RNG = np.random.default_rng(0)


def write(path, shape=(32, 32, 3), form=None, value=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
  Image.fromarray(pixels).save(path, form)
  return pixels


def open_folder(folder, *, folds=0, fold=0, **options):
  return sources.open_dataset('image_folder', str(folder), folds=folds, fold=fold, options=Options(**options))


def refused(folder, *words, **options):
  with pytest.raises(UserError) as error:
    open_folder(folder, **options)
  assert all(str(word) in str(error.value) for word in words), error.value
  prepared = folder.with_name(f'{folder.name}.prepared')
  assert not [path for path in prepared.rglob('*') if path.is_file()]  # nothing half-written is kept


@pytest.fixture
def split_folder(tmp_path):
  """A folder with train and test in PNG, and its pixels by split, in the order of their names."""
  pixels = {'train': [], 'test': []}
  for split, count in (('train', 6), ('test', 4)):
    for k in range(count):
      name = ('bee', 'ant')[k % 2]
      pixels[split].append((write(tmp_path / 'photos' / split / name / f'{k}.png'), ('ant', 'bee').index(name)))
  return tmp_path / 'photos', pixels


def test_png_of_the_right_size_are_the_very_same_pixels(split_folder, capsys):
  folder, pixels = split_folder
  data = open_folder(folder)
  assert (data.class_names, data.image_shape) == (('ant', 'bee'), (32, 32, 3))
  for split, (images, labels) in (('train', data.train((0, 1)).decode()), ('test', data.test((0, 1)).decode())):
    np.testing.assert_array_equal(images, [image for image, _ in pixels[split]])
    np.testing.assert_array_equal(labels, [label for _, label in pixels[split]])
  assert capsys.readouterr().err.startswith('image_folder: 6 train and 4 test images of 2 classes, stored 32x32 with 3')


def test_the_copy_is_used_again_until_a_file_changes(split_folder, capsys):
  folder, _ = split_folder
  first = open_folder(folder)
  capsys.readouterr()
  again = open_folder(folder)
  assert capsys.readouterr().err == '' and again.fingerprint == first.fingerprint
  write(folder / 'train/bee/2.png')  # other pixels
  changed = open_folder(folder)
  assert changed.fingerprint != first.fingerprint
  write(folder / 'train/bee/7.png')
  more = open_folder(folder)
  assert len(more.train((0, 1)).labels) == 7 and more.fingerprint not in (first.fingerprint, changed.fingerprint)


def test_names_are_ordered_as_people_count(tmp_path):
  for k in (10, 9, 2):
    write(tmp_path / 'photos/train/a' / f'x{k}.png', value=k)
    write(tmp_path / 'photos/train/b' / f'x{k + 20}.png', value=k + 20)
    write(tmp_path / 'photos/test' / 'ab'[k % 2] / f'x{k}.png')
  images, labels = open_folder(tmp_path / 'photos').train((0, 1)).decode()
  assert images[:, 0, 0, 0].tolist() == [2, 9, 10, 22, 29, 30] and labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_one_folder_of_classes_is_split_by_seed(tmp_path):
  for k in range(20):
    write(tmp_path / 'photos' / 'ab'[k % 2] / f'{k}.png', value=k)
  values = lambda data: set(data.test((0, 1))[:][:, 0, 0, 0].tolist())
  data = open_folder(tmp_path / 'photos')
  assert np.bincount(data.test((0, 1)).labels).tolist() == [2, 2]
  assert not values(data) & set(data.train((0, 1))[:][:, 0, 0, 0].tolist())
  assert values(open_folder(tmp_path / 'photos')) == values(data)
  assert values(open_folder(tmp_path / 'photos', split_seed=1)) != values(data)
  assert len(open_folder(tmp_path / 'photos', test_fraction=0.5).test((0, 1)).labels) == 10


@pytest.mark.parametrize(
  'sides, expected', [((28, 28), 28), ((40, 60), 32), ((70, 90), 64), ((150, 170), 128), ((600, 900), 224)]
)
def test_size_is_found_out(tmp_path, sides, expected):
  for k in range(8):
    write(tmp_path / 'photos' / 'ab'[k % 2] / f'{k}.jpg', (*sides, 3))
  assert open_folder(tmp_path / 'photos').image_shape == (expected, expected, 3)


def test_grey_photographs_have_one_channel_unless_asked_for(tmp_path):
  for k in range(8):
    write(tmp_path / 'photos' / 'ab'[k % 2] / f'{k}.png', (32, 32))
  assert open_folder(tmp_path / 'photos').image_shape == (32, 32, 1)
  assert open_folder(tmp_path / 'photos', channels=3).image_shape == (32, 32, 3)


def test_varying_sizes_are_kept_for_random_crops(tmp_path):
  for k in range(8):
    write(tmp_path / 'photos' / 'ab'[k % 2] / f'{k}.png', (40 + k, 50, 3))
  data = open_folder(tmp_path / 'photos', crop='resized', size=32)
  split = data.train((0, 1))
  assert data.image_shape == (32, 32, 3) and split.view.stored == (None, None, 3)
  draws = RNG.random((6, 22))
  assert split.images(np.arange(6), draws).shape == (6, 32, 32, 3)
  assert (split.images(np.arange(6), draws) != split.images(np.arange(6))).any()


@pytest.fixture
def odd_folder(tmp_path):
  """300 photographs of odd sizes: one is grey, RGBA, CMYK, rotated, cut short; and a file that is no image."""
  folder = tmp_path / 'photos'
  for k in range(300):
    write(folder / 'abc'[k % 3] / f'{k}.jpg', (*RNG.integers(20, 60, 2), 3))
  write(folder / 'a/grey.jpg', (40, 50))
  write(folder / 'a/clear.png', (40, 50, 4))
  Image.fromarray(RNG.integers(0, 256, (40, 50, 4), np.uint8), 'CMYK').save(folder / 'b/print.jpg')
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.open(folder / 'b/1.jpg').save(folder / 'b/turned.jpg', exif=exif)
  os.truncate(folder / 'c/2.jpg', (folder / 'c/2.jpg').stat().st_size * 3 // 4)
  (folder / 'c/notes.txt').write_text('no image')
  return folder


def test_odd_photographs_are_converted_and_a_damaged_one_named(odd_folder, capsys):
  refused(odd_folder, odd_folder / 'c/2.jpg', 'truncated', '--config.data.damaged=skip')
  data = open_folder(odd_folder, damaged='skip')
  assert len(data.train((0, 1, 2)).labels) + len(data.test((0, 1, 2)).labels) == 303
  skipped, line = capsys.readouterr().err.strip().split('\n')
  assert skipped.startswith(f'skipped: {odd_folder / "c/2.jpg"} cannot be decoded')
  for words in ('1 grey', '1 RGBA', '1 CMYK', '1 rotated', 'skipped: 1'):
    assert words in line


# What is refused.


def test_a_folder_must_be_named():
  with pytest.raises(UserError, match=r'--config\.data\.dir is missing'):
    sources.open_dataset('image_folder', '')


def _failing(error):
  def fail(*args, **kwargs):
    raise error

  return fail


@pytest.mark.parametrize(
  ('owner', 'name', 'error', 'words'),
  [
    (Path, 'read_bytes', PermissionError(13, 'Permission denied'), ['train/bee/0.png', 'Permission denied']),
    (Path, 'mkdir', PermissionError(13, 'Permission denied'), ['cannot write', '--config.data.prepared']),
    (
      tfds.core.GeneratorBasedBuilder,
      '_download_and_prepare',
      OSError(28, 'No space left on device'),
      ['No space left', '--config.data.prepared'],
    ),
  ],
)
def test_what_the_disk_refuses_is_told(split_folder, monkeypatch, owner, name, error, words):
  monkeypatch.setattr(owner, name, _failing(error))
  refused(split_folder[0], *words)


def test_records_wait_on_disk_and_in_order(split_folder, monkeypatch):
  """Of more than TFDS holds in memory it would write the rest with TensorFlow."""
  from tensorflow_datasets.core import shuffle

  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 100)
  usual = shuffle.Shuffler
  folder, pixels = split_folder
  images, labels = open_folder(folder).train((0, 1)).decode()
  np.testing.assert_array_equal(images, [image for image, _ in pixels['train']])
  np.testing.assert_array_equal(labels, [label for _, label in pixels['train']])
  assert shuffle.Shuffler is usual


@pytest.mark.parametrize('names', [('Train', 'Test'), ('training', 'valid'), ('TRAIN', 'Validation')])
def test_splits_are_known_in_any_letters(split_folder, names):
  folder, _ = split_folder
  shutil.copytree(folder / 'train', folder / 'val')  # beside a folder of tests this one is not taken
  shutil.rmtree(folder / 'val' if names[1] != 'Test' else folder / 'nowhere', ignore_errors=True)
  for old, new in zip(('train', 'test'), names, strict=True):
    (folder / old).rename(folder / 'x')
    (folder / 'x').rename(folder / new)
  data = open_folder(folder)
  assert data.class_names == ('ant', 'bee')
  assert (len(data.train((0, 1))), len(data.test((0, 1)))) == (6, 4)


def test_files_that_are_no_images_are_counted(tmp_path, capsys):
  for k in range(4):
    write(tmp_path / 'p' / 'ab'[k % 2] / f'{k}.png')
  for name in ('a/1.HEIC', 'a/2.heic', 'b/in/x', 'stray.png', 'a/Thumbs.db', 'a/.DS_Store'):
    (tmp_path / 'p' / name).parent.mkdir(exist_ok=True)
    (tmp_path / 'p' / name).write_text('?')
  open_folder(tmp_path / 'p')
  told = capsys.readouterr().err
  assert told.endswith('; no images: 2 .heic, 1 .png in no class, 1 without an ending\n'), told


def test_images_of_one_name_are_in_the_order_of_their_paths(tmp_path, monkeypatch):
  for name in 'ab':
    for day in range(6):
      write(tmp_path / 'p' / name / f'day{day}' / 'IMG_1.png')
  scan, keys, found = os.scandir, [], []
  for order in (1, -1):

    class Scanned(list):
      __enter__ = lambda self: self
      __exit__ = lambda self, *_: None

    monkeypatch.setattr(os, 'scandir', lambda place, order=order: Scanned(sorted(scan(place), key=str)[::order]))
    keys.append(image_folder.Builder.key(tmp_path / 'p', Options()))
    found.append(image_folder.Builder.find(Place(tmp_path / 'p', tmp_path, False), Options()).splits)
  assert keys[0] == keys[1] and found[0] == found[1]


def _empty_test(folder):
  (folder / 'train').mkdir()
  for name in 'ab':
    (folder / name).rename(folder / 'train' / name)
  (folder / 'test').mkdir()


@pytest.mark.parametrize(
  ('spoil', 'words'),
  [
    (shutil.rmtree, ['p cannot be read (No such file']),
    (lambda folder: [shutil.rmtree(folder / name) for name in 'ab'], ['no folders of images']),
    (lambda folder: [file.unlink() for file in (folder / 'a').iterdir()], ["class 'a'", 'no training images']),
    (lambda folder: [(folder / f'a/{k}.png').unlink() for k in (0, 2, 4)], ["class 'a'", 'no training images']),
    (lambda folder: (folder / 'b').rename(folder / 'train'), ["no 'test'"]),
    (lambda folder: (folder / 'a').rename(folder / 'a '), ["class 'a '", 'Rename']),
    (
      lambda folder: shutil.copy(folder / 'a/0.png', os.fsencode(folder / 'a') + b'/caf\xe9.png'),
      ['caf', 'not in UTF-8'],
    ),
    (lambda folder: (folder / 'a/z.png').symlink_to('nowhere'), ['a/z.png cannot be read (No such file']),
    (lambda folder: (folder / 'a/l.png').symlink_to('l.png'), ['a/l.png cannot be read (Too many levels']),
    (lambda folder: (folder / 'a/loop').symlink_to('.'), ['a/loop is a link to a folder that it lies in']),
    (
      lambda folder: shutil.move(folder, folder.with_name('q')) and shutil.move(folder.with_name('q'), folder / 'q'),
      ["one class, 'q', with folders in it"],
    ),
    (lambda folder: shutil.copytree(folder / 'b', folder / 'a' / 'Test'), ["has a folder 'test' within a class"]),
    (_empty_test, ['no test images']),
  ],
)
def test_names_links_and_layouts_that_will_not_do(tmp_path, spoil, words):
  for k in range(8):
    write(tmp_path / 'p' / 'ab'[k % 2] / f'{k}.png')
  spoil(tmp_path / 'p')
  refused(tmp_path / 'p', *words)


def test_superscripts_are_no_numbers_and_a_split_of_damaged_files_is_none(split_folder):
  folder, _ = split_folder
  (folder / 'train/ant/1.png').rename(folder / 'train/ant/²1.png')
  assert len(open_folder(folder).train((0, 1)).labels) == 6
  for file in (folder / 'test').rglob('*.png'):
    file.write_bytes(b'no image')
  with pytest.raises(UserError, match='none of the 4 test images'):
    open_folder(folder, damaged='skip')
