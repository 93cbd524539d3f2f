"""experiments smoke and demo, in a size for a test."""

import pytest
from conftest import TINY

from abd_jax.errors import Paused
from experiments import __main__ as command
from experiments import demo, smoke
from experiments.files import RESULTS, read_json

FIELDS = {name: value for name, value in TINY.items() if name not in ('task_sizes', 'student.milestones')}


def test_smoke_tells_each_method_and_the_curves_of_abd(tmp_path, monkeypatch, capsys, digits_data, compile_once):
  monkeypatch.setattr(smoke, 'SMALL', smoke.SMALL | FIELDS)
  monkeypatch.setattr(smoke, 'CURVES', smoke.CURVES | FIELDS | {'task_sizes': (2, 2), 'chunk_steps': 1})
  words = ['smoke', '--config=digits', '--rows=abd,oracle', f'--runs={tmp_path}', f'--output={tmp_path / "smoke.json"}']
  with pytest.raises(Paused):
    command.run([*words, '--max_seconds=0.01'])
  assert not (tmp_path / 'smoke.json').exists()
  command.run(words)
  found = read_json(tmp_path / 'smoke.json')
  assert list(found['methods']) == ['abd', 'oracle', 'abd_curves']
  ours, upper = found['methods']['abd'], found['methods']['oracle']
  assert list(ours['phases']) == ['task 1 learning', 'task 1 dreaming', 'task 2 learning']
  assert ours['phases']['task 2 learning']['last'].keys() == {'accuracy', 'ce', 'kd', 'ft'}
  assert ours['frozen'] == ['0', '1'] and len(ours['accuracy_matrix']) == 2
  assert list(upper['phases']) == ['task 1 learning'] and not upper['frozen']
  curves = [(phase['task'], phase['phase'], len(phase['steps'])) for phase in found['losses']]
  assert curves == [(0, 'learning', 9), (0, 'dreaming', 6), (1, 'learning', 9)]
  out = capsys.readouterr().out
  assert 'over the first ten steps' in out and [line for line in out.splitlines() if line.startswith('abd {')]
  assert str(tmp_path) not in (tmp_path / 'smoke.json').read_text()


def test_curves_of_the_stored_smoke_fall():
  losses = read_json(RESULTS / 'cifar100_smoke.json')['losses']
  assert all(phase['last_ten'] < phase['first_ten'] for phase in losses)


def test_smoke_without_abd_has_no_curves(tmp_path, monkeypatch, digits_data, compile_once):
  monkeypatch.setattr(smoke, 'SMALL', smoke.SMALL | FIELDS)
  command.run(['smoke', '--config=digits', '--rows=base', f'--runs={tmp_path}', f'--output={tmp_path / "smoke.json"}'])
  found = read_json(tmp_path / 'smoke.json')
  assert list(found['methods']) == ['base'] and found['losses'] == []


def test_demo_ends_with_one_table_and_a_report(tmp_path, monkeypatch, capsys, digits_data, compile_once):
  load = demo.load_config
  monkeypatch.setattr(demo, 'load_config', lambda name, option: load(name, f'{option},tasks=3', TINY))
  monkeypatch.setattr(demo, 'METHODS', ('abd', 'base'))
  command.run(['demo', f'--runs={tmp_path}'])
  out = capsys.readouterr().out
  rows = [line.split()[1] for line in out.splitlines() if line.startswith('| ')]
  assert rows == ['method', 'abd', 'base']
  assert [read_json(tmp_path / method / 'results.json')['method'] for method in rows[1:]] == rows[1:]
  assert f'report: {tmp_path / "report.html"}' in out and 'next: abd-jax predict' in out
  assert '<html' in (tmp_path / 'report.html').read_text()
