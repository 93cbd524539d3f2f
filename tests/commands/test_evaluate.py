"""abd-jax evaluate: a finished run tested on its own test images and on folders."""

import json

import numpy as np
import pytest
from conftest import snapshot
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from abd_jax.commands import evaluate
from abd_jax.errors import UserError
from abd_jax.run.extend import stream_of_run
from abd_jax.run.load import load_model


def evaluated(capsys, *words):
  evaluate.run([*map(str, words), '--json=-'])
  return json.loads(capsys.readouterr().out)


def assert_equals_results(found, results, task=-1):
  """To the last digit."""
  for name in ('accuracy', 'top5_accuracy', 'task_aware_accuracy'):
    matrix = results['accuracy_matrix' if name == 'accuracy' else f'{name}_matrix']
    assert [one[name] for one in found['tasks']] == matrix[task], name
    if task == -1:
      assert found[name] == results[f'final_{name}'], name
  assert [one['images'] for one in found['tasks']] == results['test_images'][: found['task'] + 1]
  assert found['images'] == sum(one['images'] for one in found['classes'])


def test_a_run_is_evaluated_as_it_evaluated_itself(small_run, capsys, tmp_path):
  path = small_run()
  before, results = snapshot(path), json.loads((path / 'results.json').read_text())
  found = evaluated(capsys, path, f'--csv={tmp_path / "confusion.csv"}')
  assert_equals_results(found, results)
  assert [one['accuracy'] for one in found['classes']] == results['class_accuracy']
  assert [one['top5_accuracy'] for one in found['classes']] == results['class_top5_accuracy']
  assert [one['name'] for one in found['classes']] == results['class_order']['names'][:4]
  assert (tmp_path / 'confusion.csv').read_bytes() == (path / 'confusion' / 'task_2.csv').read_bytes()
  assert_equals_results(evaluated(capsys, path, '--task=1'), results, task=0)
  assert snapshot(path) == before


def test_numbers_are_those_of_the_models_predictions(small_run, capsys):
  path = small_run()
  images, labels = stream_of_run(path).test(1).decode()
  model = load_model(path)
  names, probabilities = model.predict(images)
  found, true = evaluated(capsys, path), np.array(model.class_names)[labels]
  assert found['accuracy'] == pytest.approx(accuracy_score(true, names), abs=1e-12)
  assert found['confusion'] == confusion_matrix(true, names, labels=model.class_names).tolist()
  inside = np.where(model.task_of_class[:4] == model.task_of_class[labels][:, None], probabilities, -1).argmax(1)
  assert found['task_aware_accuracy'] == pytest.approx(np.mean(inside == labels), abs=1e-12)
  error, top = 0.0, probabilities.max(1)
  for part in np.unique(np.ceil(top * 15)):
    mine = np.ceil(top * 15) == part
    error += abs(np.sum((names == true)[mine]) - np.sum(top[mine])) / len(top)
  assert found['calibration_error'] == pytest.approx(error, abs=1e-6)


def write_folder(folder, images, names):
  """The images u8[n, 8, 8, 1] of digits, 0 to 16, as ordinary PNG files in a folder for each class."""
  for k, (image, name) in enumerate(zip(images, names, strict=True)):
    (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(image[..., 0] * (255 / 16)).astype(np.uint8)).save(folder / name / f'{k}.png')


def test_the_same_images_in_a_folder_give_the_same_numbers(small_run, capsys, tmp_path):
  path = small_run()
  images, labels = stream_of_run(path).test(1).decode()
  names = np.array(load_model(path).class_names)[labels]
  own = evaluated(capsys, path)
  write_folder(tmp_path / 'a' / 'Test_set', images, names)
  for folder in (tmp_path / 'a', tmp_path / 'a' / 'Test_set'):  # train/ is not needed
    found = evaluated(capsys, path, folder)
    assert found == own | {'folder': str(tmp_path / 'a' / 'Test_set'), 'left_out': {}}
  assert_equals_results(found, json.loads((path / 'results.json').read_text()))


def test_classes_that_the_model_does_not_know_are_left_out_and_counted(small_run, capsys, tmp_path):
  path, folder = small_run(), tmp_path / 'a'
  names, (images, labels) = load_model(path).class_names, stream_of_run(path).test(1).decode()
  task = load_model(path).task_of_class[labels]
  write_folder(folder, images[task == 1], np.array(names)[labels[task == 1]])
  write_folder(folder, images[:3], ['cat', 'train', 'cat'])
  (folder / 'empty').mkdir()
  found, own = evaluated(capsys, path, folder), evaluated(capsys, path)
  assert found['left_out'] == {'cat': 2, 'train': 1}
  assert found['tasks'][1] == own['tasks'][1] and found['accuracy'] == own['tasks'][1]['accuracy']
  assert found['tasks'][0] == {'images': 0, 'accuracy': None, 'top5_accuracy': None, 'task_aware_accuracy': None}
  evaluate.run([str(path), str(folder)])
  assert 'left out 3 images of classes that the model does not know: cat (2), train (1)' in capsys.readouterr().out
  with pytest.raises(UserError, match=f'expected folders such as {names[0]}, {names[1]}, got {names[2]}'):
    evaluate.run([str(path), str(folder), '--task=1'])


def test_training_images_in_the_folder_are_told(small_run, tmp_path, capsys):
  path = small_run()
  config = json.loads((path / 'config.json').read_text())
  config['data'] |= {'name': 'image_folder', 'dir': str(tmp_path)}
  (path / 'config.json').write_text(json.dumps(config))
  evaluate.warn_of_training(tmp_path / 'test', path)
  assert not capsys.readouterr().err
  evaluate.warn_of_training(tmp_path / 'abd' / '..', path)
  assert 'training images' in capsys.readouterr().err


def test_tables_show_every_class_and_the_matrix_or_what_it_says(small_run, capsys, monkeypatch, tmp_path):
  path = small_run()
  monkeypatch.setenv('COLUMNS', '80')
  evaluate.run([str(path), f'--json={tmp_path / "found.json"}'])
  tasks, classes, error, matrix = capsys.readouterr().out.split('\n\n')
  found = json.loads((tmp_path / 'found.json').read_text())
  numbers = lambda line: line.replace('|', ' ').split()
  assert numbers(tasks.splitlines()[2])[2:] == [
    f'{100 * found[name]:.1f}' for name in ('accuracy', 'top5_accuracy', 'task_aware_accuracy')
  ]
  assert [numbers(line)[0] for line in classes.splitlines()[2:]] == [one['name'] for one in found['classes']]
  assert f'{100 * found["calibration_error"]:.1f} %' in error
  counts = np.array([[int(cell) for cell in numbers(line)[1:]] for line in matrix.splitlines()[2:]])
  np.testing.assert_array_equal(counts, found['confusion'])
  monkeypatch.setenv('COLUMNS', '20')
  evaluate.run([str(path)])
  mistakes = capsys.readouterr().out.split('\n\n')[-1].splitlines()[3:]
  wrong = counts - np.diag(np.diag(counts))
  assert len(mistakes) == min(np.count_nonzero(wrong), 10) and numbers(mistakes[0])[2] == str(wrong.max())


def test_mistakes_are_told_before_any_work(small_run, tmp_path):
  for words, match in (
    (['a', '--json=x', '--jsn=y'], 'not an option'),
    ([], 'expected abd-jax evaluate WORKDIR'),
    ([tmp_path], 'no frozen model'),
    ([tmp_path, f'--csv={tmp_path}'], 'cannot be written'),
    ([tmp_path, f'--json={tmp_path / "none" / "x.json"}'], 'cannot be written'),
  ):
    with pytest.raises(UserError, match=match):
      evaluate.run(list(map(str, words)))
