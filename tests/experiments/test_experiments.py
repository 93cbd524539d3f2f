"""The experiments, each in a size for a test."""

import json
import time

import pytest
from conftest import TINY

from abd_jax.errors import InUse, Paused
from abd_jax.run.workdir import Workdir
from experiments import accelerator, benchmark, class_orders
from experiments.common import run_all

NETWORKS = {
  'model.blocks': (1, 1, 1),
  'model.widths': (4, 4, 4),
  'generator.latent': 8,
  'generator.start': (8, 8, 4),
  'generator.widths': (4, 4),
  'student.batch_size': 8,
  'inversion.batch_size': 8,
}


@pytest.mark.slow
def test_numbers_agree_with_the_cpu_and_bfloat16_less_so():
  rows = accelerator.check_numbers(NETWORKS)['relative_difference']
  assert rows['abd, float32'] == rows['inversion, float32'] == 0.0  # the device is the CPU
  assert all(0 < rows[f'{name}, bfloat16'] < 0.1 for name in ('abd', 'inversion'))


def test_benchmark_counts_and_times_every_step(monkeypatch):
  monkeypatch.setattr(benchmark, 'EVALUATED', 16)
  monkeypatch.setattr(benchmark, 'PRECISIONS', ('float32',))
  monkeypatch.setattr(benchmark, 'ceilings', lambda rounds: dict.fromkeys(benchmark.PRECISIONS, 1e9))
  results = benchmark.benchmark(1, NETWORKS)
  rows = {(row['step'], row['precision']): row for row in results['rows']}
  assert len(rows) == 4 and all(row['ms'] > 0 and row['memory_mb'] > 0 for row in rows.values())
  assert rows['base', 'float32']['times_base'] == rows['base', 'float32']['flops_times_base'] == 1
  # Twice the images forward and back, and the teacher's and generator's forward passes.
  assert 2 < rows['abd', 'float32']['flops_times_base'] < 5
  assert len(benchmark.render(results).splitlines()) == 6


def test_protocol_stops_in_time_and_goes_on(tmp_path, digits_data, monkeypatch):
  monkeypatch.setattr(accelerator, 'METHODS', ('abd', 'base'))
  overrides = TINY | {'tasks': 3, 'chunk_steps': 2}
  assert not accelerator.protocol(tmp_path, overrides, time.monotonic() + 0.001, 'digits')
  assert not list(tmp_path.glob('*.json'))
  assert accelerator.protocol(tmp_path, overrides, time.monotonic() + 1000, 'digits')
  final = json.loads((tmp_path / 'digits_abd.json').read_text())
  assert len(final['accuracy_matrix']) == 3 and (tmp_path / 'digits_base.json').exists()


def test_two_processes_share_a_list_of_runs(tmp_path, digits_data, tiny_config, compile_once):
  planned = [(tiny_config(method='base', seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
  with Workdir(str(tmp_path / '1'), planned[0][0].to_dict()):  # another process has the first
    with pytest.raises(InUse):
      run_all(planned)
    assert (tmp_path / '2' / 'results.json').exists()
  with pytest.raises(Paused):
    run_all(planned, max_seconds=1e-3)
  first, second = run_all(planned)
  assert (first['seed'], second['seed']) == (1, 2)


def test_class_orders_differ_only_in_the_order(tmp_path, digits_data):
  found = class_orders.class_orders('digits', 'method=base', 2, TINY | {'tasks': 3}, tmp_path)
  orders = [row['class_order']['original_ids'] for row in found['trials']]
  assert orders[0] != orders[1]
  stored = [json.loads(file.read_text()) for file in sorted(tmp_path.glob('*/config.json'))]
  assert [config['trial'] for config in stored] == [0, 1] and [config['seed'] for config in stored] == [0, 0]
