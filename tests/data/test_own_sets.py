"""TFDS data sets of one's own: which are taken, and which are refused in a line that names the record."""

import io
import shutil

import made_up
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import refused
from made_up import RNG
from PIL import Image

from abd_jax.data import records, sources
from abd_jax.data.prepare import Options

IMAGE, LABEL = tfds.features.Image(shape=(8, 8, 3)), tfds.features.ClassLabel(num_classes=3)


def png(shape=(8, 8, 3), dtype=np.uint8):
  buffer = io.BytesIO()
  Image.fromarray(RNG.integers(0, 256, shape).astype(dtype)).save(buffer, 'png')
  return buffer.getvalue()


def prepare(root, examples, image=IMAGE, label=LABEL, **more):
  return made_up.prepare(root, examples, image, label, **more)


def opened(root, **options):
  data = sources.open_dataset('mine', str(root), options=Options(**options))
  return data, data.train(range(data.num_classes)).labels, data.test(range(data.num_classes)).labels


SOUND = [(png(), k % 3) for k in range(6)]


def test_class_labels_without_names_are_named_by_their_number_and_a_validation_split_is_for_testing(tmp_path):
  prepare(tmp_path, SOUND, test_split='validation')
  data, train, test = opened(tmp_path)
  assert data.class_names == ('0', '1', '2') and data.testing.split == 'validation'
  assert train.tolist() == test.tolist() == [0, 1, 2, 0, 1, 2]


def test_whole_numbers_are_labels_and_tensors_images(tmp_path):
  pixels = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
  image, label = tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8), tfds.features.Scalar(np.int64)
  prepare(tmp_path, [(one, k % 3) for k, one in enumerate(pixels)], image, label)
  data, train, _ = opened(tmp_path)
  assert data.num_classes == 3 and train.tolist() == [0, 1, 2, 0, 1, 2]
  np.testing.assert_array_equal(data.train(range(3))[:], pixels)


def test_images_of_varying_size_are_cut_or_refused(tmp_path):
  prepare(tmp_path, [(png((8 + k, 12, 3)), k % 3) for k in range(6)], tfds.features.Image(shape=(None, None, 3)))
  with refused('varying size', '--config.data.crop=resized'):
    opened(tmp_path)
  with refused('config.data.size'):
    opened(tmp_path, crop='resized')
  data, _, _ = opened(tmp_path, crop='resized', size=8)
  assert data.train(range(3))[:].shape == (6, 8, 8, 3)


def test_a_bad_image_is_named_by_its_record(tmp_path):
  folder = prepare(tmp_path, [*SOUND, (png()[:-1], 0)])
  with refused(folder, 'split train, record 6', 'cut short'):
    opened(tmp_path)[0].train(range(3)).decode()


@pytest.mark.parametrize('label', [-1, 3])
def test_bad_label(tmp_path, label):
  folder = prepare(tmp_path, [*SOUND, (png(), label)], label=tfds.features.Scalar(np.int64))
  (tmp_path / 'other').mkdir()
  for file in prepare(tmp_path / 'other', SOUND).glob('*features*'):  # which say three classes
    shutil.copy(file, folder)
  with refused(folder, 'split train, record 6', f'label is {label}, not in 0..2'):
    opened(tmp_path)


@pytest.mark.parametrize(
  'image, label, words',
  [
    (tfds.features.Tensor(shape=(8, 8), dtype=np.uint8), LABEL, 'shape (8, 8)'),
    (tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint16), LABEL, 'uint16'),
    (IMAGE, tfds.features.Text(), 'one integer label'),
  ],
)
def test_unsuitable_features(tmp_path, image, label, words):
  one = png() if image is IMAGE else np.zeros(image.shape, image.np_dtype)
  prepare(tmp_path, [(one, '1' if isinstance(label, tfds.features.Text) else 1)], image, label)
  with refused(words):
    opened(tmp_path)


def test_labels_are_kept_beside_the_copy_until_it_changes(tmp_path, monkeypatch):
  folder = prepare(tmp_path, SOUND)
  _, train, _ = opened(tmp_path)
  scans = []
  real = records._scan
  monkeypatch.setattr(records, '_scan', lambda *args: scans.append(1) or real(*args))
  np.testing.assert_array_equal(opened(tmp_path)[1], train)
  assert not scans  # no record was touched
  saved = next(folder.glob('abd_jax_labels_train_*.npz'))
  flipped, place = bytearray(saved.read_bytes()), saved.read_bytes().index(train.tobytes())
  flipped[place] ^= 1
  for number, damaged in enumerate([b'', b'no array', flipped], 1):
    saved.write_bytes(damaged)
    np.testing.assert_array_equal(opened(tmp_path)[1], train)
    assert len(scans) == number
  shutil.rmtree(tmp_path / 'mine')
  prepare(tmp_path, [(one, 2 - label) for one, label in SOUND])
  np.testing.assert_array_equal(opened(tmp_path)[1], 2 - train)
  assert len(scans) == 5  # of train and test
