"""abd-jax report: of tiny runs, sound, half finished and damaged."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from abd_jax.analysis.records import read_run
from abd_jax.commands import parse
from abd_jax.commands import report as command
from abd_jax.config import flatten, load_config
from abd_jax.devices import backend
from abd_jax.errors import Paused, UserError
from abd_jax.run.logs import write_confusion


@pytest.fixture
def copy(diagnosed, tmp_path):
  return shutil.copytree(diagnosed, tmp_path / 'copy')


@pytest.fixture
def write(capsys):
  def make(*words):
    """The page that these words write."""
    command.run([str(word) for word in words])
    return Path(capsys.readouterr().out.removeprefix('report: ').strip()).read_text()

  return make


def test_one_run(copy, write):
  page = write(copy)
  assert (copy / 'report.html').read_text() == page
  results = json.loads((copy / 'results.json').read_text())
  assert f'<td class="n">{100 * results["final_accuracy"]:.1f}</td>' in page
  assert f'--config={copy / "config.json"}' in page and f'--workdir={copy}_again' in page


def test_the_command_gives_the_same_config(copy):
  config = json.loads((copy / 'config.json').read_text())
  (copy / 'config.json').write_text(json.dumps(config | {'max_seconds': 50.5}))
  run = read_run(copy, look=False)
  assert 'task_sizes' in run.changed and 'max_seconds' not in run.changed  # which changes no result
  given = parse('', shlex.split(run.command)[3:], {'config': (), 'workdir': ()}, fields=True)
  config = flatten(json.loads(json.dumps(load_config(given.options['config']).to_dict())))
  assert {name for name in config if config[name] != run.config[name]} <= {'data.fingerprint'}


def test_several_runs_share_the_page_and_other_folders_are_left_out(copy, write, tmp_path, monkeypatch):
  write_confusion(copy / 'confusion' / 'task_3.csv', [f'<b>{k}</b> 🦊' for k in range(6)], np.eye(6, dtype=int))
  shutil.copytree(copy, tmp_path / 'other')
  for name in ('compilation_cache', 'oracles'):
    (tmp_path / name).mkdir()
  caches = []
  monkeypatch.setattr(backend, 'use_compilation_cache', caches.append)
  page = write(*sorted(tmp_path.iterdir()))
  assert (tmp_path / 'report.html').read_text() == page and '>2 runs.' in page
  assert '&lt;b&gt;0&lt;/b&gt; 🦊' in page and '<b>0</b> 🦊' not in page
  assert write(copy, copy, '--no-diagnosis', f'--output={tmp_path}/out/a.html') != page
  assert caches == [str(copy / 'compilation_cache')] * 2  # of the first run
  with pytest.raises(UserError, match='compilation_cache holds no run'):
    write(tmp_path / 'compilation_cache')


def test_a_run_under_way(learn, few_dreams, write, tmp_path):
  with pytest.raises(Paused):
    learn(tmp_path, max_seconds=0.001)
  page = write(tmp_path)
  assert 'No task is complete yet.' in page and 'No diagnosis' in page
  while not (tmp_path / 'teachers' / '0.json').exists():
    with pytest.raises(Paused):
      learn(tmp_path, max_seconds=0.001)
  with (tmp_path / 'metrics.jsonl').open('a') as log:
    log.write('{"half a li')  # as a kill leaves it
  assert 'accuracy so far, after task 1' in write(tmp_path)


def test_a_model_that_cannot_be_read_is_refused_unless_no_diagnosis_is_asked_for(copy, write):
  shutil.rmtree(copy / 'diagnosis', ignore_errors=True)
  (copy / 'teachers' / '1' / 'manifest.ocdbt').unlink()
  with pytest.raises(UserError, match=r'teachers/1 cannot be read .* --no-diagnosis'):
    write(copy)
  assert 'Accuracy matrix' in write(copy, '--no-diagnosis')


def extended(folder, base, accuracies):
  """A run under way in `folder` that extends `base`, three tasks, as it is after these evaluations of later ones."""
  folder.mkdir()
  config = json.loads((base / 'config.json').read_text())
  config |= {'extends': str(base), 'task_sizes': [2, 2, 2, 1, 1], 'tasks': 5}
  (folder / 'config.json').write_text(json.dumps(config))
  for task, row in enumerate(accuracies, 3):
    write_confusion(
      folder / 'confusion' / f'task_{task + 1}.csv', [str(k) for k in range(task + 4)], np.eye(task + 4, dtype=int)
    )
    record = {'task': task, 'phase': 'evaluating', 'accuracy': row, 'seen_accuracy': 0.25}
    with (folder / 'metrics.jsonl').open('a') as log:
      log.write(json.dumps(record) + '\n')
  return folder


def test_an_extended_run_under_way_goes_on_where_its_base_ended(copy, write, tmp_path):
  results = json.loads((copy / 'results.json').read_text())
  accuracies = [[0.5, 0.5, 0.5, 0.125], [0.5, 0.5, 0.5, 0.5, 0.5]]
  for n in range(3):
    folder = extended(tmp_path / f'more_{n}', copy, accuracies[:n])
    run = read_run(folder, look=False)
    assert run.results['accuracy_matrix'] == results['accuracy_matrix'] + accuracies[:n]
    assert run.results['seen_accuracy'] == results['seen_accuracy'] + [0.25] * n
    assert len(run.confusion[0]) == n + 6 if n else run.confusion is None
    page = write(folder, '--no-diagnosis')
    assert f'accuracy so far, after task {3 + n}' in page and 'Accuracy matrix' in page
  assert '25.0 %' in page and '4, 4: 12.5 %' in page
  shutil.rmtree(copy)
  with pytest.raises(UserError, match=r'no results\.json'):
    write(folder, '--no-diagnosis')


def test_a_run_of_another_is_shown_where_its_diagnosis_cannot_be_kept(copy, write, tmp_path):
  shutil.rmtree(copy / 'diagnosis')
  (copy / 'diagnosis').write_text('')  # where no folder can be made
  assert '<h2>Dreams</h2>' in write(copy, f'--output={tmp_path}/page.html')
  assert (copy / 'diagnosis').is_file()


def change(name, text):
  return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
  ('damage', 'match'),
  [
    (change('results.json', '{"final'), 'results.json is damaged'),
    (change('results.json', '{"schema_version": 1}'), 'results.json is damaged'),
    (change('results.json', '{"schema_version": 99}'), 'schema 99'),
    (change('config.json', '[]'), 'config.json is damaged'),
    (change('phases.jsonl', 'x\n{}\n'), 'damaged in line 1'),
    (change('confusion/task_3.csv', 'x,y\n'), 'task_3.csv is damaged'),
    (shutil.rmtree, 'holds no run'),
  ],
)
def test_what_is_damaged_is_refused_in_one_line(copy, write, damage, match):
  damage(copy)
  with pytest.raises(UserError, match=match):
    write(copy)


@pytest.mark.parametrize(
  ('words', 'match'),
  [
    ([], 'expected abd-jax report WORKDIR'),
    (['--colour=1', 'a'], '--colour is not an option'),
    (['--output=.', 'nowhere'], 'cannot be written'),
  ],
)
def test_mistakes_are_one_line(words, match, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=match):
    command.run(words)
  assert not list(tmp_path.iterdir())
