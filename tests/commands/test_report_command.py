"""abd-jax report: of tiny runs, sound, half finished and damaged."""

import json
import shlex
import shutil

import pytest
from conftest import REPO

from abd_jax.analysis.records import command as command_of
from abd_jax.commands import options
from abd_jax.commands import report as command
from abd_jax.config import flatten
from abd_jax.errors import Paused, UserError
from abd_jax.run.integrity import sealed
from abd_jax.run.workdir import FREE_FIELDS


@pytest.fixture
def copy(diagnosed, tmp_path):
  return shutil.copytree(diagnosed, tmp_path / 'copy')


def write(*words):
  return command.main([str(word) for word in words]).read_text()


def test_one_run(copy, capsys):
  page = write(copy)
  assert (copy / 'report.html').read_text() == page
  assert capsys.readouterr().out == f'report: {copy / "report.html"}\n'
  results = json.loads((copy / 'results.json').read_text())
  assert f'{100 * results["final_accuracy"]:.1f} %' in page
  command_line = 'python -m abd_jax.main --config=configs/digits.py:tasks=3,method=abd,trial=0'
  assert command_line in page and '--config.model.widths=&#x27;(4, 4, 4)&#x27;' in page


def test_the_command_gives_the_same_config(tiny_config, monkeypatch):
  asked = flatten(json.loads(json.dumps(tiny_config(inversion__lr=3e-4, data__flip=True).to_dict())))
  words = shlex.split(command_of(asked, 'a run'))
  assert words[:3] == ['python', '-m', 'abd_jax.main'] and words[-1] == '--workdir=runs/a run'
  monkeypatch.chdir(REPO)
  given = options.parse(words[3:], ('config', 'workdir'), fields=True)
  config = options.apply(options.load_config(given.options['config']), given.fields)
  got = flatten(json.loads(json.dumps(config.to_dict())))
  assert {name for name in asked if asked[name] != got[name]} <= set(FREE_FIELDS)


def test_several_runs_lie_where_they_have_in_common(diagnosed, tmp_path, capsys):
  for name in ('a', 'b'):
    shutil.copytree(diagnosed, tmp_path / name)
  write(tmp_path / 'a', tmp_path / 'b')
  assert (tmp_path / 'report.html').exists()


def test_class_names_of_any_kind(copy):
  results = json.loads((copy / 'results.json').read_text())
  results['class_order']['names'] = [f'<b>{k}</b> 🦊' for k in range(10)]
  (copy / 'results.json').write_text(json.dumps(sealed(results)))
  page = write(copy)
  assert '&lt;b&gt;0&lt;/b&gt; 🦊' in page and '<b>0</b> 🦊' not in page


def test_a_run_under_way(learn, few_dreams, tmp_path):
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


def test_without_data_or_models_the_rest_is_shown(copy, capsys):
  shutil.rmtree(copy / 'teachers')
  shutil.rmtree(copy / 'diagnosis')
  page = write(copy)
  assert 'No diagnosis' in page and '<h2>Accuracy</h2>' in page
  assert capsys.readouterr().err.count('\n') == 1
  assert 'No diagnosis' not in write(copy, '--no-diagnosis')


def change(name, text):
  return lambda folder: (folder / name).write_text(text)


def version(folder):
  results = json.loads((folder / 'results.json').read_text())
  (folder / 'results.json').write_text(json.dumps(results | {'schema_version': 99}))


@pytest.mark.parametrize(
  ('damage', 'match'),
  [
    (change('results.json', '{"final'), 'results.json is damaged'),
    (change('results.json', '{"schema_version": 1}'), 'lacks method'),
    (version, 'schema 99'),
    (change('config.json', '[]'), 'config.json is damaged'),
    (change('metrics.jsonl', 'x\n{}\n'), 'damaged in line 1'),
    (change('confusion/task_3.csv', 'x,y\n'), 'task_3.csv is damaged'),
    (change('diagnosis/images.npz', ''), 'images.npz is damaged'),
    (change('diagnosis/diagnosis.json', '{'), 'diagnosis.json is damaged'),
    (shutil.rmtree, 'holds no run'),
  ],
)
def test_what_is_damaged_is_refused_in_one_line(copy, damage, match):
  damage(copy)
  try:
    page = write(copy)
  except UserError as error:
    assert match in str(error) and '\n' not in str(error)
  else:
    assert match in page  # a diagnosis that cannot be read is a note


@pytest.mark.parametrize(
  ('words', 'match'),
  [
    ([], 'of which run'),
    (['a', 'a'], 'named twice'),
    (['--colour', 'a'], '--colour is not an option'),
    (['nowhere'], 'holds no run'),
  ],
)
def test_mistakes_are_one_line(words, match):
  with pytest.raises(UserError, match=match) as error:
    command.main(words)
  assert '\n' not in str(error.value)


def test_an_output_that_cannot_be_written(copy):
  with pytest.raises(UserError, match='cannot be written'):
    write(copy, f'--output={copy}/results.json/x.html', '--no-diagnosis')
