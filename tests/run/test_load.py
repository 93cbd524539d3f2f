"""abd_jax.load_model: a finished run's model, without its data set, tfds or an optimizer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, SMALLEST
from PIL import Image

import abd_jax
from abd_jax.config import FREE_FIELDS, default, flatten
from abd_jax.data.sources import open_dataset
from abd_jax.errors import UserError
from abd_jax.run.checkpoint import read_manifest
from abd_jax.run.extend import extended_config, stream_of_run
from abd_jax.run.load import load_model


@pytest.fixture
def run_of(learnt):
  """run_of(method) -> (workdir, results, test images, their class names), run once each."""

  def make(method):
    path = learnt(method, **({'memory__size': 60} if method == 'bic' else {}))
    results = json.loads((path / 'results.json').read_text())
    images, labels = stream_of_run(path).test(2).decode()
    return path, results, images, np.asarray(results['class_order']['names'])[labels]

  return make


@pytest.mark.parametrize('method', ['abd', *(pytest.param(name, marks=pytest.mark.slow) for name in ('bic', 'rdfcil'))])
@pytest.mark.parametrize('task', [None, 0])
def test_predictions_equal_the_runs_recorded_accuracy(run_of, method, task):
  path, results, images, names = run_of(method)
  model = load_model(path, task)
  upto = len(results['task_sizes']) if task is None else task + 1
  n = sum(results['test_images'][:upto])
  predicted, probabilities = model.predict(images[:n], batch_size=64)
  assert np.mean(predicted == names[:n]) == results['seen_accuracy'][upto - 1]
  known = results['class_order']['names'][: sum(results['task_sizes'][:upto])]
  assert model.class_names == tuple(known) and probabilities.shape == (n, len(known))
  np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
  assert (np.asarray(known)[probabilities.argmax(1)] == predicted).all()
  assert model.features(images[:5]).shape == (5, 4) and model.image_shape == (8, 8, 1)
  none, probabilities = model.predict(images[:0])
  assert none.tolist() == [] and probabilities.shape == (0, len(known)) and probabilities.dtype == np.float32
  assert none.dtype.kind == 'U' and model.features(images[:0]).shape == (0, 4)


WITHOUT_DATA = """
import sys
class Block:
  def find_spec(self, name, *rest):
    if name.split('.')[0] in ('tensorflow_datasets', 'sklearn', 'array_record'):
      raise ImportError(name)
sys.meta_path.insert(0, Block())
import numpy as np, abd_jax
images = np.load(sys.argv[2])
print(' '.join(abd_jax.load_model(sys.argv[1]).predict(images)[0]))
"""


def test_a_process_without_the_data_set_predicts_the_same(run_of, tmp_path, cli_env):
  path, results, images, names = run_of('abd')
  np.save(tmp_path / 'images.npy', images)
  words = [sys.executable, '-c', WITHOUT_DATA, str(path), str(tmp_path / 'images.npy')]
  env = cli_env | {'TFDS_DATA_DIR': str(tmp_path / 'nothing')}
  done = subprocess.run(words, env=env, cwd=REPO, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert np.mean(np.array(done.stdout.split()) == names) == results['final_accuracy']


def test_dreams_are_of_the_classes_learnt_and_depend_on_the_seed(run_of):
  path, results, _, _ = run_of('abd')
  model = load_model(path, 1)
  images, names = model.dream(12, seed=3)
  assert images.shape == (12, 8, 8, 1) and images.min() >= 0 and images.max() <= 1
  assert set(names) <= set(results['class_order']['names'][:4])
  np.testing.assert_array_equal(model.dream(12, seed=3)[0], images)
  assert not np.array_equal(model.dream(12, seed=4)[0], images)
  with pytest.raises(UserError, match='model after task 3 has no generator'):
    load_model(path).dream(1)


def test_reading_a_model_changes_nothing_in_its_workdir(run_of, tmp_path):
  """The run may be going on: what looks like a save that was cut off is then the one it is writing."""
  shutil.copytree(run_of('abd')[0], tmp_path, dirs_exist_ok=True)
  (tmp_path / 'checkpoints/student/99.orbax-checkpoint-tmp/state').mkdir(parents=True)
  there = lambda: {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  before = there()
  load_model(tmp_path)
  assert there() == before
  shutil.rmtree(tmp_path / 'checkpoints')
  load_model(tmp_path, 0)
  assert not (tmp_path / 'checkpoints').exists()


def test_mistakes_are_one_line(run_of, tmp_path):
  path, _, images, _ = run_of('abd')
  model, bound, brighter = load_model(path, 0), tmp_path / 'bound', images[:3].copy()
  brighter[1, 2, 3] = 17
  bound.mkdir()
  (bound / 'config.json').write_text(json.dumps(default().to_dict() | {'method': 'oracle'}))
  for make, match in (
    (lambda: load_model(bound), f'{tmp_path}/oracles'),
    (lambda: load_model(tmp_path), 'no frozen model'),
    (lambda: load_model(path, 7), r'task 7 .* 0, 1, 2'),
    (lambda: model.predict(images[:, :4]), r'uint8\[n, 8, 8, 1\]'),
    (lambda: model.predict(images / 16), 'got float64'),
    (lambda: model.predict([[1, 2], [3]]), r'uint8\[n, 8, 8, 1\], got a list'),
    *(
      (lambda call=call: call(brighter), r'0 to 16, .* 17') for call in (model.predict, model.features, model.normalise)
    ),
    (lambda: model.layers(images), r'float32\[n, 8, 8, 1\], got uint8'),
  ):
    with pytest.raises(UserError, match=match):
      make()


def test_deep_files_are_read_by_the_range_that_was_measured_in_training(learn, tmp_path, capsys):
  folder, more, rng = tmp_path / 'photos', tmp_path / 'more', np.random.default_rng(0)
  for split, count in (('train', 12), ('test', 4)):
    for k in range(count):
      pixels = rng.integers(100, 4096, (8, 8), np.uint16)
      pixels[0, :2] = 100, 4095 + 9 * (split == 'test')
      for file in (folder / split / 'ab'[k % 2] / f'{k}.png', more / split / 'cd'[k % 2] / f'{k}.png'):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
  fields = SMALLEST | {'method': 'base', 'task_sizes': (1, 1), 'student__batch_size': 4, 'data__max_value': 255.0}
  learn(tmp_path / 'run', data__name='image_folder', data__dir=str(folder), **fields)
  model, data = load_model(tmp_path / 'run'), open_dataset('image_folder', str(folder))
  assert model.reading.value_range == (100, 4095) and data.testing[:].max() == 255
  capsys.readouterr()
  files = sorted((folder / 'test').rglob('*.png'), key=lambda file: file.name)
  np.testing.assert_array_equal([model.reading.read(file) for file in files], data.testing[:])
  np.testing.assert_array_equal(model.predict(files)[1], model.predict(data.testing[:])[1])
  assert '4 images have values beyond 100 to 4095' in capsys.readouterr().err
  assert 'values of more than 8 bits: 100 to 4095' in ' '.join(model.reading.steps())
  assert extended_config(str(tmp_path / 'run'), {'data.dir': str(more)}).data.value_range == (100, 4095)


def test_of_a_run_that_is_going_on_the_newest_model_is_the_newest_written_in_full(run_of, tmp_path):
  shutil.copytree(run_of('abd')[0], tmp_path / 'run')
  (tmp_path / 'run' / 'results.json').unlink()
  assert load_model(tmp_path / 'run').task == 2
  (tmp_path / 'run' / 'teachers' / '2.json').unlink()  # which is written last
  assert load_model(tmp_path / 'run').task == 1
  with pytest.raises(UserError, match=r'no manifest 2\.json'):
    load_model(tmp_path / 'run', 2)


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


@pytest.mark.parametrize(
  ('pattern', 'change', 'match'),
  [
    ('2/**/d/*', flip, 'is damaged'),
    ('2/**/_METADATA', Path.unlink, '_METADATA is missing'),
    ('2.json', lambda file: file.write_text(file.read_text().replace('"task": 2', '"task": 1')), r'2\.json is damaged'),
    ('2.json', lambda file: file.write_text('{"schema_version": 99}'), 'schema 99'),
  ],
)
def test_one_flipped_bit_or_missing_file_of_a_teacher_is_refused(run_of, tmp_path, pattern, change, match):
  shutil.copytree(run_of('abd')[0], tmp_path / 'run')
  change(next(file for file in sorted((tmp_path / 'run/teachers').glob(pattern)) if file.stat().st_size))
  with pytest.raises(UserError, match=match):
    load_model(tmp_path / 'run')


def test_a_manifest_says_what_is_needed_to_use_the_model(run_of):
  path, results, _, _ = run_of('abd')
  manifest = read_manifest(path / 'teachers' / '1')
  assert (manifest['task'], manifest['abd_jax'], manifest['image_shape']) == (1, abd_jax.__version__, [8, 8, 1])
  assert manifest['class_order'] == results['class_order'] and manifest['task_sizes'] == results['task_sizes']
  stored, config = flatten(manifest['config']), flatten(results['config'])
  assert stored == {name: value for name, value in config.items() if name not in FREE_FIELDS}


def test_groups_of_other_methods_may_come_change_and_go(run_of, tmp_path, learn):
  """Whoever develops a method keeps the runs of all others, on every branch."""
  shutil.copytree(run_of('abd')[0], tmp_path / 'run')
  file = tmp_path / 'run' / 'config.json'
  stored = json.loads(file.read_text())
  stored['rdfcil']['finetune_lr'], stored['mine'] = 1.0, {'weight': 3.0}
  del stored['bic']
  file.write_text(json.dumps(stored))
  assert learn(tmp_path / 'run')['final_accuracy'] == run_of('abd')[1]['final_accuracy']
  stored['nothing'] = 1  # which may be of every method
  file.write_text(json.dumps(stored))
  with pytest.raises(UserError, match=r'config\.nothing=1'):
    learn(tmp_path / 'run')
