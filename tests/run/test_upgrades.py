"""Runs that an earlier version left (tests/fixtures): read by this one, or refused in one line."""

import json
import shutil

import numpy as np
import pytest
from conftest import FIXTURES, snapshot
from PIL import Image

from abd_jax.analysis.records import read_run
from abd_jax.commands import predict
from abd_jax.config import restored
from abd_jax.errors import UserError
from abd_jax.files import sealed
from abd_jax.report.page import report
from abd_jax.run.checkpoint import read_manifest
from abd_jax.run.load import load_model
from abd_jax.train import train_and_evaluate

METHODS = ('abd', 'e2e')
CLASSES = ('7', '8', '1', '5')  # those that the runs have learnt, in order


@pytest.fixture(params=METHODS)
def run(request, tmp_path):
  """A copy of the fixture's workdir."""
  return shutil.copytree(FIXTURES / request.param, tmp_path / request.param)


def config_of(folder):
  return restored(json.loads((folder / 'config.json').read_text()))


def test_its_results_are_printed_without_its_data(run):
  assert train_and_evaluate(config_of(run), str(run)) == json.loads((run / 'results.json').read_text())


def test_its_models_name_images_and_dream(run, tmp_path, capsys):
  Image.fromarray((np.arange(64, dtype=np.uint8) // 4).reshape(8, 8)).save(tmp_path / 'a.png')
  predict.run([str(run), str(tmp_path / 'a.png'), '--format=jsonl'])
  said = json.loads(capsys.readouterr().out)
  assert said['class'] in CLASSES and tuple(said['probabilities']) == CLASSES
  first = load_model(run, 0)
  assert first.class_names == CLASSES[:2] and first.can_dream == (run.name == 'abd')
  if first.can_dream:
    assert np.isfinite(first.dream(4)[0]).all()


def test_it_is_reported_by_its_files_alone(run):
  record = read_run(run, look=False)
  assert record.class_names == CLASSES and record.rows == record.results['accuracy_matrix']
  assert f'{run.name} on digits, 2 tasks' in report([record])


def test_from_its_last_checkpoint_its_results_are_written_anew_without_a_step(run, digits_data):
  before, log = json.loads((run / 'results.json').read_text()), (run / 'metrics.jsonl').read_bytes()
  (run / 'results.json').unlink()
  after = train_and_evaluate(config_of(run), str(run))
  assert after['accuracy_matrix'] == before['accuracy_matrix'] and after['steps'] == before['steps']
  assert before.keys() <= after.keys() and (run / 'metrics.jsonl').read_bytes() == log


def learnt(folder, task, phase):
  """Means over all steps of a phase, by metric, from the records of its chunks."""
  records = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  chunks = [one for one in records if (one['task'], one['phase']) == (task, phase)]
  counts = np.diff([0, *(one['step'] for one in chunks)])
  names = chunks[0].keys() - {'task', 'phase', 'step', 'images_per_second'}
  return {name: np.average([one[name] for one in chunks], weights=counts) for name in names}


@pytest.mark.parametrize('method', METHODS)
def test_paused_in_the_middle_of_task_2_it_goes_on_to_the_end_it_would_have_had(method, tmp_path, digits_data):
  """Its student, optimizer, teacher, generator, memory and random numbers: all of them count for the steps left."""
  path, whole = shutil.copytree(FIXTURES / 'paused' / method, tmp_path / method), FIXTURES / method
  log, config = (path / 'metrics.jsonl').read_bytes(), config_of(path).unlock()
  config.max_seconds = 0.0
  results, expected = train_and_evaluate(config, str(path)), json.loads((whole / 'results.json').read_text())
  assert [(one['task'], one['step']) for one in results['stretches']] == [(1, 5)]  # of 9
  assert (path / 'metrics.jsonl').read_bytes().startswith(log) and results['steps'] == expected['steps']
  for phase in {'abd': ['learning'], 'e2e': ['learning', 'learning_2']}[method]:
    assert learnt(path, 1, phase) == pytest.approx(learnt(whole, 1, phase), rel=1e-3), phase
  rows = results['accuracy_matrix'], expected['accuracy_matrix']
  assert [len(row) for row in rows[0]] == [1, 2] and rows[0][0] == rows[1][0]
  assert rows[0][1] == pytest.approx(rows[1][1], abs=0.04)  # two of 60 images


def test_another_config_is_refused_in_one_line_and_nothing_is_touched(run):
  there, config = snapshot(run), config_of(run).unlock()
  config.trial = 7
  with pytest.raises(UserError, match=r'holds a run with config\.trial=0, not 7') as error:
    train_and_evaluate(config, str(run))
  assert len(str(error.value).splitlines()) == 1 and snapshot(run) == there


def test_a_class_order_of_a_file_is_the_same_by_what_stands_in_it(tmp_path, learn):
  """Earlier versions kept the file's name; and a run that has kept its content no longer needs the file."""
  order = tmp_path / 'order.txt'
  order.write_text('3 1 4 0 5 9 2 6 8 7')
  results = learn(tmp_path / 'run', method='base', class_order=str(order))
  file = tmp_path / 'run' / 'config.json'
  stored = json.loads(file.read_text())
  assert stored['class_order'] == '3,1,4,0,5,9,2,6,8,7'
  file.write_text(json.dumps(stored | {'class_order': str(order)}))
  assert learn(tmp_path / 'run', method='base', class_order=str(order)) == results
  order.write_text('1 3 4 0 5 9 2 6 8 7')
  file.write_text(json.dumps(stored))
  with pytest.raises(UserError, match="class_order='3,1,4"):
    learn(tmp_path / 'run', method='base', class_order=str(order))
  order.unlink()
  assert learn(tmp_path / 'run', method='base', class_order=str(order)) == results
  with pytest.raises(UserError, match='cannot be read'):
    learn(tmp_path / 'another', method='base', class_order=str(order))


def of_another_version(folder, name):
  """Rewrites a sealed record of the run as a version to come might."""
  file = folder / name
  file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {'schema_version': 99})))


def test_records_of_a_later_version_are_refused_in_one_line(run):
  of_another_version(run, 'teachers/1.json')
  with pytest.raises(UserError, match=r'1\.json is of schema 99, this version of abd_jax reads 1'):
    read_manifest(run / 'teachers' / '1')
  of_another_version(run, 'results.json')
  with pytest.raises(UserError, match=r'results\.json is of schema 99, this version of abd_jax reads 1'):
    read_run(run, look=False)
  with pytest.raises(UserError, match=r'results\.json is of schema 99'):
    train_and_evaluate(config_of(run), str(run))


def test_a_checkpoint_of_another_version_is_refused_in_one_line(run, digits_data):
  (run / 'results.json').unlink()
  newest = max((run / 'checkpoints' / 'student').iterdir(), key=lambda path: int(path.name))
  of_another_version(newest, 'progress/metadata')
  there = snapshot(run)
  with pytest.raises(UserError, match='was written by another version of abd_jax') as error:
    train_and_evaluate(config_of(run), str(run))
  assert len(str(error.value).splitlines()) == 1 and snapshot(run) == there
