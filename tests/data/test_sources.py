"""abd_jax.data.sources and the digits builder: what is on disk, who may read it, and what goes wrong."""

import collections
import errno
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from abd_jax.data import builders, prepare, sources
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks

ALL = range(10)
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A folder with digits prepared in it; read only by convention."""
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
  """The labelled images of some (images, labels), as a multiset."""
  pairs = (pair for images, labels in parts for pair in zip(images, labels, strict=True))
  return collections.Counter((int(label), image.tobytes()) for image, label in pairs)


def fail_with(words, *arguments, **options):
  with pytest.raises(UserError) as error:
    dataset = sources.open_dataset(*arguments, **options)
    dataset.test(ALL).decode()
  assert '\n' not in str(error.value)
  assert all(str(word) in str(error.value) for word in words), error.value


# What is read.


def test_digits_are_scikit_learns(digits):
  assert (digits.name, digits.num_classes, digits.image_shape) == ('digits', 10, (8, 8, 1))
  assert digits.class_names == tuple('0123456789')
  train, test = digits.train(ALL).decode(), digits.test(ALL).decode()
  for (images, labels), n in ((train, 1500), (test, 297)):
    assert images.shape == (n, 8, 8, 1) and images.dtype == np.uint8
    assert labels.shape == (n,) and labels.dtype == np.int32
  original = load_digits()
  assert bag(train, test) == bag((original.images.astype(np.uint8), original.target))
  expected = np.bincount(original.target) * 1500 / 1797
  assert np.abs(np.bincount(train[1]) - expected).max() <= 1


def test_only_the_classes_asked_for_are_decoded(digits, monkeypatch):
  images, labels = digits.train(ALL).decode()
  calls = []
  monkeypatch.setattr(Image, 'open', lambda file, real=Image.open: calls.append(1) or real(file))
  some, some_labels = digits.train((7, 2)).decode()
  chosen = (labels == 7) | (labels == 2)
  np.testing.assert_array_equal(some, images[chosen])  # In the data set's order.
  np.testing.assert_array_equal(some_labels, labels[chosen])
  assert len(calls) == chosen.sum()
  calls.clear()
  np.testing.assert_array_equal(digits.train_labels((7, 2)), some_labels)
  assert not calls
  assert len(digits.test(())[:]) == 0


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
  command = [sys.executable, '-c', code, str(tmp_path)]
  runs = [
    subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(2)
  ]
  for run in runs:
    assert run.communicate(timeout=60) == ('', '')
    assert run.returncode == 0
  assert sorted(path.name for path in (tmp_path / 'digits').iterdir()) == ['1.0.0']
  assert not list(tmp_path.glob('incomplete*'))


# Folds.


def test_folds_partition_the_training_split(digits, data_dir, monkeypatch):
  whole = bag(digits.train(ALL).decode())
  counts = np.bincount(digits.train(ALL).labels)
  held_out = []
  real = sources.open_split

  def refuse_test(builder, split, *rest):
    assert split == 'train'
    return real(builder, split, *rest)

  monkeypatch.setattr(sources, 'open_split', refuse_test)
  for fold in range(4):
    dataset = sources.open_dataset('digits', str(data_dir), folds=4, fold=fold)
    rest, part = dataset.train(ALL).decode(), dataset.test(ALL).decode()
    assert bag(rest, part) == whole
    assert len(part[1]) == 375
    assert np.abs(np.bincount(part[1]) - counts / 4).max() < 1
    np.testing.assert_array_equal(dataset.train_labels(ALL), rest[1])
    assert len(rest[1]) == 1125
    held_out.append(part)
  assert bag(*held_out) == whole


def test_folds_work_without_a_test_split_on_disk(own_copy):
  root, folder = own_copy
  for path in folder.glob('digits-test*'):
    path.unlink()
  assert len(sources.open_dataset('digits', str(root), folds=3, fold=1).test(ALL)[:]) == 500
  fail_with([folder, '0 readable test images instead of 297', 'delete'], 'digits', str(root))


@pytest.mark.parametrize('folds, fold', [(3, 3), (3, -1), (1, 0), (-1, 0), (0, 1)])
def test_no_such_fold(data_dir, folds, fold):
  fail_with([f'fold={fold}', f'folds={folds}', 'at least 2'], 'digits', str(data_dir), folds=folds, fold=fold)


# Preparing.


def test_prepared_copy_is_used_as_it_is(own_copy, monkeypatch):
  root, _ = own_copy
  (root / 'digits').rename(root / 'mine')
  monkeypatch.setattr(builders, '__path__', [])
  dataset = sources.open_dataset('mine', str(root))
  assert dataset.name == 'mine'
  assert len(dataset.train(ALL)[:]) == 1500


def test_newest_version_is_taken(own_copy):
  root, folder = own_copy
  shutil.copytree(folder, folder.with_name('1.10.0'))
  shutil.copytree(folder, folder.with_name('1.9.0'))
  shutil.copytree(folder, folder.with_name('incomplete.ABC_2.0.0'))  # What a killed tfds leaves.
  for version in ('1.0.0', '1.9.0', 'incomplete.ABC_2.0.0'):
    next((folder.with_name(version)).glob('digits-train*')).unlink()
  assert len(sources.open_dataset('digits', str(root)).train(ALL)[:]) == 1500


def test_default_data_dir(data_dir, monkeypatch):
  import tensorflow_datasets as tfds

  monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', str(data_dir))
  assert len(sources.open_dataset('digits', '').test(ALL)[:]) == 297


def test_loser_of_a_race_uses_the_winners_copy(data_dir, tmp_path, monkeypatch):
  real, folder = os.rename, tmp_path / 'digits/1.0.0'

  def rename_too_late(source, target):
    if Path(target) == folder:  # tfds renames too, inside the scratch folder.
      shutil.copytree(data_dir / 'digits/1.0.0', folder)
      (folder / 'winner').touch()
    real(source, target)

  monkeypatch.setattr(prepare.os, 'rename', rename_too_late)
  dataset = sources.open_dataset('digits', str(tmp_path))
  assert len(dataset.train(ALL)[:]) == 1500
  assert (folder / 'winner').exists()
  assert not list(tmp_path.glob('incomplete*'))


def test_interrupted_prepare_leaves_nothing(tmp_path, monkeypatch):
  builder = prepare.builder_class('digits')

  def interrupted(self, images, labels):
    yield 0, {'image': Image.fromarray(images[0]), 'label': 0}
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(builder, '_generate_examples', interrupted)
    with pytest.raises(KeyboardInterrupt):
      sources.open_dataset('digits', str(tmp_path))
  assert not list(tmp_path.glob('incomplete*')) and not list((tmp_path / 'digits').iterdir())
  assert len(sources.open_dataset('digits', str(tmp_path)).train(ALL)[:]) == 1500


def test_what_a_killed_process_left_is_removed_but_not_what_another_writes(own_copy, monkeypatch):
  monkeypatch.setattr(prepare, '_JUST_BEGUN', -1.0)
  root, names = own_copy[0], ['incomplete.digits.a', 'incomplete.digits.b', 'incomplete.cifar10.c']
  for name in names:
    (root / name).mkdir()
    (root / name / 'records').write_text('half')
  with open(root / names[1] / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    sources.open_dataset('digits', str(root))
  assert sorted(path.name for path in root.glob('incomplete*')) == sorted(names[1:])


def test_a_file_system_without_locks_takes_prepared_data(tmp_path, monkeypatch):
  def none(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', none)
  assert len(sources.open_dataset('digits', str(tmp_path)).train(ALL)[:]) == 1500
  assert not list(tmp_path.glob('incomplete*'))


def test_incomplete_prepare(tmp_path, monkeypatch):
  builder = prepare.builder_class('digits')
  real = builder._generate_examples
  monkeypatch.setattr(
    builder, '_generate_examples', lambda self, images, labels: real(self, images[:100], labels[:100])
  )
  fail_with(['100 train images were stored instead of 1500'], 'digits', str(tmp_path))
  assert not list(tmp_path.glob('incomplete*')) and not list((tmp_path / 'digits').iterdir())
  monkeypatch.undo()
  assert len(sources.open_dataset('digits', str(tmp_path)).train(ALL)) == 1500


def test_damaged_copy(own_copy):
  root, folder = own_copy
  shard = next(folder.glob('digits-train*'))
  os.truncate(shard, shard.stat().st_size // 2)
  fail_with([folder, 'train images instead of 1500', 'delete'], 'digits', str(root))


def test_a_copy_without_its_description_is_told_and_left_alone(own_copy):
  root, folder = own_copy
  (folder / 'dataset_info.json').unlink()
  before = sorted(folder.iterdir())
  fail_with([folder, 'lacks dataset_info.json', 'Copy it anew, or delete'], 'digits', str(root))
  assert sorted(folder.iterdir()) == before


def test_labels_kept_beside_it_that_are_damaged_are_read_again(own_copy):
  root, folder = own_copy
  expected = sources.open_dataset('digits', str(root)).train_labels(ALL)
  for content in (b'PK no archive', b''):
    (folder / 'abd_jax_labels_train.npz').write_bytes(content)
    np.testing.assert_array_equal(sources.open_dataset('digits', str(root)).train_labels(ALL), expected)


def test_description_that_disagrees_with_the_files(own_copy):
  root, folder = own_copy
  path = folder / 'dataset_info.json'
  path.write_text(path.read_text().replace('"1500"', '"1400"'))
  fail_with([folder, 'delete'], 'digits', str(root))


@pytest.mark.parametrize(
  'file, old, new, words',
  [
    ('dataset_info.json', '"array_record"', '"tfrecord"', ['tfrecord', "file_format='array_record'"]),
    ('dataset_info.json', '"name": "test"', '"name": "other"', ["'test'"]),
    ('features.json', '"label"', '"digit"', ["'label'"]),
    ('features.json', '"8"', '"-1"', ['varying size']),
  ],
)
def test_unsuitable_copy(own_copy, file, old, new, words):
  root, folder = own_copy
  text = (folder / file).read_text()
  assert old in text
  (folder / file).write_text(text.replace(old, new))
  json.loads((folder / file).read_text())
  fail_with([folder, *words], 'digits', str(root))


def test_unknown_name(data_dir):
  fail_with(["'digts'", data_dir, "Did you mean 'digits'?"], 'digts', str(data_dir))
  assert not (data_dir / 'digts').exists()


def test_unknown_name_may_be_near_a_prepared_one(own_copy):
  root, _ = own_copy
  (root / 'digits').rename(root / 'flowers')
  fail_with(["Did you mean 'flowers'?"], 'flower', str(root))


def test_unwritable_data_dir(tmp_path):
  (tmp_path / 'file').touch()
  fail_with([tmp_path / 'file', 'cannot write', 'data.prepared'], 'digits', str(tmp_path / 'file'))


# The stream of tasks.


@pytest.fixture(scope='module')
def tasks():
  return Tasks(ORDER, (4, 3, 2))  # Class 7 is never learnt.


def test_stream_gives_learning_labels(digits, tasks):
  stream = sources.TaskStream(digits, tasks)
  assert stream.sizes == tuple(len(digits.train_labels(ORDER[a:b])) for a, b in ((0, 4), (4, 7), (7, 9)))
  for t, (first, last) in enumerate(((0, 4), (4, 7), (7, 9))):
    images, labels = stream.task(t).decode()
    assert labels.dtype == np.int32 and len(labels) == stream.sizes[t]
    np.testing.assert_array_equal(stream.labels(t), labels, strict=True)
    assert set(labels) == set(range(first, last))
    assert bag((images, np.array(ORDER)[labels])) == bag(digits.train(ORDER[first:last]).decode())


def test_stream_tests_what_has_been_learnt_sorted_by_task(digits, tasks):
  stream = sources.TaskStream(digits, tasks)
  images, labels = stream.test(1).decode()
  assert bag((images, np.array(ORDER)[labels])) == bag(digits.test(ORDER[:7]).decode())
  task = tasks.task_of_class[labels]
  assert (np.diff(task) >= 0).all() and set(task) == {0, 1}
  np.testing.assert_array_equal(images[task == 1], digits.test(ORDER[4:7])[:])  # The sort is stable.
  np.testing.assert_array_equal(stream.test(0)[:], images[task == 0])
  assert set(stream.test(2).labels) == set(range(9))


def test_stream_never_goes_back(digits, tasks):
  stream = sources.TaskStream(digits, tasks)
  stream.task(0)
  stream.task(1)
  stream.task(1)
  with pytest.raises(RuntimeError, match='task 0 is over'):
    stream.task(0)
  stream.test(0).decode()  # The test split is exempt,
  assert len(stream.labels(0)) == stream.sizes[0]  # and so are labels.
  stream.labels(2)  # To look ahead at labels is not to be given a task.
  stream.task(1)
  stream.task(2)
  with pytest.raises(RuntimeError, match='task 1 is over'):
    stream.task(1)


@pytest.mark.parametrize('folds', [{}, {'folds': 4, 'fold': 1}])
def test_stream_tells_which_images_were_read_and_of_which_split(data_dir, tasks, folds):
  stream, told = sources.TaskStream(sources.open_dataset('digits', str(data_dir), **folds), tasks), []
  stream.on_read(told.append)
  assert stream.sizes and len(stream.labels(0)) and not told  # labels are no images
  stream.task(1)
  stream.test(0).decode()
  where = {'folds': 4, 'held_out': 1} if folds else {}
  train = {'for': 'training', 'split': 'train', **where, 'classes': [2, 5, 9], 'images': stream.sizes[1]}
  test = {'for': 'testing', 'split': 'train' if folds else 'test', **where, 'classes': [0, 1, 3, 4]}
  assert told == [train, test | {'images': len(stream.test(0)[:])}, told[1]]
  json.dumps(told)


def test_stream_keeps_no_images(digits, tasks):
  stream = sources.TaskStream(digits, tasks)
  images, labels = stream.task(0).decode()
  alive = weakref.ref(images), weakref.ref(labels)
  del images, labels
  gc.collect()
  assert alive[0]() is None and alive[1]() is None


def test_stream_refuses_what_does_not_exist(digits, tasks):
  stream = sources.TaskStream(digits, tasks)
  for t in (-1, 3):
    with pytest.raises(IndexError):
      stream.task(t)
    with pytest.raises(IndexError):
      stream.test(t).decode()
  stream.task(0)  # A refused task does not count as given.
  with pytest.raises(ValueError, match='11 classes'):
    sources.TaskStream(digits, Tasks(tuple(range(11)), (11,)))
