"""experiments table: what is read and rendered, paired differences, and that a table resumes where it was stopped."""

import itertools
import json
import re
import shlex
from argparse import Namespace

import numpy as np
import pytest
from fakes import names, result, tiny_runs, write
from PIL import Image

from abd_jax.config import flatten, load_config
from abd_jax.data.sources import open_configured
from abd_jax.errors import UserError
from abd_jax.run.workdir import Workdir
from experiments import __main__ as command
from experiments import runs, summary, table
from experiments.paper import SPLITS, TABLES
from experiments.plan import ad_hoc, plan
from experiments.store import read_runs


@pytest.fixture
def planned():
  return plan(TABLES['1'], 'digits', trials=2)


def one_of(planned, method, trial=0):
  return next(one for one in planned if (one.row.method, one.trial) == (method, trial))


def lines_of(planned, folder, name='1', config='digits'):
  found, complaints = runs.gather(planned, folder)
  return {line['method']: line for line in summary.summarise(TABLES[name], config, planned, found)}, complaints


def test_omega_takes_the_upper_bound_of_the_same_trial(planned, tmp_path):
  for trial, accuracy in enumerate((1.0, 0.8)):
    write(tmp_path, one_of(planned, 'oracle', trial), accuracy)
    write(tmp_path, one_of(planned, 'abd', trial), 0.4)
  lines, complaints = lines_of(planned, tmp_path)
  assert not complaints
  omegas = [100 * (1 + 0.4 / 1.0) / 2, 100 * (1 + 0.4 / 0.8) / 2]
  ours = lines['Always Be Dreaming']
  assert ours['n'] == 2 and ours['accuracy'] == pytest.approx(40) and ours['accuracy_std'] == pytest.approx(0)
  assert ours['omega'] == pytest.approx(sum(omegas) / 2)
  assert (ours['average_accuracy'], ours['forgetting']) == (pytest.approx(70), pytest.approx(60))
  assert ours['omega_std'] == pytest.approx((omegas[1] - omegas[0]) / 2)  # of the population
  assert lines['Upper bound']['omega'] == pytest.approx(100)
  assert lines['Upper bound']['spread'] == pytest.approx(20)  # from the worst to the best
  assert lines['Base']['n'] == 0 and lines['Base']['accuracy'] is None and lines['Base']['spread'] is None


def test_differences_are_paired_by_trial(tmp_path):
  planned = plan(TABLES['1'], 'digits', trials=4)
  of = {'abd': (0.80, 0.70, 0.90, 0.60), 'lwf': (0.70, 0.64, 0.78, None), 'base': (0.8, 0.6, None, None)}
  of |= {'dgr': (0.5, None, None, None), 'oracle': (0.82, 0.71, 0.92, 0.61)}
  for method, accuracies in of.items():
    for trial, accuracy in enumerate(accuracies):
      if accuracy is not None:
        write(tmp_path, one_of(planned, method, trial), accuracy)
  lines, _ = lines_of(planned, tmp_path)
  keys = ('difference', 'difference_se', 'pairs', 'lower', 'reference')
  of_row = lambda name: tuple(lines[name][key] for key in keys)
  # -10, -6, -12: mean -28/3, sample variance (4/9 + 100/9 + 64/9) / 2 = 28/3, over n = 3.
  assert of_row('LwF') == (
    pytest.approx(-28 / 3), pytest.approx((28 / 9) ** 0.5), 3, True, 'Always Be Dreaming'
  )  # fmt: skip
  # 0 and -10: mean -5, sample deviation 50 ** 0.5, over 2 ** 0.5; -5 is not below -10.
  assert of_row('Base') == (pytest.approx(-5), pytest.approx(5), 2, False, 'Always Be Dreaming')
  assert of_row('DGR') == (pytest.approx(-30), None, 1, None, 'Always Be Dreaming')  # one pair says nothing
  assert of_row('Upper bound')[2:4] == (4, False) and of_row('Upper bound')[0] == pytest.approx(1.5)
  assert of_row('Always Be Dreaming') == of_row('DeepInversion') == (None, None, 0, None, '')
  cell = lambda name: summary.COLUMNS['difference (pairs)'](lines[name])
  assert [cell(name) for name in ('LwF', 'Base', 'DGR', 'DeepInversion')] == [
    '-9.3 ± 1.8 (3), lower', '-5.0 ± 5.0 (2)', '-30.0 (1)', '-'
  ]  # fmt: skip
  assert 'below -2 standard errors' in summary.with_notes(list(lines.values()), table.SHOWN, [])


def test_unusable_results_are_named(planned, tmp_path):
  for one in planned:
    if (one.row.method, one.trial) != ('base', 0):
      write(tmp_path, one)
  old = one_of(planned, 'lwf', 1)
  write(tmp_path, old, schema_version=0)
  lines, (complaint,) = lines_of(planned, tmp_path)
  assert [lines[name]['n'] for name in ('Base', 'LwF', 'DeepInversion')] == [1, 1, 2]
  assert complaint.startswith(f'{old.name} has schema 0')
  assert complaint in summary.with_notes(list(lines.values()), table.SHOWN, [complaint])
  with (tmp_path / old.file).open('a') as file:
    file.write('{"name": "digits-')
  with pytest.raises(UserError, match=r'digits\.jsonl, line 14'):
    runs.gather(planned, tmp_path)


def test_a_result_of_another_config_is_named_and_fields_added_since_count_as_their_default(planned, tmp_path):
  first = planned[0]
  stored = result(first, 0.5)['config']  # with lists for tuples
  assert stored['student.milestones'] == list(flatten(load_config('digits').to_dict())['student.milestones'])
  without = lambda field: {name: value for name, value in stored.items() if name != field}
  for config, field in (
    (stored | {'student.epochs': 3, 'a.field.of.old': 1}, 'student.epochs=3, expected 45'),
    (without('student.epochs'), 'student.epochs=250, expected 45'),
  ):
    write(tmp_path, first, config=config)
    lines, (complaint,) = lines_of(planned, tmp_path)
    assert lines['Upper bound']['n'] == 0 and complaint.startswith(f'{first.name} ran with config.{field}')
  for config in (stored | {'a.field.of.old': 1}, without('lwf.weight')):
    write(tmp_path, first, config=config)  # replaces the line
    assert lines_of(planned, tmp_path)[0]['Upper bound']['n'] == 1


def test_papers_numbers_stand_beside_ours_on_its_own_data_only(tmp_path):
  own = plan(TABLES['1'], 'cifar100', 1)
  abd = next(one for one in own if one.row.method == 'abd' and one.tasks == 10)
  write(tmp_path, abd, final_accuracy=0.347)
  lines = summary.summarise(TABLES['1'], 'cifar100', own, runs.gather(own, tmp_path)[0])
  line = next(line for line in lines if line['method'] == abd.row.name and line['tasks'] == 10)
  assert (line['paper_accuracy'], line['paper_omega']) == (33.7, 69.6) and line['deviation'] == pytest.approx(1.0)
  elsewhere = summary.summarise(TABLES['1'], 'digits', plan(TABLES['1'], 'digits', 1), {})
  assert {line['paper_accuracy'] for line in elsewhere} == {None}
  assert {line['tasks'] for line in elsewhere} == {*SPLITS['digits']}


def test_a_table_of_any_methods_uses_what_has_run(tmp_path, capsys):
  for one in plan(TABLES['1'], 'digits', 2):
    write(tmp_path, one, 0.6 if one.row.method == 'abd' else 0.3 + 0.1 * one.trial)
  words = ['table', '--rows=lwf,abd,rdfcil', '--config=digits', '--trials=2', '--max_runs=0', f'--results={tmp_path}']
  command.run([*words, f'--output={tmp_path}'])
  shown = capsys.readouterr()
  rows = [line.split()[1] for line in shown.out.splitlines() if line.startswith('| ')]
  assert rows == ['method', 'lwf', 'abd', 'rdfcil']
  assert {row.reference for row in ad_hoc(('lwf', 'base'), 'digits').rows} == {'lwf'}
  assert '-25.0 ± 5.0 (2), lower' in shown.out and 'not run' in shown.out
  assert '2 of 6 runs are missing' in shown.err
  command.run([*words, '--print_commands'])
  printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
  assert [line[-1] for line in printed] == [f'--only=digits-rdfcil-tasks=5-trial={trial}' for trial in range(2)]
  assert all('--rows=lwf,abd,rdfcil' in line and f'--results={tmp_path}' in line for line in printed)


@pytest.fixture
def words(tmp_path, monkeypatch, digits_data, compile_once):
  """The command of a table of base and lwf whose runs take a moment."""
  rows = tuple(row for row in TABLES['1'].rows if row.method in ('base', 'lwf'))
  monkeypatch.setitem(table.TABLES, '1', TABLES['1']._replace(rows=rows))
  tiny_runs(monkeypatch)
  folders = [f'--{name}={tmp_path / name}' for name in ('runs', 'results', 'output')]
  return ['table', '--table=1', '--config=digits', '--trials=1', '--variant=quick', *folders]


BASE, LWF = (f'digits_quick-{method}-tasks=5-trial=0' for method in ('base', 'lwf'))


def test_a_table_resumes_where_it_was_stopped(words, tmp_path, capsys):
  command.run([*words, '--max_seconds=0.2'])
  assert 'paused' in capsys.readouterr().err and not (tmp_path / 'results').exists()
  with Workdir(str(tmp_path / 'runs' / BASE), json.loads((tmp_path / 'runs' / BASE / 'config.json').read_text())):
    command.run([*words, '--max_runs=1'])
    assert 'left to it' in capsys.readouterr().err and not (tmp_path / 'results').exists()
  command.run([*words, '--max_runs=1'])
  assert '1 of 2 runs are missing' in capsys.readouterr().err
  command.run([*words, '--print_commands'])
  (left,) = capsys.readouterr().out.splitlines()
  assert f'--only={LWF}' in left and '--variant=quick' in left
  command.run([*shlex.split(left)[3:], f'--output={tmp_path / "output"}'])
  assert 'missing' not in capsys.readouterr().err
  command.run(words)
  text = capsys.readouterr().out
  assert 'not run' not in text and (tmp_path / 'output/table_1_digits.md').read_text() == text
  assert len((tmp_path / 'output/table_1_digits.csv').read_text().splitlines()) == 3
  config = read_runs(tmp_path / 'results/digits_quick.jsonl')[BASE]['config']
  assert not {'data.dir', 'oracle_dir', 'max_seconds'} & config.keys()


def test_a_run_that_diverges_holds_up_no_other(words, tmp_path, monkeypatch, capsys):
  first, second = table.TABLES['1'].rows
  first = first._replace(overrides=(('student.lr', 100.0), ('student.weight_decay', 1.0)))
  monkeypatch.setitem(table.TABLES, '1', TABLES['1']._replace(rows=(first, second)))
  for _ in range(2):  # the same command comes as far
    with pytest.raises(UserError, match=r'^digits_quick-base-.*: task 1, learning: .* not finite'):
      command.run(words)
    assert names(tmp_path / 'results') == [LWF]
    assert '| LwF' in capsys.readouterr().out


def test_runs_at_once_are_copies_of_the_command_that_share_the_runs(words, tmp_path, monkeypatch):
  def run_copies(copy, environments, tell):
    assert copy == ['-m', 'experiments', *words, '--at_once=2', '--at_once=1'] and len(environments) == 2
    command.run([*copy[2:], '--max_runs=1'])  # the first of them; the second fails
    return [0, 2]

  monkeypatch.setattr(runs.queue, 'run_copies', run_copies)
  with pytest.raises(UserError, match='process 1: exit code 2'):
    command.run([*words, '--at_once=2'])
  assert names(tmp_path / 'results') == [BASE] and (tmp_path / 'output/table_1_digits.md').exists()


def test_a_run_that_another_process_has_finished_meanwhile_is_not_repeated(tmp_path, planned):
  arguments = Namespace(results=tmp_path, runs=tmp_path / 'runs', data_dir='')
  work = runs.jobs(planned[:1], arguments)
  write(tmp_path, planned[0], 0.7)
  assert work[0].run(0.0)['final_accuracy'] == 0.7 and not (tmp_path / 'runs').exists()


def test_a_table_of_photographs_names_them_so_that_others_are_not_taken_for_them(tmp_path, capsys):
  for split, name, k in itertools.product(('train', 'test'), ('cat', 'dog'), range(2)):
    file = tmp_path / 'pets' / split / name / f'{k}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), 9 * k, np.uint8)).save(file)
  words = ['table', '--rows=base', '--config=image_folder', '--trials=1', f'--data_dir={tmp_path / "pets"}']
  command.run([*words, '--print_commands'])
  (name,) = re.findall(r'--only=(\S+)', capsys.readouterr().out)
  one = plan(ad_hoc(['base'], 'image_folder'), 'image_folder', 1)[0]
  fingerprint = open_configured(one.load({'data.dir': f'{tmp_path}/pets'}).data).fingerprint
  named = one._replace(fingerprint=fingerprint)
  assert name == named.name and name.startswith(f'image_folder_{fingerprint[:8]}-base-')
  assert named.load({}).data.fingerprint == fingerprint
