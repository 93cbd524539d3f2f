"""Damage of one bit, digit or byte, which would otherwise pass for a result."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import log_records, snapshot

from abd_jax.errors import Paused, UserError
from abd_jax.files import checksum_of_arrays, is_intact, sealed
from abd_jax.run.checkpoint import Checkpoints


def test_a_checksum_of_arrays_sees_values_types_shapes_and_names():
  tree = {'a': jnp.arange(6, dtype=jnp.float32), 'b': (jnp.int32(3),)}
  same = {'a': np.arange(6, dtype=np.float32), 'b': (np.int32(3),)}
  assert checksum_of_arrays(tree) == checksum_of_arrays(same)
  others = [
    tree | {'a': tree['a'].at[5].set(5.0000005)},
    tree | {'a': tree['a'].reshape(2, 3)},
    tree | {'a': np.arange(6, dtype=np.int32).view(np.float32)},
    tree | {'b': (jnp.uint32(3),)},
    {'a': tree['a'], 'c': tree['b']},
  ]
  assert len({checksum_of_arrays(other) for other in (tree, *others)}) == 6


def test_a_record_keeps_its_seal_through_json_and_no_other_content_has_it():
  record = json.loads(json.dumps(sealed({'b': [0.1, None], 'a': {'x': 1e-9}})))
  assert is_intact(record) and is_intact(sealed(record))
  assert not is_intact(record | {'b': [0.2, None]}) and not is_intact({'a': 1})


@pytest.fixture(scope='module')
def paused_path(tmp_path_factory):
  return tmp_path_factory.mktemp('integrity') / 'run'


@pytest.fixture
def paused(paused_path, learn, tmp_path):
  """A copy of a run of e2e, which keeps images, paused in its third task."""
  fields = dict(method='e2e', memory__size=26)
  while not paused_path.exists() or log_records(paused_path)[-1]['task'] < 2:
    with pytest.raises(Paused):
      learn(paused_path, max_seconds=1e-9, **fields)
  shutil.copytree(paused_path, tmp_path / 'run')
  return tmp_path / 'run', fields


def flip(file, where=0.5):
  content = bytearray(file.read_bytes())
  content[int(len(content) * where)] ^= 1
  file.write_bytes(content)


def newest(folder):
  return max(folder.iterdir(), key=lambda path: int(path.name))


def cut(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(folder, pattern, change):
  """Changes all files of the newest save that match the pattern."""
  for file in [file for file in newest(folder).rglob(pattern) if file.is_file()]:
    change(file)


def edit_progress(path, change):
  file = newest(path / 'checkpoints/student') / 'progress/metadata'
  progress = json.loads(file.read_text())
  change(progress)
  file.write_text(json.dumps(progress))


@pytest.mark.parametrize(
  ('damage', 'match'),
  [
    (lambda path: flip(path / 'metrics.jsonl'), 'metrics.jsonl'),
    (lambda path: (path / 'metrics.jsonl').unlink(), 'metrics.jsonl'),
    (lambda path: edit_progress(path, lambda p: p.update(step=p['step'] + 1)), 'its progress'),
    (
      lambda path: edit_progress(path, lambda p: p['history']['accuracy'][0].__setitem__(0, 0.9)),
      'its progress',
    ),
    (lambda path: flip(next((path / 'teachers/0').rglob('d/*'))), 'teachers/0 cannot be read'),  # not read any more
    (lambda path: flip(path / 'teachers/0.json'), r'0\.json'),
    (lambda path: shutil.rmtree(path / 'teachers/0'), 'teachers/0 cannot be read .*is missing'),
    (lambda path: spoil(path / 'checkpoints/student', '_METADATA', cut), 'cannot be read'),
    (lambda path: spoil(path / 'checkpoints/student', 'd/*', cut), 'cannot be read'),
    (lambda path: spoil(path / 'checkpoints/student', '*', Path.unlink), 'cannot be read'),
  ],
)
def test_damage_to_what_a_resumed_run_builds_on_is_refused(paused, learn, damage, match):
  path, fields = paused
  damage(path)
  before = snapshot(path)
  with pytest.raises(UserError, match=match):
    learn(path, **fields)
  assert snapshot(path) == before


def test_arrays_other_than_those_saved_are_refused_though_they_can_be_read(paused, learn, monkeypatch):
  """As after one flipped bit of trained weights, which are stored raw."""
  path, fields = paused
  read = Checkpoints._restore

  def one_bit(self, kind, number, item, args):
    found = read(self, kind, number, item, args)
    if item != 'state':
      return found
    leaves, tree = jax.tree.flatten(found)
    leaf = np.asarray(leaves[3]).copy()
    leaf.reshape(-1).view(np.uint8)[0] ^= 1
    return jax.tree.unflatten(tree, [*leaves[:3], leaf, *leaves[4:]])

  monkeypatch.setattr(Checkpoints, '_restore', one_bit)
  before = snapshot(path)
  with pytest.raises(UserError, match='its arrays'):
    learn(path, **fields)
  assert snapshot(path) == before


def test_a_digit_changed_in_results_is_refused(learn, learnt, tmp_path):
  shutil.copytree(learnt(), tmp_path, dirs_exist_ok=True)
  file = tmp_path / 'results.json'
  results = json.loads(file.read_text())
  assert is_intact(results)
  changed = results | {'final_accuracy': results['final_accuracy'] + 0.1}
  file.write_text(json.dumps(changed))
  with pytest.raises(UserError, match=r'results\.json is damaged'):
    learn(tmp_path)
