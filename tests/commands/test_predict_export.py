"""abd-jax predict and export: a finished run asked about image files, and written to one file."""

import csv
import io
import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import snapshot
from jax import export as jax_export
from made_up import write
from onnx import load_from_string as load_onnx
from onnx.numpy_helper import to_array
from PIL import Image

import abd_jax
from abd_jax.commands import export, predict
from abd_jax.config import changed, default, load_config
from abd_jax.data import folders, prepare
from abd_jax.data.sources import open_configured
from abd_jax.errors import UserError
from abd_jax.models import BACKBONES
from abd_jax.run.extend import stream_of_run
from abd_jax.run.load import LoadedModel, load_model
from abd_jax.state import freeze
from abd_jax.steps.components import make_components
from abd_jax.steps.student import init_student


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('predict')


@pytest.fixture
def trained(root, learnt):
  """(workdir, results, folder of the test images as ordinary PNG files, white at 255, named number_class; the images
  u8[n, 8, 8, 1] of 0 to 16)."""
  path = learnt('lwf')
  results = json.loads((path / 'results.json').read_text())
  images, labels = stream_of_run(path).test(2).decode()
  folder = root / 'images'
  if not folder.exists():
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
      pixels, name = np.round(image[..., 0] * (255 / 16)), results['class_order']['names'][label]
      write(folder / f'{k:04}_{name}.png', (8, 8), pixels.astype(np.uint8))
  return path, results, folder, images


def test_predictions_of_files_are_as_accurate_as_the_run_says_exactly_also_in_python(trained, capsys):
  path, results, folder, images = trained
  predict.run([str(path), str(folder), '--format=jsonl'])
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  model, files = load_model(path), sorted(folder.iterdir())
  assert [Path(row['image']) for row in rows] == files
  hits = [row['class'] == Path(row['image']).stem.partition('_')[2] for row in rows]
  assert np.mean(hits) == results['final_accuracy']
  names, probabilities = model.predict(images)
  assert [row['class'] for row in rows] == list(names)
  np.testing.assert_allclose([list(row['probabilities'].values()) for row in rows], probabilities, rtol=1e-5)
  for some, given in ((slice(None), folder), (slice(5, 8), files[5:8]), (slice(7, 8), str(files[7]))):
    found = model.predict(given, batch_size=100)
    assert found[0].tolist() == names[some].tolist()
    np.testing.assert_allclose(found[1], probabilities[some], rtol=1e-5)
  np.testing.assert_array_equal([model.reading.read(file) for file in files], images)
  for given, match in (([], 'no image'), (folder / 'none.png', 'No such file'), ([files[0], 3], 'got a list')):
    with pytest.raises(UserError, match=match):
      model.predict(given)


def test_csv_and_a_table_say_the_same_of_names_on_standard_input(trained, capsys, monkeypatch):
  path, _, folder, images = trained
  files = sorted(folder.iterdir())[:3]
  monkeypatch.setattr(sys, 'stdin', io.StringIO('\ufeff' + '\n'.join(map(str, files))))
  predict.run([str(path), '-', '--format=csv'])
  header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
  names, probabilities = load_model(path).predict(images[:3])
  assert header == ['image', 'class', *load_model(path).class_names]
  assert [row[:2] for row in rows] == [[str(file), name] for file, name in zip(files, names, strict=True)]
  np.testing.assert_allclose(np.array([row[2:] for row in rows], float), probabilities, rtol=1e-4)
  predict.run([str(path), *map(str, files), '--top=2'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5 and lines[0].count('class') == 2
  assert all(name in line.split('|')[2] for line, name in zip(lines[2:], names, strict=True))


SHAPES = {  # of photographs; 2.png is in part transparent
  '0.jpg': (31, 50, 3), '1.png': (50, 31, 3), '2.png': (9, 70, 4), '3.jpg': (33, 32), '4.jpg': (20, 24, 3),
}  # fmt: skip


@pytest.fixture
def photographs(tmp_path):
  """PHOTOS/train and test with the same photographs of SHAPES each, in folders a and b by turns."""
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by a quarter
  for split in ('train', 'test'):
    for k, (name, shape) in enumerate(SHAPES.items()):
      write(tmp_path / 'photos' / split / 'ab'[k % 2] / name, shape, exif=exif)
  return tmp_path / 'photos'


def assert_read_as_by_the_run(files, fields):
  """Files, in the order of the run's test images, are read as these. fields: of config.data."""
  data = changed(default(), {f'data.{name}': value for name, value in fields.items()}).data
  stored = open_configured(data)
  images, _ = stored.test(range(stored.num_classes)).decode()
  assert len(images) == len(files) and images.shape[1:] == stored.image_shape
  for file, image in zip(files, images, strict=True):
    np.testing.assert_array_equal(prepare.reading(data, stored.image_shape).read(file), image, err_msg=file.name)


@pytest.mark.parametrize(('crop', 'channels'), [('padded', 1), ('resized', 3)])
def test_photographs_are_read_as_the_runs_own_test_images(photographs, crop, channels):
  files = sorted((photographs / 'test').rglob('*.*'), key=lambda file: file.name)
  fields = {'name': 'image_folder', 'dir': str(photographs), 'crop': crop, 'size': 16, 'channels': channels}
  assert_read_as_by_the_run(files, fields)


def test_images_of_tiny_imagenet_are_read_as_the_runs_own(photographs, tmp_path):
  """They are stored in one size and cut once more."""
  root, images = tmp_path / 'data' / 'tiny-imagenet-200', sorted((photographs / 'test').rglob('*.*'))
  for place in (root / 'train/n1/images', root / 'train/n2/images', root / 'val/images'):
    shutil.copytree(photographs / 'test/a', place)
  (root / 'wnids.txt').write_text('n1\nn2\n')
  files = [root / 'val/images' / file.name for file in images if file.parent.name == 'a']
  (root / 'val/val_annotations.txt').write_text(''.join(f'{file.name}\tn1\t0\t0\t1\t1\n' for file in files))
  fields = {'name': 'tiny_imagenet', 'dir': str(tmp_path / 'data'), 'crop': 'resized', 'size': 24, 'download': False}
  assert_read_as_by_the_run(files, fields)


@pytest.mark.parametrize(
  ('image', 'match'),
  [
    ('no image', 'bad.png cannot be read'),
    (Image.new('L', (9, 8)), 'bad.png: .* 8x8 .* 8x9'),
  ],
)
def test_one_bad_image_of_many_is_refused_and_nothing_is_printed(trained, tmp_path, capsys, image, match):
  path, _, folder, _ = trained
  if isinstance(image, str):
    (tmp_path / 'bad.png').write_text(image)
  else:
    image.save(tmp_path / 'bad.png')
  with pytest.raises(UserError, match=match):
    predict.run([str(path), *map(str, sorted(folder.iterdir())), str(tmp_path / 'bad.png')])
  assert not capsys.readouterr().out


def test_files_of_a_model_that_learnt_from_files_keep_their_values(tmp_path):
  data = changed(default(), {'data.name': 'image_folder', 'data.max_value': 16.0}).data
  reading = prepare.reading(data, (8, 8, 1))
  for value in (16, 17):
    write(tmp_path / f'{value}.png', (8, 8), value)
  assert reading.read(tmp_path / '16.png').max() == 16 and not any('16/255' in step for step in reading.steps())
  with pytest.raises(UserError, match=r'17.png: .* 0 to 16, .* 17'):
    reading.read(tmp_path / '17.png')


def test_of_a_folder_those_files_are_named_that_training_takes(tmp_path):
  with pytest.raises(UserError, match='no image in'):
    folders.image_paths([str(tmp_path)])
  names = ['b/9.jfif', 'a.ppm', 'b/c/1.PNG', '.hidden.png', '._a.jpg', '.b/1.png', 'notes.txt']
  for name in names:
    write(tmp_path / name, form='PNG')
  assert folders.image_paths([str(tmp_path)]) == [tmp_path / name for name in sorted(names[:3])]


def test_an_unfinished_run_is_refused(trained, tmp_path):
  path, _, folder, _ = trained
  shutil.copytree(path, tmp_path / 'run')
  (tmp_path / 'run' / 'results.json').unlink()
  image = str(sorted(folder.iterdir())[0])
  for run, words in ((predict.run, [image]), (export.run, [str(tmp_path / 'x.zip')])):
    with pytest.raises(UserError, match='is not finished'):
      run([str(tmp_path / 'run'), *words])
  assert not (tmp_path / 'x.zip').exists()
  predict.run([str(tmp_path / 'run'), image, '--task=1'])


# The loader as in the help of `export`, on images.npy, where neither this package nor what it needs can be imported.
BLOCKED = """
import sys
class Block:
  def find_spec(self, name, *rest):
    if name.split('.')[0] in ('abd_jax', 'flax', 'optax', 'orbax', 'ml_collections', 'tensorflow_datasets', 'absl'):
      raise ImportError(name)
    if name == 'flatbuffers':
      from zipimport import zipimporter
      return zipimporter('model.zip').find_spec(name)  # not the installed one
sys.meta_path.insert(0, Block())
import numpy
images = numpy.load('images.npy')
"""


@pytest.fixture
def exported(trained, root):
  """The archive of the trained model, written once."""
  if not (root / 'model.zip').exists():
    export.run([str(trained[0]), str(root / 'model.zip')])
  return root / 'model.zip'


def test_the_exported_file_says_the_same_in_a_process_with_jax_alone(trained, exported, tmp_path, cli_env):
  path, _, _, images = trained
  shutil.copy(exported, tmp_path)
  np.save(tmp_path / 'images.npy', images)
  loader = textwrap.dedent(export.__doc__.partition('To use one:\n\n')[2])
  assert len(loader.splitlines()) <= 10
  script = f'{BLOCKED}\n{loader}\nnumpy.save("found.npy", probabilities)\nprint(predict(images[:1]).shape)'
  done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=cli_env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  names, probabilities = load_model(path).predict(images)
  np.testing.assert_allclose(np.load(tmp_path / 'found.npy'), probabilities, atol=1e-5)
  assert str(names.tolist()) in done.stdout and '(1, 6)' in done.stdout


@pytest.mark.parametrize(
  ('name', 'crop', 'said'),
  [
    ('image_folder', 'padded', ['the largest centred square resized to 32x32']),
    ('imagenet50', 'resized', ['the centred square of 224/256 of the short side resized to 32x32']),
    ('tiny_imagenet', 'resized', ['the largest centred square resized to 64x64', 'the centred square of 224/256']),
    ('cifar100', 'padded', []),
  ],
)
def test_what_must_be_done_to_photographs_is_said(name, crop, said):
  data = changed(default(), {'data.name': name, 'data.crop': crop}).data
  _, colours, *steps = prepare.reading(data, (32, 32, 3)).steps()
  assert colours.startswith('RGB')
  assert len(steps) == len(said) and all(step.startswith(words) for step, words in zip(steps, said, strict=True))


def test_the_archive_is_for_three_platforms_says_what_it_takes_and_gives_nan_beyond_the_range(trained, exported):
  path, results, _, images = trained
  with zipfile.ZipFile(exported) as file:
    about, function = json.loads(file.read('about.json')), jax_export.deserialize(bytearray(file.read('model.jax')))
  grey = ['turned upright as EXIF says', 'grey, 8 bits, transparent pixels white']
  assert about == {
    'class_names': results['class_order']['names'][:6],
    'image_shape': [8, 8, 1],
    'max_value': 16,
    'preparation': [*grey, 'values multiplied by 16/255 and rounded'],
    'abd_jax': abd_jax.__version__,
    'jax': jax.__version__,
  }
  assert function.platforms == ('cpu', 'cuda', 'tpu')
  assert [str(aval) for aval in function.in_avals] == ['uint8[n,8,8,1]']
  some = images[:3].copy()
  some[1, 0, 0] = 17
  found = np.asarray(function.call(some))
  assert np.isnan(found).all(1).tolist() == [False, True, False] == np.isnan(found).any(1).tolist()
  np.testing.assert_allclose(found[::2], load_model(path).predict(images[:3])[1][::2], atol=1e-5)


def test_a_file_that_cannot_be_written_keeps_the_old_one(trained, tmp_path, monkeypatch):
  path = str(trained[0])
  for file in (tmp_path / 'none' / 'model.zip', tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
      export.run([path, str(file)])
  (tmp_path / 'model.zip').write_text('old')

  def write_bytes(self, content):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(Path, 'write_bytes', write_bytes)
  with pytest.raises(OSError, match='No space left on device'):
    export.run([path, str(tmp_path / 'model.zip')])
  assert snapshot(tmp_path) == {'model.zip': b'old'}


def test_an_onnx_file_says_the_same_and_its_int8_form_nearly_so(trained, tmp_path, capsys, monkeypatch):
  path, results, _, images = trained
  export.run([str(path), str(tmp_path / 'model.onnx')])
  content = (tmp_path / 'model.onnx').read_bytes()
  expected = load_model(path).predict(images)[1]
  np.testing.assert_allclose(export.run_onnx(content, images), expected, atol=1e-5)
  about = {entry.key: entry.value for entry in load_onnx(content).metadata_props}
  assert json.loads(about['class_names']) == results['class_order']['names'][:6]
  assert json.loads(about['image_shape']) == [8, 8, 1] and about['max_value'] == '16.0'
  some = images[:2].copy()
  some[0, 0, 0] = 17
  assert np.isnan(export.run_onnx(content, some)).all(1).tolist() == [True, False]

  before = snapshot(path)
  monkeypatch.setattr(export, 'onnx_file', lambda model: content)  # seconds
  export.run([str(path), str(tmp_path / 'small'), '--format=int8'])
  assert snapshot(path) == before
  assert 'inverting the model for 6 steps' in capsys.readouterr().out  # LwF trains no generator
  small = (tmp_path / 'small').read_bytes()
  kinds = {node.op_type for node in load_onnx(small).graph.node}
  assert {'QuantizeLinear', 'DequantizeLinear'} <= kinds and not kinds & {'BatchNormalization', 'Sqrt'}
  arrays = map(to_array, load_onnx(small).graph.initializer)
  weights = [array.astype(int) for array in arrays if array.dtype == np.int8 and array.ndim > 1]
  assert 32 < max(np.abs(array).max() for array in weights) <= 64  # 7 bits: no CPU's sums overflow
  close = export.run_onnx(export.quantise(content, images), images)  # calibrated on the images that it predicts
  assert 0 < np.abs(close - expected).max() < 0.1

  monkeypatch.undo()
  with monkeypatch.context() as patched:
    patched.setattr(export, 'run_onnx', lambda content, images: np.full((len(images), 6), np.nan, np.float32))
    with pytest.raises(UserError, match='differ by nan'):
      export.run([str(path), str(tmp_path / 'other.onnx')])
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  with pytest.raises(UserError, match=r'pip install .abd_jax\[onnx\]'):
    export.run([str(path), str(tmp_path / 'other.onnx')])
  with pytest.raises(UserError, match='--format=tflite: expected one of zip, onnx, int8'):
    export.run([str(path), str(tmp_path / 'other.onnx'), '--format=tflite'])
  assert sorted(file.name for file in tmp_path.iterdir()) == ['model.onnx', 'small']


@pytest.mark.slow
@pytest.mark.parametrize('variant', sorted(BACKBONES))
def test_every_network_becomes_an_onnx_file_that_says_the_same(variant):
  fields = {'model.variant': variant, 'model.blocks': (1, 1), 'model.widths': (8, 16)}
  config, shape = changed(load_config('cifar100'), fields), (32, 32, 3)
  order = {'names': ['a', 'b', 'c'], 'original_ids': [0, 1, 2]}
  manifest = {'task': 0, 'image_shape': shape, 'task_sizes': [3], 'class_order': order}
  parts = make_components(config, 3, shape, None)
  model = LoadedModel(config, freeze(init_student(parts, shape, None, 0)), manifest)
  images = np.random.default_rng(0).integers(0, 256, (9, *shape), np.uint8)
  np.testing.assert_allclose(export.run_onnx(export.onnx_file(model), images), model.predict(images)[1], atol=1e-5)
