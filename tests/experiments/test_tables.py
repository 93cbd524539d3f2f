"""experiments.tables: what is planned, read and rendered, and that a table goes on where it was stopped."""

import json
import shlex
from xml.etree import ElementTree

import pytest

from abd_jax import methods
from abd_jax.config import flatten
from abd_jax.errors import UserError
from abd_jax.run.workdir import Workdir
from experiments import figures, runs, tables
from experiments.paper import SPLITS, TABLES


def result(planned, accuracy, upper=1.0):
  """A result file's content: two tasks, everything right but for `accuracy` at the end."""
  matrix = [[upper], [accuracy, accuracy]]
  return dict.fromkeys(runs.KEPT) | {
    'schema_version': runs.SCHEMA,
    'method': planned.row.method,
    'test_images': [10, 10],
    'accuracy_matrix': matrix,
    'top5_accuracy_matrix': matrix,
    'final_accuracy': accuracy,
    'average_accuracy': (upper + accuracy) / 2,
    'forgetting': upper - accuracy,
    'final_top5_accuracy': accuracy,
    'seconds': {'train': 2.0},
    'device': {'kind': 'cpu'},
    'commit': 'abcdef0123',
    'config': {},
  }


@pytest.fixture
def planned():
  return runs.plan(TABLES['1'], 'digits', trials=2)


def write(folder, planned, **fields):
  (folder / f'{planned.name}.json').write_text(json.dumps(result(planned, 0.5) | fields))


def lines_of(planned, folder):
  found, complaints = runs.gather(planned, folder)
  return {line['method']: line for line in tables.summarise(TABLES['1'], 'digits', planned, found)}, complaints


def test_every_row_names_a_method_and_known_fields():
  for name, table in TABLES.items():
    for row in table.rows:
      assert row.method in methods.available(), (name, row)
      assert all(len(numbers) <= 4 for numbers in row.paper)
      if table.config == 'cifar100':
        runs.load_config('digits', f'method={row.method}', dict(row.overrides))


def test_paper_numbers_are_those_of_its_text():
  ours = next(row for row in TABLES['1'].rows if row.method == 'abd')
  assert ours.paper == ((43.9, 0.9, 78.6, 1.1), (33.7, 1.2, 69.6, 1.6), (20.0, 1.4, 52.5, 2.5))
  assert [row.paper[0][0] for row in TABLES['3'].rows[1:]] == [33.7, 23.4, 16.5, 15.9, 12.7, 9.8]
  assert [row.method for row in TABLES['B'].rows] == ['oracle', 'rehearsal', 'lwf_coreset', 'e2e', 'bic', 'abd']


def test_names_of_runs_are_all_different():
  names = [one.name for table in TABLES.values() for one in runs.plan(table, table.config, 3)]
  commands = {one.name: one.command for table in TABLES.values() for one in runs.plan(table, table.config, 3)}
  assert len(set(commands.values())) == len(commands) < len(names)  # tables share runs


def test_omega_takes_the_upper_bound_of_the_same_trial(planned, tmp_path):
  upper = [one for one in planned if one.row.method == 'oracle']
  abd = [one for one in planned if one.row.method == 'abd']
  for trial, accuracy in enumerate((1.0, 0.8)):
    write(tmp_path, upper[trial], **result(upper[trial], accuracy))
    write(tmp_path, abd[trial], **result(abd[trial], 0.4))
  lines, complaints = lines_of(planned, tmp_path)
  assert not complaints
  omegas = [100 * (1 + 0.4 / 1.0) / 2, 100 * (1 + 0.4 / 0.8) / 2]
  ours = lines['Always Be Dreaming']
  assert ours['n'] == 2 and ours['accuracy'] == pytest.approx(40) and ours['accuracy_std'] == pytest.approx(0)
  assert ours['omega'] == pytest.approx(sum(omegas) / 2)
  assert (ours['average_accuracy'], ours['forgetting']) == (pytest.approx(70), pytest.approx(60))
  assert ours['omega_std'] == pytest.approx((omegas[1] - omegas[0]) / 2)  # of the population
  assert lines['Upper bound']['omega'] == pytest.approx(100)
  assert lines['Base']['n'] == 0 and lines['Base']['accuracy'] is None


def test_a_missing_an_old_and_a_damaged_result_are_each_named(planned, tmp_path):
  for one in planned:
    write(tmp_path, one)
  of = lambda method, trial: next(one for one in planned if (one.row.method, one.trial) == (method, trial))
  (tmp_path / f'{of("base", 0).name}.json').unlink()
  write(tmp_path, of('lwf', 1), schema_version=0)
  (tmp_path / f'{of("dgr", 0).name}.json').write_text('{"schema_version": 1, "met')
  lines, complaints = lines_of(planned, tmp_path)
  text = tables.render('Table 1', list(lines.values()), complaints)
  assert [lines[name]['n'] for name in ('Base', 'LwF', 'DGR', 'DeepInversion')] == [1, 1, 1, 2]
  assert f'{of("base", 0).name}.json is missing' in text
  assert f'{of("lwf", 1).name}.json is of schema 0' in text and f'{of("dgr", 0).name}.json is damaged' in text
  assert len(complaints) == 3
  assert 'not run' not in text


def test_a_result_of_another_config_is_named(planned, tmp_path):
  write(tmp_path, planned[0], config={'student.epochs': 3, 'a.field.of.old': 1})
  lines, (complaint,) = lines_of(planned, tmp_path)
  assert lines['Upper bound']['n'] == 0
  assert complaint.startswith(f'{planned[0].name}.json ran with config.student.epochs=3, now 45')
  config = runs.load_config('digits', planned[0].argument).to_dict()
  stored = json.loads(json.dumps(flatten(config)))  # with lists for tuples
  write(tmp_path, planned[0], config=stored)
  assert lines_of(planned, tmp_path)[0]['Upper bound']['n'] == 1


def test_a_row_without_a_result_says_so(planned, tmp_path):
  write(tmp_path, planned[0])
  lines, complaints = lines_of(planned, tmp_path)
  assert complaints == [f'{planned[len(TABLES["1"].rows)].name}.json is missing: run it.']  # the other trial's
  text = tables.render('Table 1', list(lines.values()), complaints)
  assert text.count('not run') == len(TABLES['1'].rows) - 1


def test_papers_numbers_stand_beside_ours_on_its_own_data_only(tmp_path):
  own = runs.plan(TABLES['1'], 'cifar100', 1)
  abd = next(one for one in own if one.row.method == 'abd' and one.tasks == 10)
  write(tmp_path, abd, final_accuracy=0.347)
  lines = tables.summarise(TABLES['1'], 'cifar100', own, runs.gather(own, tmp_path)[0])
  line = next(line for line in lines if line['method'] == abd.row.name and line['tasks'] == 10)
  assert (line['paper_accuracy'], line['paper_omega']) == (33.7, 69.6) and line['deviation'] == pytest.approx(1.0)
  elsewhere = tables.summarise(TABLES['1'], 'digits', runs.plan(TABLES['1'], 'digits', 1), {})
  assert {line['paper_accuracy'] for line in elsewhere} == {None} and {line['tasks'] for line in elsewhere} == {
    *SPLITS['digits']
  }


@pytest.mark.parametrize(
  'words, message',
  [
    (['--table=7'], 'is not a table'),
    (['--table=1', '--data=digit'], "'digits'"),
    (['--table=4'], 'configs/imagenet50.py'),
    (['--table=1', '--data=digits', '--only=nothing'], 'is not a run'),
  ],
)
def test_mistakes(words, message):
  with pytest.raises(UserError, match=message):
    tables.main(words)


def test_a_table_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys, digits_data, compile_once):
  rows = tuple(row for row in TABLES['1'].rows if row.method in ('base', 'lwf'))
  monkeypatch.setitem(runs.TABLES, '1', TABLES['1']._replace(rows=rows))
  load = runs.load_config  # on one of the tests' eight devices
  monkeypatch.setattr(runs, 'load_config', lambda name, option, fields: load(name, option, fields | {'devices': 1}))
  folders = {name: tmp_path / name for name in ('runs', 'results', 'output')}
  words = ['--table=1', '--data=digits', '--trials=1', '--quick', *(f'--{k}={v}' for k, v in folders.items())]
  tables.main([*words, '--max_seconds=0.2'])
  assert 'paused' in capsys.readouterr().err and not folders['results'].exists()
  paused = json.loads((folders['runs'] / 'digits_quick-base-tasks=5-trial=0' / 'config.json').read_text())
  with Workdir(str(folders['runs'] / 'digits_quick-base-tasks=5-trial=0'), paused):
    tables.main([*words, '--max_runs=1'])
    assert 'left to it' in capsys.readouterr().err and not folders['results'].exists()
  tables.main([*words, '--max_runs=1'])
  assert '1 of 2 runs are missing' in capsys.readouterr().err
  tables.main([*words, '--print_commands'])
  (left,) = capsys.readouterr().out.splitlines()
  assert '--only=digits_quick-lwf-tasks=5-trial=0' in left and '--quick' in left
  tables.main([*shlex.split(left)[3:], f'--output={folders["output"]}'])
  assert 'missing' not in capsys.readouterr().err
  tables.main(words)
  text = capsys.readouterr().out
  assert 'not run' not in text
  assert (folders['output'] / 'table_1_digits.md').read_text() in text + '\n'
  assert len((folders['output'] / 'table_1_digits.csv').read_text().splitlines()) == 3
  config = json.loads((folders['results'] / 'digits_quick-base-tasks=5-trial=0.json').read_text())['config']
  assert not {'data.dir', 'oracle_dir', 'max_seconds'} & config.keys()


def test_figures_are_drawn_from_the_same_files(tmp_path, capsys):
  planned = runs.plan(TABLES['methods'], 'digits', trials=1)
  for one in planned[:3]:
    seconds, steps = {'train': 6.0}, {'student': 100}
    write(tmp_path, one, **result(one, 0.5 if one.row.method == 'base' else 1.0) | {'seconds': seconds, 'steps': steps})
  for one in planned[:3]:
    content = json.loads((tmp_path / f'{one.name}.json').read_text())
    content['seen_accuracy'] = [1.0, content['final_accuracy']]
    (tmp_path / f'{one.name}.json').write_text(json.dumps(content))
  words = ['--data=digits', '--max_runs=0', '--trials=1', f'--output={tmp_path}']
  figures.main(['--figure=A', f'--results={tmp_path}', *words])
  assert '- not run: Naive Rehearsal' in capsys.readouterr().out
  figures.main(['--figure=D', f'--results={tmp_path}', *words])
  omega, seconds = (tmp_path / f'figure_{name}_digits_5_tasks.csv' for name in 'AD')
  assert omega.read_text().splitlines()[:3] == ['method,1,2', 'Upper bound,100,100', 'Base,100,75']
  assert seconds.read_text().splitlines()[2] == 'Base,0.06'
  for file in tmp_path.glob('*.svg'):
    assert len(ElementTree.parse(file).getroot()) > 10
  with pytest.raises(UserError, match='no finished run'):
    figures.main([f'--results={tmp_path / "none"}', *words])
  with pytest.raises(UserError, match='--tasks=7 is not a split'):
    figures.main(['--tasks=7', f'--results={tmp_path}', *words])
