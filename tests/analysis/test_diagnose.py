"""abd_jax.analysis.diagnose on tiny runs: complete, half finished, without dreams, of one task. And its real images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from abd_jax.analysis import diagnose as lib
from abd_jax.analysis.diagnose import diagnose, examine, read_images
from abd_jax.analysis.dreams import PAIRS, SHOWN
from abd_jax.config import default
from abd_jax.data.sources import open_configured
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import class_order
from abd_jax.run.load import load_model


def test_a_run_that_dreams(diagnosed):
  results = json.loads((diagnosed / 'results.json').read_text())
  found, pictures = diagnose(diagnosed)
  assert [entry['task'] for entry in found['distances']] == [1, 2]
  assert [entry['task'] for entry in found['dreams']] == [0, 1]
  layers = found['distances'][0]['layers']
  assert list(layers) == ['stem', 'stage0_block0', 'stage1_block0', 'stage2_block0']
  assert layers['stem']['mid']['dreamed'] > 0 and layers['stem']['features'] == 4
  counts = np.cumsum(results['test_images'])
  assert [entry['images'] for entry in found['distances']] == [
    {'old': counts[t], 'new': results['test_images'][t + 1], 'dreamed': 64} for t in (0, 1)
  ]
  assert found['probe']['head'] == {'all': results['final_accuracy'], 'by_task': results['accuracy_matrix'][-1]}
  assert found['kept_images'] == found['kept_bytes']['images'] == 0 and found['kept_bytes']['generator'] > 0
  assert len(found['plane']['dreamed']) == 16  # every fourth of 64
  for entry in found['dreams']:
    assert sum(entry['histogram']) == 64 and len(entry['histogram']) == 2 * (entry['task'] + 1)
    for near in (entry, entry['features']):
      assert 0 <= near['suspicious'] <= 1 and 0 <= near['closer'] <= 1 and near['nearest_unseen'][2] > 0
    assert len(entry['pair_distances']) == PAIRS
    assert entry['judge_accuracy'] > 0.9
  assert pictures['real_5'].shape == (SHOWN, 8, 8, 1) and pictures['real_5'].dtype == np.uint8
  shown = sum(len(pictures[f'dreamed_1_{label}']) for label in range(4))
  assert 0 < shown <= 4 * SHOWN and 'dreamed_0_2' not in pictures


def test_it_is_kept_until_the_models_change(diagnosed, tmp_path, monkeypatch):
  shutil.copytree(diagnosed, tmp_path / 'run')
  found, _ = diagnose(tmp_path / 'run')
  monkeypatch.setattr(lib, 'examine', lambda *_: ({'again': True}, {}))
  assert diagnose(tmp_path / 'run')[0] == found
  (tmp_path / 'run' / 'diagnosis' / 'images.npz').write_bytes(b'')  # damaged: made anew
  assert diagnose(tmp_path / 'run')[0]['again']
  manifest = tmp_path / 'run' / 'teachers' / '0.json'
  other = json.loads(manifest.read_text())
  other['files'] = dict.fromkeys(other['files'], 'of another run')
  manifest.write_text(json.dumps(other))
  with pytest.raises(UserError, match='is damaged'):
    diagnose(tmp_path / 'run')


def test_a_run_without_dreams_has_distances_to_new_classes_only_and_says_what_it_keeps(learn, few_dreams, tmp_path):
  learn(tmp_path, method='rehearsal', memory__size=30)
  found, _ = diagnose(tmp_path)
  final = found['distances'][0]['layers']['stage2_block0']
  assert final['mid']['dreamed'] is None and final['mid']['new'] > 0 and found['dreams'] == []
  assert 'dreamed' not in found['plane'] and 'generator' not in found['kept_bytes']
  assert found['kept_images'] == 30 and found['kept_bytes']['images'] == 30 * (8 * 8 + 4)


def test_one_class_leaves_nothing_to_tell_apart(learn, few_dreams, tmp_path):
  learn(tmp_path, task_sizes=(1, 1, 2))
  found, _ = diagnose(tmp_path)
  assert [one['agreement'] is None for one in found['dreams']] == [True, False]
  assert [one['judge_accuracy'] is None for one in found['dreams']] == [True, False]
  assert found['dreams'][0]['chance'] == 1 and found['probe']['probe']['all'] > 0
  first = load_model(tmp_path, 0)  # as a run under way has it
  alone, _ = examine([first], [None], read_images(tmp_path, 0))
  assert alone['probe'] == {'head': {'all': 1.0, 'by_task': [1.0]}, 'probe': {'all': None, 'by_task': [None]}}


@pytest.mark.parametrize('dreams', [True, False])
def test_few_test_images_give_what_they_can(diagnosed, dreams):
  models, real = [load_model(diagnosed, task) for task in range(3)], read_images(diagnosed, 2)
  few = [np.flatnonzero(real.test_labels == label)[0] for label in (0, 4, 5)]  # of the second task none
  real = real._replace(test=real.test[few], test_labels=real.test_labels[few])
  of_model = [model.dream_normalised(64) if dreams and model.can_dream else None for model in models]
  found, _ = examine(models, of_model, real)
  json.dumps(found, allow_nan=False)
  assert [entry['images'] for entry in found['distances']] == [
    {'old': 1, 'new': 0} | ({'dreamed': 64} if dreams else {}),
    {'old': 1, 'new': 2} | ({'dreamed': 64} if dreams else {}),
  ]
  for entry in found['distances']:
    nothing = {'new': None, 'dreamed': None}
    assert entry['layers']['stem'] == {'mid': nothing, 'mmd2': nothing, 'dead': None, 'features': 4}
  assert set(found['cka'][0]['layers'].values()) == {None} and (found['plane'] is None) == (not dreams)
  assert found['probe']['probe']['by_task'][1] is None and found['probe']['head']['by_task'][1] is None


@pytest.mark.slow
def test_an_independent_classifier_sees_in_digits_dreams_what_the_teacher_sees(tmp_path, digits_data):
  from abd_jax.train import train_and_evaluate
  from configs.digits import get_config

  config = get_config('tasks=3,trial=0').unlock()
  config.update_from_flattened_dict({'task_sizes': (2, 2, 2), 'devices': 1})
  train_and_evaluate(config.lock(), str(tmp_path / 'run'))
  for entry in diagnose(tmp_path / 'run')[0]['dreams']:
    chance, noise = entry['chance'], (entry['chance'] / entry['dreams']) ** 0.5
    # A thousand dreams each: 1.4 times chance is far outside of what chance gives.
    assert entry['agreement'] > max(1.4 * chance, chance + 5 * noise), entry


@pytest.fixture
def photographs(tmp_path):
  """Of a run on a folder of photographs of varying size, in two tasks: 40 to train on and 12 to test with.

  All pixels of a photograph are 60 times its class.
  """
  for split, count in (('train', 10), ('test', 3)):
    for label, name in enumerate(('ant', 'bee', 'cat', 'dog')):
      for k in range(count):
        file = tmp_path / 'photos' / split / name / f'{k}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20 + k, 24, 3), 60 * label, np.uint8)).save(file)
  config = default().unlock()
  fields = {'name': 'image_folder', 'dir': str(tmp_path / 'photos'), 'prepared': str(tmp_path / 'copies'),
            'crop': 'resized', 'size': 8, 'device_mib': 1}  # fmt: skip
  config.update_from_flattened_dict({'tasks': 2} | {f'data.{name}': value for name, value in fields.items()})
  open_configured(config.data)  # as the run did
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config.to_dict()))
  return tmp_path / 'run'


def test_photographs_are_cut_and_labelled_as_the_run_had_them(photographs):
  real, order = read_images(photographs, 1), class_order(4, 0)
  assert real.train.shape == (40, 8, 8, 3) and real.test.shape == (12, 8, 8, 3)
  for images, labels in ((real.train, real.train_labels), (real.test, real.test_labels)):
    assert (images == 60 * np.asarray(order)[labels][:, None, None, None]).all()
  first = read_images(photographs, 0)
  assert set(first.train_labels) == {0, 1} and len(first.train) == 20 and len(first.test) == 6


def test_of_many_large_images_some_are_read_of_every_class(photographs, monkeypatch):
  monkeypatch.setattr(lib, 'MOST_BYTES', 15 * 8 * 8 * 3)
  real = read_images(photographs, 1)
  assert len(real.train) == 14 and set(real.train_labels) == {0, 1, 2, 3} and len(real.test) == 12


def test_a_copy_that_is_gone_is_not_fetched(photographs):
  config = json.loads((photographs / 'config.json').read_text())
  config['data'] |= {'name': 'cifar100', 'crop': 'padded', 'size': 0, 'dir': str(photographs), 'prepared': ''}
  (photographs / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError):
    read_images(photographs, 1)
