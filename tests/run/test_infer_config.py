"""Runs on a folder of photographs equal those on a prepared set, and what a config leaves open is found and kept."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_outcome
from made_up import write

from abd_jax.config import changed, default
from abd_jax.data.sources import open_configured, open_dataset
from abd_jax.errors import Paused, UserError
from abd_jax.protocol.tasks import class_order
from abd_jax.run.load import load_model
from abd_jax.run.plan import infer_config
from abd_jax.run.workdir import check_same_config, resolve


@pytest.fixture(scope='module')
def digits_as_files(digits_data, tmp_path_factory):
  """scikit-learn's digits as PNG in folders, named by their place in the prepared set."""
  folder, data = tmp_path_factory.mktemp('files') / 'photos', open_dataset('digits', '')
  for split, (images, labels) in (('train', data.train(range(10)).decode()), ('test', data.test(range(10)).decode())):
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
      write(folder / split / str(label) / f'{k}.png', (8, 8), image[..., 0])
  return folder


OPEN = {'data__name': 'image_folder', 'data__mean': (), 'data__std': (), 'method': 'base'}


def test_a_field_that_is_newer_than_the_run_counts_as_its_default(tmp_path):
  config, stored = default(), default().to_dict()
  del stored['student']['momentum']
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  check_same_config(tmp_path, config.to_dict())
  with pytest.raises(UserError, match=r'config\.student\.momentum=0\.9, not 0\.5'):
    check_same_config(tmp_path, changed(config, {'student.momentum': 0.5}).to_dict())


def test_a_run_keeps_what_stood_in_the_file_of_its_class_order(learn, tmp_path):
  order, run = tmp_path / 'order.txt', lambda name='run': learn(tmp_path / name, method='base', class_order=str(order))
  order.write_text('3 1 4 0 5 9 2 6 8 7')
  results = run()
  order.write_text('1 3 4 0 5 9 2 6 8 7')
  with pytest.raises(UserError, match="class_order='3,1,4"):
    run()
  order.unlink()
  assert run() == results
  with pytest.raises(UserError, match='cannot be read'):
    run('another')


def test_data_are_named_in_full_wherever_the_command_is_typed(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  data = resolve(changed(default(), {'data.dir': 'photos', 'data.prepared': '~/copies'})).data
  assert (data.dir, data.prepared) == (str(tmp_path / 'photos'), str(Path.home() / 'copies'))
  # The folder of an unknown user is like any other that is missing.
  nobody = resolve(changed(default(), {'data.dir': '~nobody at all/photos', 'data.name': 'image_folder'})).data
  with pytest.raises(UserError, match='~nobody at all/photos'):
    open_configured(nobody)
  assert resolve(default()).data.dir == resolve(default()).data.prepared == ''


def test_a_folder_of_png_gives_the_results_of_the_prepared_set(learn, learnt, tmp_path, digits_as_files):
  learn(tmp_path / 'files', method='base', data__name='image_folder', data__dir=str(digits_as_files))
  assert_same_outcome(tmp_path / 'files', learnt('base'))


def test_what_is_found_out_stays_with_the_run_and_its_models_and_tells_folders_apart(learn, tmp_path, digits_as_files):
  at = lambda folder: OPEN | {'data__dir': str(folder)}
  fields, moved, other = at(digits_as_files), tmp_path / 'moved', tmp_path / 'other'
  with pytest.raises(Paused):
    learn(tmp_path / 'run', **fields, max_seconds=1e-6)
  stored = json.loads((tmp_path / 'run/config.json').read_text())['data']
  first = open_dataset('digits', '').train(class_order(10, 0)[:2])[:] / 16
  np.testing.assert_allclose(stored['mean'], first.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(stored['std'], first.std((0, 1, 2)), rtol=1e-9)
  assert len(stored['fingerprint']) == 16
  # Measuring read the first task's training images, once: the next process is given what was found.
  read = [json.loads(line) for line in (tmp_path / 'run/reads.jsonl').read_text().splitlines()]
  assert [one['classes'] for one in read if one['for'] == 'training'] == [sorted(class_order(10, 0)[:2])] * 2
  results = learn(tmp_path / 'run', **fields)
  assert results['config']['data'] == stored
  before = (tmp_path / 'run/results.json').read_bytes()
  shutil.copytree(digits_as_files, moved)
  shutil.copytree(digits_as_files, other)
  shutil.move(next((other / 'train/3').iterdir()), other / 'train/4')
  for folder in (digits_as_files, moved, tmp_path / 'gone'):  # finished: read, not run
    assert learn(tmp_path / 'run', **at(folder)) == results == json.loads(before)
  with pytest.raises(UserError, match="other' are not those"):
    learn(tmp_path / 'run', **at(other))
  assert (tmp_path / 'run/results.json').read_bytes() == before
  assert load_model(tmp_path / 'run').config.data.mean == tuple(stored['mean'])


class Images:
  """Stands for a data set of one size."""

  name, view, fingerprint = 'any', None, 'f'

  def __init__(self, *shape):
    self.image_shape = shape


@pytest.mark.parametrize(
  'side, blocks, variant, generator',
  [
    (32, (5, 5, 5), 'abd', ((8, 8, 128), (128, 64))),
    (64, (5, 5, 5), 'abd', ((8, 8, 128), (128, 128, 64))),
    (128, (2, 2, 2, 2), 'imagenet', ((8, 8, 128), (128, 128, 128, 64))),
    (224, (2, 2, 2, 2), 'imagenet', ((7, 7, 64), (64,) * 5)),
    (28, (5, 5, 5), 'abd', ((7, 7, 128), (128, 64))),
    (8, (5, 5, 5), 'abd', ((4, 4, 128), (64,))),
  ],
)
def test_networks_fit_the_images(side, blocks, variant, generator):
  config = changed(default(), {'model.blocks': (), 'generator.start': ()})
  c = infer_config(config, Images(side, side, 3), (0,))
  assert (c.model.blocks, c.model.variant, (c.generator.start, c.generator.widths)) == (blocks, variant, generator)


def test_classes_and_tasks_without_images(learn, tmp_path, digits_as_files, capsys):
  folder = tmp_path / 'photos'
  for split in ('train', 'test'):
    (folder / split).mkdir(parents=True)
    for label in range(10):
      if (split, label) not in (('test', 7), ('test', 8)):
        (folder / split / str(label)).symlink_to(digits_as_files / split / str(label))
  fields = {'method': 'base', 'data__name': 'image_folder', 'data__dir': str(folder)}
  with pytest.raises(UserError, match='task 2 has no test images'):
    learn(tmp_path / 'none', **fields, class_order='0,1,7,8,2,3,4,5,6,9')
  results = learn(tmp_path / 'some', **fields, class_order='0,7,1,8,2,3,4,5,6,9')
  assert [value is None for value in results['class_accuracy']] == [False, True, False, True, False, False]
  assert '7, 8' in capsys.readouterr().err
  assert 'NaN' not in (tmp_path / 'some/results.json').read_text()


def test_images_brighter_than_white_are_refused_and_not_learnt(learn, tmp_path):
  """Else the model would be trained on one range and, when it is used, take another."""
  with pytest.raises(UserError, match=r'16, .*max_value=8'):
    learn(tmp_path / 'run', method='base', data__max_value=8.0)
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_a_run_does_not_go_on_with_another_version_of_its_data(learn, tmp_path, digits_data):
  data = tmp_path / 'data'
  shutil.copytree(Path(os.environ['TFDS_DATA_DIR']) / 'digits/1.0.0', data / 'digits/1.0.0')
  with pytest.raises(Paused):
    learn(tmp_path / 'run', method='base', data__dir=str(data), max_seconds=1e-6)
  shutil.copytree(data / 'digits/1.0.0', data / 'digits/1.0.1')
  with pytest.raises(Paused):  # the newest is taken, and is the same
    learn(tmp_path / 'run', method='base', data__dir=str(data), max_seconds=1e-6)
  features = data / 'digits/1.0.1/label.labels.txt'
  features.write_text('\n'.join(f'no {k}' for k in range(10)))
  with pytest.raises(UserError, match="data' are not those"):
    learn(tmp_path / 'run', method='base', data__dir=str(data))
  with pytest.raises(UserError, match=r'config\.data\.folds=0, not 5'):  # that comes first
    learn(tmp_path / 'run', method='base', data__dir=str(data), data__folds=5)
  shutil.rmtree(data / 'digits/1.0.1')
  assert learn(tmp_path / 'run', method='base', data__dir=str(data))['final_accuracy'] > 0
