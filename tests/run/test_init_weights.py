"""Runs that start from a pretrained trunk: the file is needed once, decides what is left open, and is named."""

import json
import pickle

import numpy as np
import pytest
import reference
from conftest import SMALLEST, assert_same_outcome
from made_up import write
from safetensors.numpy import save_file

from abd_jax.commands import doctor, evaluate, report
from abd_jax.config import changed, default, load_config
from abd_jax.errors import Paused, UserError
from abd_jax.models import pretrained
from abd_jax.run.extend import extended_config
from abd_jax.run.load import load_model, load_snapshot
from abd_jax.run.plan import infer_config
from abd_jax.run.workdir import resolve
from abd_jax.train import train_and_evaluate

FIELDS = SMALLEST | {'method': 'base', 'model__blocks': (), 'model__widths': ()}


@pytest.fixture
def weights(tmp_path):
  """write(seed=0, channels=1) -> a file of a network as small as SMALLEST's, for digits."""

  def write(seed=0, channels=1):
    file = tmp_path / f'weights_{seed}.safetensors'
    save_file(reference.torch_weights('abd', (1,), (4,), 10, channels, seed), file, {'license': 'cc0-1.0'})
    return file

  return write


def test_only_the_first_start_needs_the_file(learn, weights, tmp_path):
  file, fields = weights(), FIELDS | {'model__init': str(weights())}
  learn(tmp_path / 'whole', **fields)
  with pytest.raises(Paused):
    learn(tmp_path / 'run', **fields, max_seconds=1e-6)
  with pytest.raises(UserError, match='SHA-256'):
    learn(tmp_path / 'run', **fields | {'model__init': str(weights(1))})
  with pytest.raises(UserError, match=r"config\.model\.init_hash='[0-9a-f]{64}', not ''"):
    learn(tmp_path / 'run', **FIELDS | {'model__blocks': (1,), 'model__widths': (4,)})
  file.unlink()
  results = learn(tmp_path / 'run', **fields)
  assert_same_outcome(tmp_path / 'run', tmp_path / 'whole')
  assert learn(tmp_path / 'run', **fields) == results  # finished: read, not run
  with pytest.raises(UserError, match=f'{file} cannot be read'):
    learn(tmp_path / 'another', **fields)
  assert not (tmp_path / 'another').exists()


def test_a_frozen_trunk_is_the_file_and_manifests_and_doctor_name_it(learn, weights, tmp_path):
  file = weights()
  results = learn(tmp_path / 'runs/a', **FIELDS, model__init=str(file), model__trainable='none')
  found, (config, manifest, last) = pretrained.read(file), load_snapshot(tmp_path / 'runs/a')
  for ours, theirs in ((last.model.params, found.params), (last.model.batch_stats, found.batch_stats)):
    for path in reference.leaf_paths(theirs):
      np.testing.assert_array_equal(reference.get(ours['backbone'], path), reference.get(theirs, path))
  assert last.model.params['head']['kernel'].shape == (4, 10)
  assert (manifest['init'], config.model.init_hash) == ('weights_0.safetensors', found.sha256)
  assert config.model.init_licence == results['config']['model']['init_licence'] == 'cc0-1.0'
  (finding,) = doctor.weights(tmp_path / 'runs')
  assert all(word in finding.text for word in ('runs/a', 'weights_0.safetensors', found.sha256, 'cc0-1.0'))


def test_a_wrong_file_changes_nothing(learn, weights, tmp_path):
  (tmp_path / 'model.pth').write_bytes(pickle.dumps({'conv1.weight': 1}))
  with pytest.raises(UserError, match='Pickles'):
    learn(tmp_path / 'run', **FIELDS, model__init=str(tmp_path / 'model.pth'))
  with pytest.raises(UserError, match=r'3 channels, not 1 as .digits. has'):
    learn(tmp_path / 'run', **FIELDS, model__init=str(weights(channels=3)))
  with pytest.raises(UserError, match=r'config\.model\.blocks=\(1, 1\), but .* has \(1,\)'):
    learn(tmp_path / 'run', **FIELDS | {'model__blocks': (1, 1), 'model__widths': (4, 8)}, model__init=str(weights()))
  assert not (tmp_path / 'run').exists()


class Photographs:
  name, image_shape, fingerprint = 'photographs', (32, 32, 3), 'f'


@pytest.mark.parametrize(
  ('method', 'told'),
  [
    ('abd', ''),
    ('rdfcil', 'config.model.variant=abd, as'),
    ('dgr', 'config.data.mean=(0.0, 0.0, 0.0) and .std decide'),
  ],
)
def test_the_file_decides_what_is_left_open_and_a_line_says_what_it_does_not(method, told, weights, capsys):
  file = weights(channels=3)
  given = load_config(f'cifar100_small:method={method}', **{'model.init': str(file)})
  config = infer_config(given, Photographs(), (0,), pretrained.of(given.model, False))
  assert (config.model.variant, config.model.blocks, config.model.widths) == ('abd', (1,), (4,))
  assert (config.data.mean == pretrained.MEAN) == (config.data.std == pretrained.STD) == (method != 'dgr')
  printed = capsys.readouterr().err
  assert told in printed and len(printed.splitlines()) == bool(told) and (str(file) in printed or not told)
  mine = load_config('cifar100_small', **{'model.init': str(file), 'data.mean': (0.5,) * 3, 'data.std': (0.2,) * 3})
  assert infer_config(mine, Photographs(), (0,), pretrained.of(mine.model, False)).data.mean == (0.5, 0.5, 0.5)


def test_weights_on_the_hub_without_a_network_are_to_be_placed_by_hand(monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  with pytest.raises(UserError, match=r'huggingface\.co/timm/resnet18\.a1_in1k by hand, .*init to its path') as error:
    resolve(changed(default(), {'model.init': 'hf:timm/resnet18.a1_in1k', 'data.download': False}))
  assert '\n' not in str(error.value)


def test_a_run_from_weights_is_extended_exported_and_reported_without_the_file(learn, weights, tmp_path, capsys):
  file = weights()
  learn(tmp_path / 'a', **FIELDS, model__init=str(file), model__trunk_rate=0.1, model__frozen_stats=True)
  file.unlink()
  for name, value in (('model.init', 'another'), ('model.widths', (8,))):
    with pytest.raises(UserError, match=f'config.{name} follows from'):
      extended_config(str(tmp_path / 'a'), {name: value})
  config = extended_config(str(tmp_path / 'a'), {'task_sizes': (2, 2, 2), 'model.trainable': 'last_stage'})
  results = train_and_evaluate(config, str(tmp_path / 'b'))
  assert len(results['accuracy_matrix']) == 3 and results['config']['model']['trunk_rate'] == 0.1
  model, (_, manifest, _) = load_model(tmp_path / 'b'), load_snapshot(tmp_path / 'b')
  assert manifest['init'] == 'weights_0.safetensors' and len(manifest['config']['model']['init_hash']) == 64
  names, probabilities = model.predict(np.zeros((2, 8, 8, 1), np.uint8))
  assert len(names) == 2 and probabilities.shape == (2, 6) and len(model.export()) > 1000
  report.run(['--no-diagnosis', str(tmp_path / 'a'), str(tmp_path / 'b')])
  assert 'report.html' in capsys.readouterr().out


def test_a_file_is_evaluated_with_its_own_head(tmp_path, capsys):
  photos, file, weights = tmp_path / 'photos', tmp_path / 'file', reference.torch_weights('abd', (1,), (4,), 2)
  images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
  normalised = ((images / 255 - pretrained.MEAN) / pretrained.STD).transpose(0, 3, 1, 2)
  weights['linear.bias'] -= reference.torch_resnet(weights, normalised)[1].mean(0).astype(np.float32)
  save_file(weights, file)
  for k, image in enumerate(images):
    write(photos / 'ab'[k // 4] / f'{k}.png', image.shape, image)
  evaluate.run([str(file), str(photos), '--json=-'])
  likeliest, expected = reference.torch_resnet(weights, normalised)[1].argmax(1), np.zeros((2, 2), int)
  assert 0 < likeliest.sum() < 8
  np.add.at(expected, (np.arange(8) // 4, likeliest), 1)
  assert json.loads(capsys.readouterr().out)['confusion'] == expected.tolist()
  assert load_model(file).predict(images)[0].tolist() == [str(k) for k in likeliest]
  (photos / 'c').mkdir()
  with pytest.raises(UserError, match='head of 2 classes, expected 3'):
    evaluate.run([str(file), str(photos)])
