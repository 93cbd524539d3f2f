"""experiments.search: only training folds and only the first half of the tasks are ever read."""

import itertools
import json

import pytest
from conftest import TINY

from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import Tasks, class_order
from experiments import search


def test_grid_words():
  grid = search.parse_grid(['abd.kd_weight', 'inversion.steps=5,6', 'abd.ft_softmax=all,seen'])
  assert grid == {
    'abd.kd_weight': (0.01, 0.1, 1.0),
    'inversion.steps': (5, 6),
    'abd.ft_softmax': ('all', 'seen'),
  }
  with pytest.raises(UserError, match='needs values'):
    search.parse_grid(['student.lr'])


def test_table_f_contains_the_values_in_use():
  config = search.load_config('cifar100')
  for field, values in search.TABLE_F.items():
    group, name = field.split('.')
    assert config[group][name] in values, field


def test_the_source_of_a_search_refuses_later_tasks_and_the_test_split(digits_data, monkeypatch):
  half = search.first_half(search.load_config('digits'))
  assert half == {'tasks': 2, 'first_task_classes': 0, 'task_sizes': (2, 2)}
  dataset = open_dataset('digits', '', folds=3, fold=1)
  opened = []
  as_data_source = dataset._builder.as_data_source
  monkeypatch.setattr(
    dataset._builder, 'as_data_source', lambda name, **k: opened.append(name) or as_data_source(name, **k)
  )
  stream = TaskStream(dataset, Tasks(class_order(10, 0), half['task_sizes']))
  with pytest.raises(IndexError):
    stream.task(2)
  with pytest.raises(IndexError):
    stream.test(2)
  stream.task(1), stream.test(1)
  assert opened == ['train']


def test_search_ranks_tells_what_it_read_and_uses_finished_runs_again(tmp_path, digits_data, compile_once):
  grid = {'student.lr': (1e-6, 0.1)}
  overrides = {name: value for name, value in TINY.items() if name != 'task_sizes'} | {'student.epochs': 2}
  ask = lambda grid: search.search('digits', 'method=base,trial=4', grid, 2, tmp_path, overrides)
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


def test_an_unknown_field_is_told(tmp_path, digits_data):
  with pytest.raises(UserError, match='--grid'):
    search.search('digits', 'method=base', {'student.rl': (1,)}, 2, tmp_path, {})
