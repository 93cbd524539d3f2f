"""abd-jax predict and export: a finished run asked about image files, and written to one file for JAX alone."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import snapshot
from PIL import Image

from abd_jax.commands import export, predict
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks
from abd_jax.run import streams
from abd_jax.run.load import load_model


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('predict')


@pytest.fixture
def trained(root, learn):
  """(workdir, results, folder of the test images as PNG files named number_class, the images u8[n, 8, 8, 1])."""
  results = learn(root / 'run', method='lwf')
  order = results['class_order']
  stream = TaskStream(open_dataset('digits', ''), Tasks(tuple(order['original_ids']), tuple(results['task_sizes'])))
  images, labels = stream.test(2)
  folder = root / 'images'
  if not folder.exists():
    folder.mkdir()
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
      Image.fromarray(image[..., 0]).save(folder / f'{k:04}_{order["names"][label]}.png')
  return root / 'run', results, folder, images


def test_predictions_of_files_are_as_accurate_as_the_run_says_exactly(trained, capsys):
  path, results, folder, images = trained
  predict.run([str(path), str(folder), '--format=jsonl'])
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [Path(row['image']) for row in rows] == sorted(folder.iterdir())
  hits = [row['class'] == Path(row['image']).stem.partition('_')[2] for row in rows]
  assert np.mean(hits) == results['final_accuracy']
  names, probabilities = load_model(path).predict(images)
  assert [row['class'] for row in rows] == list(names)
  np.testing.assert_allclose([list(row['probabilities'].values()) for row in rows], probabilities, rtol=1e-5)


def test_csv_and_a_table_say_the_same_of_names_on_standard_input(trained, capsys, monkeypatch):
  path, _, folder, images = trained
  files = sorted(folder.iterdir())[:3]
  monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(map(str, files))))
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


def test_colours_and_turned_images_are_brought_to_the_models_form(trained, tmp_path):
  _, _, folder, images = trained
  first = Image.open(sorted(folder.iterdir())[0])
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by a quarter
  for mode in ('RGB', 'RGBA', 'P'):
    first.convert(mode).save(tmp_path / f'{mode}.png')
  first.transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'turned.png', exif=exif)
  for file in tmp_path.iterdir():
    np.testing.assert_array_equal(predict.read_image(file, (8, 8, 1)), images[0], err_msg=file.name)
  assert predict.read_image(tmp_path / 'RGB.png', (8, 8, 3)).shape == (8, 8, 3)


def test_transparent_and_deep_images_are_taken_as_in_training(tmp_path):
  mark = np.zeros((8, 8, 4), np.uint8)
  mark[2:4, 2:4, 3] = 255  # black, on nothing
  Image.fromarray(mark).save(tmp_path / 'mark.png')
  ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
  Image.fromarray(ramp).save(tmp_path / 'deep.png')
  found = predict.read_image(tmp_path / 'mark.png', (8, 8, 1))[..., 0]
  np.testing.assert_array_equal(found, np.where(mark[..., 3], 0, 255))
  np.testing.assert_allclose(predict.read_image(tmp_path / 'deep.png', (8, 8, 1))[..., 0], ramp / 257, atol=0.51)


def test_names_that_are_not_utf8_come_and_go(trained, tmp_path, capfdbinary, monkeypatch):
  path, _, folder, _ = trained
  name = os.fsencode(tmp_path) + b'/caf\xe9.png'
  shutil.copy(sorted(folder.iterdir())[0], name)
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(name + b'\n'), 'utf-8'))
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out := io.BytesIO(), 'utf-8'))
  streams.spell_out('stdout')
  predict.run([str(path), '-'])
  sys.stdout.flush()
  assert rb'caf\udce9.png' in out.getvalue()


def spoilt(folder, way):
  (folder / 'bad.png').write_bytes({'empty': b'', 'text': b'no image'}.get(way, b''))
  if way == 'cut':
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)).save(folder / 'bad.png')
    content = (folder / 'bad.png').read_bytes()
    (folder / 'bad.png').write_bytes(content[: len(content) - 40])
  if way == 'large':
    Image.new('L', (9, 8)).save(folder / 'bad.png')
  if way == 'missing':
    (folder / 'bad.png').unlink()
  return [str(folder / 'bad.png')]


@pytest.mark.parametrize(
  ('way', 'match'),
  [
    ('empty', 'bad.png cannot be read'),
    ('text', 'bad.png cannot be read'),
    ('cut', 'bad.png cannot be read'),
    ('missing', r'bad.png cannot be read \(No such file'),
    ('large', 'bad.png is 8x9, but this model takes 8x8'),
  ],
)
def test_one_bad_image_of_many_is_told_and_nothing_is_printed(trained, tmp_path, capsys, way, match):
  path, _, folder, _ = trained
  before = snapshot(path)
  good = [str(file) for file in sorted(folder.iterdir())]
  with pytest.raises(UserError, match=match) as error:
    predict.run([str(path), *good, *spoilt(tmp_path, way)])
  assert '\n' not in str(error.value) and not capsys.readouterr().out and snapshot(path) == before


@pytest.mark.parametrize(
  ('words', 'match'),
  [
    (['--format=xml', 'x.png'], '--format=xml'),
    (['--top=0', 'x.png'], '--top=0 must be'),
    (['--task=4', 'x.png'], 'no model after task 3'),
    (['--tsk=1', 'x.png'], "Did you mean 'task'"),
    (['--top=1', '--top=2', 'x.png'], '--top is given twice'),
    (['--top'], '--top has no value'),
    ([], 'give a workdir and images'),
  ],
)
def test_mistyped_words_are_told(trained, words, match):
  with pytest.raises(UserError, match=match):
    predict.run([str(trained[0]), *words])


def test_a_folder_without_images_and_a_run_that_is_not_finished_are_told(trained, tmp_path):
  path, _, folder, _ = trained
  with pytest.raises(UserError, match='no image in'):
    predict.run([str(path), str(tmp_path)])
  shutil.copytree(path, tmp_path / 'run')
  (tmp_path / 'run' / 'results.json').unlink()
  image = str(sorted(folder.iterdir())[0])
  for run, words in ((predict.run, [image]), (export.run, [str(tmp_path / 'x.zip')])):
    with pytest.raises(UserError, match=r'is not finished\. Resume it, or take the model after a task'):
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


def test_the_exported_file_says_the_same_in_a_process_with_jax_alone(trained, tmp_path, cli_env, capsys):
  path, _, _, images = trained
  export.run([str(path), str(tmp_path / 'model.zip')])
  assert '6 classes' in capsys.readouterr().out
  np.save(tmp_path / 'images.npy', images)
  loader = '\n'.join(line[2:] for line in export.__doc__.splitlines() if line.startswith('  ') and '--task' not in line)
  assert len(loader.splitlines()) <= 10
  script = f'{BLOCKED}\n{loader}\nnumpy.save("found.npy", probabilities)\nprint(predict(images[:1]).shape)'
  done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=cli_env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  names, probabilities = load_model(path).predict(images)
  np.testing.assert_allclose(np.load(tmp_path / 'found.npy'), probabilities, atol=1e-5)
  assert str(names.tolist()) in done.stdout and '(1, 6)' in done.stdout


def test_what_is_no_regular_file_is_not_replaced(trained, tmp_path):
  """As /dev/full and the like, which root could replace."""
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  with pytest.raises(UserError, match='it is no regular file'):
    export.run([str(trained[0]), str(pipe)])
  assert pipe.is_fifo() and [file.name for file in tmp_path.iterdir()] == ['pipe']


def test_the_exported_function_is_lowered_for_all_three_platforms(trained):
  from jax import export as jax_export

  function = jax_export.deserialize(bytearray(load_model(trained[0]).export()))
  assert function.platforms == ('cpu', 'cuda', 'tpu')
  assert [str(aval) for aval in function.in_avals] == ['uint8[n,8,8,1]']
  assert [str(aval) for aval in function.out_avals] == ['float32[n,6]']


def test_a_file_that_cannot_be_written_is_told_and_the_old_one_kept(trained, tmp_path, monkeypatch):
  path = str(trained[0])
  for file in (tmp_path / 'none' / 'model.zip', tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
      export.run([path, str(file)])
  (tmp_path / 'model.zip').write_text('old')
  full = OSError(28, 'No space left on device')

  def write_bytes(self, content):
    raise full

  monkeypatch.setattr(Path, 'write_bytes', write_bytes)
  with pytest.raises(UserError, match='No space left on device'):
    export.run([path, str(tmp_path / 'model.zip')])
  assert snapshot(tmp_path) == {'model.zip': b'old'}
  assert not zipfile.is_zipfile(tmp_path / 'model.zip')
