"""experiments search: only training folds and, of a grid, only the first half of the tasks are ever read."""

import itertools
import json

import pytest
from conftest import TINY

from abd_jax.errors import Paused, UserError
from abd_jax.files import read_json
from abd_jax.protocol.tasks import class_order
from abd_jax.run.queue import Job
from experiments import __main__ as command
from experiments import search
from experiments.paper import Settings

FIELDS = {name: value for name, value in TINY.items() if name != 'task_sizes'}


def test_grid_words():
  grid = search.parse_grid(['abd.kd_weight', 'inversion.steps=5,6', 'abd.ft_softmax=all,seen'])
  assert grid == {
    'abd.kd_weight': (0.01, 0.1, 1.0),
    'inversion.steps': (5, 6),
    'abd.ft_softmax': ('all', 'seen'),
  }
  with pytest.raises(UserError, match='needs values'):
    search.parse_grid(['student.lr'])


def test_a_grid_is_ranked_tells_what_it_read_and_uses_finished_runs_again(tmp_path, digits_data, compile_once):
  grid, fields = {'student.lr': (1e-6, 0.1)}, FIELDS | {'student.epochs': 2}
  ask = lambda grid: search.compare(search.of_grid('digits', 'method=base,trial=4', grid, 2, fields), tmp_path)
  found = ask(grid)
  assert [one['point']['student.lr'] for one in found['points']] == [0.1, 1e-6]
  assert all(len(one['accuracy']) == 2 for one in found['points'])
  assert found['read'] == {'splits': ['train'], 'classes': sorted(class_order(10, 4)[:4]), 'always_within_folds': True}
  records = [json.loads(line) for file in tmp_path.rglob('reads.jsonl') for line in file.read_text().splitlines()]
  assert {record['held_out'] for record in records} == {0, 1}
  of = lambda purpose: sum(record['images'] for record in records if record['for'] == purpose)
  assert 0.8 < of('training') / of('testing') < 1.2  # halves
  before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob('results.json')}
  again = ask(grid | {'student.lr': (1e-6, 0.1, 0.05)})
  assert {file: file.stat().st_mtime_ns for file in before} == before
  for one, same in itertools.product(found['points'], again['points']):
    assert one['point'] != same['point'] or one == same
  assert search.render(again).count('\n') == 4


def test_a_point_that_diverges_is_a_result_too(tmp_path, digits_data, compile_once):
  fields = FIELDS | {'student.weight_decay': 1.0}
  found = search.compare(search.of_grid('digits', 'method=base', {'student.lr': (100.0, 0.01)}, 2, fields), tmp_path)
  good, bad = found['points']
  assert good['point'] == {'student.lr': 0.01} and bad['accuracy'] == [None, None]
  assert [line.split('|')[-2].strip() for line in search.render(found).splitlines()[3:]] == ['-, 2 diverged']


def test_named_settings_run_each_trial_on_a_fold_of_its_own(tmp_path, monkeypatch, capsys, digits_data, compile_once):
  settings = {'low rate': FIELDS | {'tasks': 2, 'task_sizes': (2, 2), 'student.lr': 1e-6}}
  monkeypatch.setitem(search.SETTINGS, 'digits', Settings('digits', (3, 4), 5, settings))
  words = ['search', '--settings=digits', f'--runs={tmp_path}', f'--output={tmp_path / "digits_settings.json"}']
  with pytest.raises(Paused):
    command.run([*words, '--max_seconds=0.01'])
  command.run(words)
  found = read_json(tmp_path / 'digits_settings.json')
  (point,) = found['points']
  assert point['name'] == 'low rate' and point['point']['student.lr'] == 1e-6 and len(point['accuracy']) == 2
  assert found['read']['splits'] == ['train'] and found['read']['always_within_folds']
  stored = [json.loads(file.read_text()) for file in sorted(tmp_path.glob('*/config.json'))]
  assert [(one['trial'], one['data']['fold'], one['data']['folds']) for one in stored] == [(3, 0, 5), (4, 1, 5)]
  assert 'low rate' in capsys.readouterr().out


def test_a_named_setting_may_be_of_another_method_with_its_recipe(tmp_path, monkeypatch):
  ran = []
  monkeypatch.setattr(search, 'job', lambda config, workdir: ran.append(config) or Job(workdir.name, lambda _: {}))
  monkeypatch.setattr(search, '_read', lambda *_: {})
  monkeypatch.setitem(search.SETTINGS, 'mine', Settings('digits', (3,), 5, {'R': {'method': 'rdfcil', 'data.pad': 0}}))
  search.compare(search.of_settings('mine', {}), tmp_path)
  (config,) = ran
  assert (config.method, config.student.epochs, config.data.pad, config.trial) == ('rdfcil', 36, 0, 3)
