"""abd_jax.data.sources and prepare on digits: what is on disk, who may read it, and what goes wrong."""

import collections
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from PIL import Image
from sklearn.datasets import load_digits

from abd_jax.data import builders, prepare, sources
from abd_jax.protocol.tasks import Tasks

ALL = range(10)
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A folder with digits prepared in it; tests only read it."""
  path = tmp_path_factory.mktemp('data')
  sources.open_dataset('digits', str(path))
  return path


@pytest.fixture
def own_copy(data_dir, tmp_path):
  """A copy of `data_dir` to damage, and the folder of its one version."""
  shutil.copytree(data_dir, tmp_path / 'copy')
  return tmp_path / 'copy', tmp_path / 'copy/digits/1.0.0'


@pytest.fixture(scope='module')
def digits(data_dir):
  return sources.open_dataset('digits', str(data_dir))


def bag(*parts):
  """The labelled images of some sources or pairs (images, labels), as a multiset."""
  pairs = (part if isinstance(part, tuple) else part.decode() for part in parts)
  return collections.Counter(
    (int(label), image.tobytes()) for pair in pairs for image, label in zip(*pair, strict=True)
  )


def open_digits(root, **options):
  return sources.open_dataset('digits', str(root), **options)


# What is read.


def test_digits_are_scikit_learns(digits):
  assert (digits.name, digits.num_classes, digits.image_shape) == ('digits', 10, (8, 8, 1))
  assert digits.class_names == tuple('0123456789')
  for source, n in ((digits.train(ALL), 1500), (digits.test(ALL), 297)):
    images, labels = source.decode()
    assert images.shape == (n, 8, 8, 1) and images.dtype == np.uint8
    assert labels.shape == (n,) and labels.dtype == np.int32
  original = load_digits()
  assert bag(digits.train(ALL), digits.test(ALL)) == bag((original.images.astype(np.uint8), original.target))
  expected = np.bincount(original.target) * 1500 / 1797
  assert np.abs(np.bincount(digits.train(ALL).labels) - expected).max() <= 1


def test_only_the_classes_asked_for_are_decoded(digits, monkeypatch):
  images, labels = digits.train(ALL).decode()
  calls = []
  monkeypatch.setattr(Image, 'open', lambda file, real=Image.open: calls.append(1) or real(file))
  some = digits.train((7, 2))
  chosen = (labels == 7) | (labels == 2)
  np.testing.assert_array_equal(digits.train((7, 2)).labels, some.labels)
  assert not calls and len(digits.test(())[:]) == 0
  np.testing.assert_array_equal(some[:], images[chosen])  # in the order on disk
  np.testing.assert_array_equal(some.labels, labels[chosen])
  assert len(calls) == chosen.sum()


def test_a_source_behind_another_gives_both(digits):
  one, other = digits.train((1,)), digits.test((2, 3))
  both = one.take(np.arange(5, 20)).then(other)
  np.testing.assert_array_equal(both[:], np.concatenate([one[5:20], other[:]]))
  np.testing.assert_array_equal(both.labels, [*one.labels[5:20], *other.labels])
  np.testing.assert_array_equal(both.take(np.array([40, 3, 16]))[:], both[:][[40, 3, 16]])


def test_no_tensorflow_no_noise_and_two_processes_at_once(tmp_path):
  code = """
import sys
from abd_jax.data import sources
assert not {'tensorflow_datasets', 'sklearn', 'jax', 'flax'} & set(sys.modules)
dataset = sources.open_dataset('digits', sys.argv[1])
assert dataset.train(range(10))[:].sum() + dataset.test(range(10))[:].sum() == 561718
assert 'tensorflow' not in sys.modules
"""
  environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
  runs = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], **pipes) for _ in range(2)]
  for run in runs:
    assert run.communicate(timeout=60) == ('', '')
    assert run.returncode == 0
  assert sorted(path.name for path in (tmp_path / 'digits').iterdir()) == ['1.0.0']
  assert not list(tmp_path.glob('incomplete*'))


# Folds.


def test_folds_partition_the_training_split(digits, own_copy):
  root, folder = own_copy
  next(folder.glob('digits-test*')).unlink()  # it is never opened
  whole, counts, held_out = bag(digits.train(ALL)), np.bincount(digits.train(ALL).labels), []
  for fold in range(4):
    dataset = open_digits(root, folds=4, fold=fold)
    rest, part = dataset.train(ALL), dataset.test(ALL)
    assert rest.split == part.split == 'train' and bag(rest, part) == whole
    assert (len(rest), len(part)) == (1125, 375)
    assert np.abs(np.bincount(part.labels) - counts / 4).max() < 1
    held_out.append(part)
  assert bag(*held_out) == whole
  with refused(folder, 'expected 297 test images, got 0'):
    open_digits(root)
  for folds, fold in ((3, 3), (3, -1), (1, 0), (-1, 0), (0, 1)):
    with refused(f'fold={fold}', f'folds={folds}'):
      open_digits(root, folds=folds, fold=fold)


# Preparing.


def test_the_newest_prepared_copy_is_used_as_it_is(own_copy, monkeypatch):
  root, folder = own_copy
  names = ('1.10.0', '1.9.0', 'incomplete.ABC_2.0.0')  # the last is what a killed tfds leaves
  for name in names:
    shutil.copytree(folder, folder.with_name(name))
  for name in ('1.0.0', *names[1:]):
    next(folder.with_name(name).glob('digits-train*')).unlink()
  (root / 'digits').rename(root / 'mine')
  monkeypatch.setattr(builders, '__path__', [])
  dataset = sources.open_dataset('mine', str(root))
  assert dataset.name == 'mine' and len(dataset.train(ALL)[:]) == 1500


def test_without_locks_the_loser_of_a_race_uses_the_winners_copy(data_dir, tmp_path, monkeypatch):
  real, folder = os.rename, tmp_path / 'digits/1.0.0'

  def no_lock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  def rename_too_late(source, target):
    if Path(target) == folder:  # tfds renames too, inside the scratch folder
      shutil.copytree(data_dir / 'digits/1.0.0', folder)
      (folder / 'winner').touch()
    real(source, target)

  monkeypatch.setattr(fcntl, 'flock', no_lock)
  monkeypatch.setattr(prepare.os, 'rename', rename_too_late)
  assert len(open_digits(tmp_path).train(ALL)[:]) == 1500
  assert (folder / 'winner').exists() and not list(tmp_path.glob('incomplete*'))


def test_a_prepare_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
  builder = prepare.builder_class('digits')
  real = builder._generate_examples

  def generate(self, images, labels):
    yield from real(self, images[:100], labels[:100])
    raise KeyboardInterrupt

  for name in ('digits', 'cifar10'):  # killed
    (tmp_path / f'incomplete.{name}.a').mkdir()
  monkeypatch.setattr(builder, '_generate_examples', generate)
  with pytest.raises(KeyboardInterrupt):
    open_digits(tmp_path)
  assert [path.name for path in tmp_path.glob('incomplete*')] == ['incomplete.cifar10.a']
  assert not list((tmp_path / 'digits').iterdir())
  monkeypatch.undo()
  assert len(open_digits(tmp_path).train(ALL)[:]) == 1500


def _replace(file, old, new):
  def damage(folder):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))

  return damage


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda folder: os.truncate(next(folder.glob('digits-train*')), 1000), ['expected 1500 train images']),
    (lambda folder: (folder / 'dataset_info.json').unlink(), []),
    (lambda folder: os.truncate(folder / 'dataset_info.json', 30), []),
    (lambda folder: os.truncate(folder / 'features.json', 0), []),
    (_replace('dataset_info.json', '"1500"', '"1400"'), ['1500']),
    (_replace('dataset_info.json', '"array_record"', '"tfrecord"'), ['tfrecord', "file_format='array_record'"]),
    (_replace('dataset_info.json', '"name": "test"', '"name": "other"'), ["'test'"]),
    (_replace('features.json', '"label"', '"digit"'), ["'label'"]),
  ],
)
def test_a_copy_that_cannot_be_used_is_left_alone(own_copy, damage, words):
  root, folder = own_copy
  damage(folder)
  before = {file.name: file.read_bytes() for file in folder.iterdir()}
  with refused(folder, *words):
    open_digits(root)
  assert before.items() <= {file.name: file.read_bytes() for file in folder.iterdir()}.items()


def test_unknown_names_and_folders_that_cannot_be_written(own_copy):
  root, _ = own_copy
  with refused("'digts'", root, "'digits'"):
    sources.open_dataset('digts', str(root))
  assert not (root / 'digts').exists()
  (root / 'digits').rename(root / 'flowers')
  with refused("'flowers'"):
    sources.open_dataset('flower', str(root))
  (root / 'file').touch()
  with refused(root / 'file', 'cannot be prepared', 'data.prepared'):
    open_digits(root / 'file')


# The stream of tasks.


TASKS = Tasks(ORDER, (4, 3, 2))  # class 7 is never learnt


def test_stream_gives_learning_labels_and_tests_what_has_been_learnt_sorted_by_task(digits):
  stream = sources.TaskStream(digits, TASKS)
  assert stream.sizes == tuple(len(digits.train(ORDER[a:b]).labels) for a, b in ((0, 4), (4, 7), (7, 9)))
  for t, (first, last) in enumerate(((0, 4), (4, 7), (7, 9))):
    images, labels = stream.task(t).decode()
    np.testing.assert_array_equal(stream.labels(t), labels, strict=True)
    assert labels.dtype == np.int32 and set(labels) == set(range(first, last))
    assert bag((images, np.array(ORDER)[labels])) == bag(digits.train(ORDER[first:last]))
  images, labels = stream.test(1).decode()
  assert bag((images, np.array(ORDER)[labels])) == bag(digits.test(ORDER[:7]))
  task = TASKS.task_of_class[labels]
  assert (np.diff(task) >= 0).all() and set(task) == {0, 1}
  np.testing.assert_array_equal(images[task == 1], digits.test(ORDER[4:7])[:])  # the sort is stable
  np.testing.assert_array_equal(stream.test(0)[:], images[task == 0])
  np.testing.assert_array_equal(stream.test_labels(1), labels)
  assert set(stream.test_labels(2)) == set(range(9))


def test_stream_never_goes_back(digits):
  stream = sources.TaskStream(digits, TASKS)
  images, labels = stream.task(0).decode()
  alive = weakref.ref(images), weakref.ref(labels)
  del images, labels
  assert alive[0]() is None and alive[1]() is None  # the stream keeps no images
  stream.task(1), stream.task(1)
  with pytest.raises(RuntimeError, match='task 0 is over'):
    stream.task(0)
  stream.test(0)  # test images are exempt,
  assert len(stream.labels(0)) == stream.sizes[0]  # and so are labels
  stream.labels(2)  # to look ahead at labels is not to be given a task,
  for call in (stream.task, stream.test, stream.labels, stream.test_labels):
    for t in (-1, 3):
      with pytest.raises(IndexError):
        call(t)
  stream.task(1)  # and nor is a refused task


@pytest.mark.parametrize('folds', [{}, {'folds': 4, 'fold': 1}])
def test_stream_logs_which_images_were_read_and_of_which_split(data_dir, folds):
  dataset, log = open_digits(data_dir, **folds), []
  dataset.train([3])  # before there is a log
  stream = sources.TaskStream(dataset, TASKS)
  stream.on_read(log.append)
  stream.labels(0), stream.test_labels(0)  # labels are no images
  stream.task(1)
  tested = stream.test(0)
  where = {'folds': 4, 'held_out': 1} if folds else {}
  train = {'for': 'training', 'split': 'train', **where, 'classes': [2, 5, 9], 'images': stream.sizes[1]}
  test = {'for': 'testing', 'split': 'train' if folds else 'test', **where, 'classes': [0, 1, 3, 4]}
  assert log[0]['classes'] == [3] and log[1:] == [train, test | {'images': len(tested)}]
