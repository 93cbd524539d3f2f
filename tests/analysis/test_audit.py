"""What a run keeps and reads, and images and reads that it should not have."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import REPO, SMALLEST, snapshot

from abd_jax.analysis.audit import audit, read_log
from abd_jax.commands import audit as command
from abd_jax.config import restored
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.models.generator import Generator
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.workdir import Workdir, at_rest


@pytest.fixture
def run(diagnosed, tmp_path):
  """A copy of a complete run of three tasks that dreams."""
  return shutil.copytree(diagnosed, tmp_path / 'run', ignore=shutil.ignore_patterns('diagnosis'))


def array_of(found, name):
  """That of the model after the second task."""
  return next(one for one in found['arrays'] if (one['store'], one['name']) == ('teachers/1', name))


def test_a_data_free_run_keeps_networks_and_reads_each_task_once(run):
  before = snapshot(run)
  found = audit(run)
  assert snapshot(run) == before
  assert (found['method'], found['capacity'], found['images'], found['memories']) == ('abd', 0, 0, {})
  assert found['unreadable'] == found['findings'] == found['notes'] == []
  stores = {one['store'] for one in found['arrays']}
  assert {f'teachers/{task}' for task in range(3)} < stores
  assert any(store.startswith('checkpoints/generator/') for store in stores)
  assert not any(one['can_hold_images'] for one in found['arrays'])
  head = array_of(found, 'model.params.head.kernel')
  assert (head['shape'], head['dtype'], head['bytes']) == ([4, 10], 'float32', 160)
  assert [one['tasks'] for one in found['reads'] if one['purpose'] == 'training'] == [[0], [1], [2]]
  (run / 'reads.jsonl').unlink()
  assert 'reads.jsonl is missing' in audit(run)['findings'][0]


def test_a_method_with_a_memory_says_how_many_images_it_keeps(learn, tmp_path, capsys):
  learn(tmp_path, method='rehearsal', **SMALLEST, memory__per_class=8)
  found = audit(tmp_path)
  assert found['findings'] == [] and found['capacity'] == found['images'] == 32
  assert found['memories']['teachers/0'] == 16 and found['memories']['teachers/1'] == 32
  memory = array_of(found, 'memory.images')
  assert memory['shape'] == [32, 8, 8, 1] and memory['dtype'] == 'uint8' and memory['can_hold_images']
  assert command.run([str(tmp_path)]) == 0
  assert 'rehearsal keeps at most 32 real images; 32 now' in capsys.readouterr().out
  # A memory that cannot be read is not an empty one.
  damage(tmp_path / 'teachers' / '1')
  assert audit(tmp_path)['images'] is None and command.run([str(tmp_path)]) == 2
  assert '32 real images; how many now is not known' in capsys.readouterr().out


def damage(store):
  (store / 'manifest.ocdbt').write_bytes((store / 'manifest.ocdbt').read_bytes()[:40])


def newest(run, kind='student'):
  return max((run / 'checkpoints' / kind).iterdir(), key=lambda path: int(path.name)) / 'state'


@pytest.mark.parametrize(
  ('spoil', 'where'),
  [
    (lambda run: damage(run / 'teachers' / '0'), 'teachers/0'),
    (lambda run: damage(newest(run)), 'checkpoints/student'),
    (lambda run: shutil.rmtree(run / 'teachers' / '2'), 'teachers/2'),
    (lambda run: (run / 'teachers' / '1.new').mkdir(), 'teachers/1.new'),
    (lambda run: (run / 'teachers' / '0.json').unlink(), 'teachers/0'),
    (lambda run: (run / 'checkpoints' / 'student' / '99').mkdir(), 'checkpoints/student/99'),
  ],
)
def test_arrays_that_cannot_be_read_may_hold_anything(run, spoil, where, capsys):
  spoil(run)
  assert [line for line in audit(run)['unreadable'] if where in line]
  assert command.run([str(run)]) == 2
  assert 'cannot be read' in capsys.readouterr().out


def test_an_array_of_images_that_the_method_does_not_keep_is_found(run):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(newest(run))
    tree['params']['past'] = np.zeros((2, 8, 8, 1), np.uint8)
    checkpointer.save(newest(run), tree, force=True)
  (line,) = audit(run)['findings']
  assert 'params.past, uint8[2, 8, 8, 1], can hold 2 images' in line
  assert command.run([str(run)]) == 1


def test_dreamed_pixels_have_the_shape_of_images_and_are_allowed(learn, tmp_path):
  learn(tmp_path, **SMALLEST, inversion__what='pixels', inversion__pixel_images=32)
  found = audit(tmp_path)
  assert found['findings'] == [] and any(one['can_hold_images'] for one in found['arrays'])


@pytest.mark.parametrize(
  ('read', 'what'),
  [
    ({}, 'images of task 1 were read after task 3 had begun'),
    ({'classes': [0, 1, 2]}, "of the train split that are not one task's"),
    ({'split': 'test'}, "of the test split that are not one task's"),
    ({'for': 'testing'}, 'training images were read for testing'),
  ],
)
def test_a_read_out_of_turn_is_found(run, read, what):
  record = json.loads((run / 'reads.jsonl').read_text().splitlines()[1]) | {'for': 'training', 'split': 'train'}
  manifest = json.loads((run / 'teachers' / '0.json').read_text())
  record['classes'] = manifest['class_order']['original_ids'][:2]
  with (run / 'reads.jsonl').open('a') as file:
    file.write(json.dumps(record | read) + '\n')
  (line,) = audit(run)['findings']
  assert what in line and command.run([str(run)]) == 1


def test_a_run_that_extends_another_may_number_its_own_classes_from_zero(tmp_path):
  tasks = Tasks((0, 1, 3, 2), (2, 1, 1))
  records = [{'for': 'training', 'split': 'train', 'classes': [one], 'images': 9} for one in (1, 0)]
  for order, extends, wrong in ((records, False, 2), (records, True, 0), (records[::-1], True, 1)):
    (tmp_path / 'reads.jsonl').write_text('\n'.join(map(json.dumps, order)) + '\n')
    assert sum(read['wrong'] != '' for read in read_log(tmp_path, tasks, 0, extends)) == wrong


def test_real_images_of_a_report_are_found_and_photographs_are_named(diagnosed, tmp_path):
  run = shutil.copytree(diagnosed, tmp_path / 'run')
  (run / 'report.html').write_text('<img src="data:image/png;base64,">')
  assert [line.split()[0] for line in audit(run)['findings']] == ['diagnosis/images.npz', 'report.html']
  shutil.rmtree(run / 'diagnosis')
  (run / 'report.html').write_text('<html>')  # as without a diagnosis
  config = json.loads((run / 'config.json').read_text())
  config['data'] |= {'name': 'image_folder', 'dir': '/data/photos/', 'prepared': ''}
  (run / 'config.json').write_text(json.dumps(config))
  found = audit(run)
  (note,) = found['notes']
  assert found['findings'] == [] and '/data/photos/ ' in note and '/data/photos.prepared ' in note


def test_the_formats(run, capsys):
  assert command.run([str(run)]) == 0
  text = capsys.readouterr().out
  assert 'abd has no memory of real images' in text and 'teachers/1 ' in text and 'allowed' in text
  assert command.run([str(run), '--format=arrays']) == 0
  assert 'model.params.head.kernel float32[4, 10]' in capsys.readouterr().out
  assert command.run([str(run), '--format=json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert {'store': 'teachers/0', 'name': 'model.params.head.bias', 'shape': [10], 'dtype': 'float32', 'bytes': 40,
          'can_hold_images': False} in found['arrays']  # fmt: skip


@pytest.mark.parametrize(
  ('words', 'match'),
  [
    ([], 'audit WORKDIR'),
    (['a', 'b'], 'audit WORKDIR'),
    (['a', '--format=xml'], 'expected one of'),
    (['a'], 'holds no run'),
  ],
)
def test_mistakes_are_one_line(words, match):
  with pytest.raises(UserError, match=match):
    command.run(words)


def test_a_run_that_is_going_on_is_left_alone(run):
  """It may be saving arrays that are not complete yet."""
  config = restored(read_json(run / 'config.json')).to_dict()
  with Workdir(str(run), config), pytest.raises(UserError, match='is in use by another process'):
    audit(run)
  with at_rest(run), pytest.raises(UserError, match='is in use by another process'):
    Workdir(str(run), config)


def test_a_run_without_a_model_and_an_upper_bound_are_refused(run):
  shutil.rmtree(run / 'teachers')
  with pytest.raises(UserError, match='keeps nothing yet'):
    audit(run)
  config = json.loads((run / 'config.json').read_text())
  (run / 'config.json').write_text(json.dumps(config | {'method': 'oracle'}))
  with pytest.raises(UserError, match='holds an upper bound'):
    audit(run)


@pytest.mark.parametrize(('images', 'side', 'start', 'widths', 'said'), [
  ('CIFAR', 32, (8, 8, 128), (128, 64), '-'),
  ('Tiny-ImageNet', 64, (8, 8, 128), (128, 128, 64), '10 times'),
  ('ImageNet', 224, (7, 7, 64), (64,) * 5, '100 times'),
])  # fmt: skip
def test_the_table_of_memory_is_that_of_the_networks(images, side, start, widths, said):
  generator = Generator(1000, start, widths, 3)
  made = jax.eval_shape(lambda: generator.init(jax.random.key(0), np.zeros((2, 1000), np.float32), train=False))
  numbers, pixels = sum(leaf.size for leaf in jax.tree.leaves(made['params'])), 2000 * side * side * 3
  cells = f'{pixels:,}', f'{numbers:,}', said, f'{pixels / numbers:.1f}', f'{pixels / numbers / 4:.1f}'
  assert f'| {images}, {side}x{side}x3 | {" | ".join(cells)} |' in (REPO / 'docs' / 'audit.md').read_text()
