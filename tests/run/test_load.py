"""abd_jax.load_model: a finished run's model, without its data set, tfds or an optimizer."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, SMALLEST
from PIL import Image

import abd_jax
from abd_jax.config import FREE_FIELDS, default, flatten
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import read_manifest
from abd_jax.run.extend import extended_config
from abd_jax.run.load import load_model


@pytest.fixture
def run_of(learnt):
  """run_of(method) -> (workdir, results, test images, their class names), run once each."""

  def make(method):
    path = learnt(method, **({'memory__size': 60} if method == 'bic' else {}))
    results = json.loads((path / 'results.json').read_text())
    order = results['class_order']
    stream = TaskStream(open_dataset('digits', ''), Tasks(tuple(order['original_ids']), tuple(results['task_sizes'])))
    images, labels = stream.test(2).decode()
    return path, results, images, np.asarray(order['names'])[labels]

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
  model, bound = load_model(path, 0), tmp_path / 'bound'
  bound.mkdir()
  (bound / 'config.json').write_text(json.dumps(default().to_dict() | {'method': 'oracle'}))
  for make, match in (
    (lambda: load_model(bound), f'{tmp_path}/oracles'),
    (lambda: load_model(tmp_path), 'no frozen model'),
    (lambda: load_model(path, 7), r'task 7 .* 0, 1, 2'),
    (lambda: model.predict(images[:, :4]), r'uint8\[n, 8, 8, 1\]'),
    (lambda: model.predict(images / 16), 'got float64'),
    (lambda: model.predict([[1, 2], [3]]), r'uint8\[n, 8, 8, 1\], got a list'),
    (lambda: model.layers(images), r'float32\[n, 8, 8, 1\], got uint8'),
  ):
    with pytest.raises(UserError, match=match):
      make()


def test_values_above_the_range_of_training_are_refused(run_of):
  model = load_model(run_of('abd')[0])
  images = np.zeros((3, 8, 8, 1), np.uint8)
  for call in (model.predict, model.features, model.normalise):
    images[1, 2, 3] = 16
    call(images)
    images[1, 2, 3] = 17
    with pytest.raises(UserError, match=r'0 to 16, .* 17'):
      call(images)


def test_no_images_give_results_of_no_rows(run_of):
  path, _, images, _ = run_of('abd')
  model = load_model(path, 1)
  names, probabilities = model.predict(images[:0])
  assert names.tolist() == [] and probabilities.shape == (0, 4) and probabilities.dtype == np.float32
  assert names.dtype.kind == 'U' and model.features(images[:0]).shape == (0, 4)


def test_deep_files_are_read_by_the_range_that_was_measured_in_training(learn, tmp_path, capsys):
  folder, rng = tmp_path / 'photos', np.random.default_rng(0)
  for split, count in (('train', 12), ('test', 4)):
    for k in range(count):
      file = folder / split / 'ab'[k % 2] / f'{k}.png'
      file.parent.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(100, 4096, (8, 8), np.uint16)
      pixels[0, :2] = 100, 4095 + 9 * (split == 'test')
      Image.fromarray(pixels).save(file)
  fields = SMALLEST | {'task_sizes': (1, 1), 'student__batch_size': 4}
  learn(
    tmp_path / 'run', method='base', data__name='image_folder', data__dir=str(folder), data__max_value=255.0, **fields
  )
  model, data = load_model(tmp_path / 'run'), open_dataset('image_folder', str(folder))
  assert model.reading.value_range == (100, 4095) and data.testing[:].max() == 255
  capsys.readouterr()
  files = sorted((folder / 'test').rglob('*.png'), key=lambda file: file.name)
  np.testing.assert_array_equal([model.reading.read(file) for file in files], data.testing[:])
  np.testing.assert_array_equal(model.predict(files)[1], model.predict(data.testing[:])[1])
  assert '4 images have values beyond 100 to 4095' in capsys.readouterr().err
  assert 'values of more than 8 bits: 100 to 4095' in ' '.join(model.reading.steps())
  shutil.copytree(folder, tmp_path / 'more')
  for split in ('train', 'test'):
    for name in 'ab':
      (tmp_path / 'more' / split / name).rename(tmp_path / 'more' / split / f'new_{name}')
  more = extended_config(str(tmp_path / 'run'), {'data.dir': str(tmp_path / 'more')})
  assert more.data.value_range == (100, 4095)


def test_of_a_run_that_is_going_on_the_newest_model_is_the_newest_written_in_full(run_of, tmp_path):
  shutil.copytree(run_of('abd')[0], tmp_path / 'run')
  (tmp_path / 'run' / 'results.json').unlink()
  assert load_model(tmp_path / 'run').task == 2
  (tmp_path / 'run' / 'teachers' / '2.json').unlink()  # which is written last
  assert load_model(tmp_path / 'run').task == 1
  with pytest.raises(UserError, match=r'no manifest 2\.json'):
    load_model(tmp_path / 'run', 2)


def damage(name, way):
  def change(folder):
    file = next(file for file in sorted(folder.rglob(name)) if file.is_file() and file.stat().st_size)
    content = bytearray(file.read_bytes())
    if way == 'flip':
      content[len(content) // 2] ^= 1
      file.write_bytes(content)
    else:
      file.unlink()

  return change


def edit(file, old, new):
  text = file.read_text()
  assert text.count(old) == 1
  file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (damage('d/*', 'flip'), 'is damaged'),
    (damage('_METADATA', 'gone'), '_METADATA is missing'),
    (lambda folder: edit(folder.with_name('2.json'), '"task": 2', '"task": 1'), '2.json is damaged'),
    (lambda folder: folder.with_name('2.json').write_text('{"schema_version": 99}'), 'schema 99'),
  ],
)
def test_one_flipped_bit_or_missing_file_of_a_teacher_is_refused(run_of, tmp_path, change, match):
  shutil.copytree(run_of('abd')[0], tmp_path / 'run')
  change(tmp_path / 'run' / 'teachers' / '2')
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
