"""Every method in a small run, and the demo."""

import json

import numpy as np
import pytest
from conftest import TINY

from abd_jax import methods
from abd_jax.config import load_config
from abd_jax.files import read_json
from abd_jax.train import train_and_evaluate
from experiments import __main__ as command
from experiments import demo


@pytest.mark.slow
@pytest.mark.parametrize('method', methods.available())
def test_a_method_learns_digits_with_finite_losses_and_freezes_a_model_after_each_task(method, tmp_path, digits_data):
  config = load_config(f'digits:method={method},quick', devices=1)
  results = train_and_evaluate(config, str(tmp_path / 'run'))
  assert len(results['accuracy_matrix']) == len(results['task_sizes']) > 1
  records = [json.loads(line) for log in tmp_path.rglob('metrics.jsonl') for line in log.read_text().splitlines()]
  values = [value for record in records for value in record.values() if isinstance(value, float)]
  least = len(results['task_sizes']) - 1 if methods.get(config).still else 10  # without losses: an accuracy a task
  assert len(values) > least and np.isfinite(values).all()
  frozen = sorted(folder.name for folder in tmp_path.glob('run/teachers/*') if folder.is_dir())
  tasks = [str(task) for task in range(len(results['task_sizes']))]
  assert set(tasks) <= set(frozen) or method == 'oracle'


def test_demo_ends_with_one_table_and_a_report(tmp_path, monkeypatch, capsys, digits_data, compile_once):
  load = demo.load_config
  monkeypatch.setattr(demo, 'load_config', lambda name: load(f'{name},tasks=3', **TINY))
  monkeypatch.setattr(demo, 'METHODS', ('abd', 'base'))
  command.run(['demo', f'--runs={tmp_path}'])
  out = capsys.readouterr().out
  rows = [line.split()[1] for line in out.splitlines() if line.startswith('| ')]
  assert rows == ['method', 'abd', 'base']
  assert [read_json(tmp_path / method / 'results.json')['method'] for method in rows[1:]] == rows[1:]
  assert f'report: {tmp_path / "report.html"}' in out and 'next: abd-jax predict' in out
  assert '<html' in (tmp_path / 'report.html').read_text()
