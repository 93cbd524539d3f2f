"""abd_jax.analysis.diagnose on tiny runs: complete, half finished, without dreams, of one task."""

import json
import shutil

import numpy as np
import pytest

from abd_jax.analysis import diagnose as lib
from abd_jax.analysis.diagnose import diagnose
from abd_jax.errors import Paused, UserError


def test_a_run_that_dreams(diagnosed):
  results = json.loads((diagnosed / 'results.json').read_text())
  found = diagnose(diagnosed)
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
  confusion = np.array(found['confusion'])
  assert confusion.trace() / confusion.sum() == results['final_accuracy'] and confusion.sum() == counts[-1]
  assert found['kept_images'] == found['kept_bytes']['images'] == 0 and found['kept_bytes']['generator'] > 0
  assert len(found['plane']['dreamed']) == 16  # every fourth of 64
  for entry in found['dreams']:
    assert sum(entry['histogram']) == 64 and len(entry['histogram']) == 2 * (entry['task'] + 1)
    for near in (entry, entry['features']):
      assert 0 <= near['suspicious'] <= 1 and 0 <= near['closer'] <= 1 and near['nearest_unseen'][2] > 0
    assert len(entry['pair_distances']) == lib.PAIRS
    assert entry['judge_accuracy'] > 0.9
  with np.load(diagnosed / 'diagnosis' / 'images.npz') as pictures:
    assert pictures['real_5'].shape == (lib.SHOWN, 8, 8, 1) and pictures['real_5'].dtype == np.uint8
    shown = sum(len(pictures[f'dreamed_1_{label}']) for label in range(4))
    assert 0 < shown <= 4 * lib.SHOWN and 'dreamed_0_2' not in pictures


def test_it_is_kept_until_the_models_change(diagnosed, tmp_path, monkeypatch):
  shutil.copytree(diagnosed, tmp_path / 'run')
  found = diagnose(tmp_path / 'run')
  monkeypatch.setattr(lib, 'examine', lambda subject: ({'again': True}, {}))
  assert diagnose(tmp_path / 'run') == found
  manifest = tmp_path / 'run' / 'teachers' / '0.json'
  other = json.loads(manifest.read_text())
  other['files'] = dict.fromkeys(other['files'], 'of another run')
  manifest.write_text(json.dumps(other))
  with pytest.raises(UserError, match='is damaged'):
    diagnose(tmp_path / 'run')


def test_a_run_without_dreams_has_distances_to_new_classes_only_and_says_what_it_keeps(learn, few_dreams, tmp_path):
  learn(tmp_path, method='rehearsal', memory__size=30)
  found = diagnose(tmp_path)
  final = found['distances'][0]['layers']['stage2_block0']
  assert final['mid']['dreamed'] is None and final['mid']['new'] > 0 and found['dreams'] == []
  assert 'dreamed' not in found['plane'] and 'generator' not in found['kept_bytes']
  assert found['kept_images'] == 30 and found['kept_bytes']['images'] == 30 * (8 * 8 + 4)


def test_a_run_under_way_is_looked_at_as_far_as_it_came(learn, few_dreams, tmp_path):
  with pytest.raises(Paused):
    learn(tmp_path, max_seconds=0.001)
  with pytest.raises(UserError, match='no frozen model'):
    diagnose(tmp_path)
  while not (tmp_path / 'teachers' / '0.json').exists():
    with pytest.raises(Paused):
      learn(tmp_path, max_seconds=0.001)
  found = diagnose(tmp_path)
  assert found['class_names'] == ['7', '8'] and found['distances'] == [] and found['plane'] is None
  assert len(found['dreams']) == 1


def test_missing_data_are_told_in_one_line(diagnosed, tmp_path):
  shutil.copytree(diagnosed, tmp_path / 'run', ignore=shutil.ignore_patterns('diagnosis'))
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  config['data']['name'] = 'nosuchdata'
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError) as error:
    diagnose(tmp_path / 'run')
  assert '\n' not in str(error.value)


@pytest.mark.slow
def test_an_independent_classifier_sees_in_digits_dreams_what_the_teacher_sees(tmp_path, digits_data):
  from abd_jax.train import train_and_evaluate
  from configs.digits import get_config

  config = get_config('tasks=3,trial=0').unlock()
  config.update_from_flattened_dict({'task_sizes': (2, 2, 2), 'devices': 1})
  train_and_evaluate(config.lock(), str(tmp_path / 'run'))
  for entry in diagnose(tmp_path / 'run')['dreams']:
    chance, noise = entry['chance'], (entry['chance'] / entry['dreams']) ** 0.5
    # A thousand dreams each: 1.4 times chance is far outside of what chance gives.
    assert entry['agreement'] > max(1.4 * chance, chance + 5 * noise), entry
