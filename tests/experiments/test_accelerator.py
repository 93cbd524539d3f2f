"""experiments benchmark and accelerator, in a size for a test."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fakes import tiny_runs

from abd_jax.errors import Paused
from abd_jax.models.kernels import Kernels
from abd_jax.models.moments import in_sums
from abd_jax.steps.chunks import Step
from experiments import __main__ as command
from experiments import accelerator, benchmark, steps

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


def test_benchmark_counts_and_times_every_step(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(steps, 'EVALUATED', 16)
  monkeypatch.setattr(benchmark, 'PRECISIONS', ('float32',))
  monkeypatch.setattr(benchmark, 'ceilings', lambda rounds: dict.fromkeys(benchmark.PRECISIONS, 1e9))
  whole = benchmark.benchmark
  monkeypatch.setattr(benchmark, 'benchmark', lambda rounds: whole(rounds, NETWORKS))
  command.run(['benchmark', '--rounds=1', f'--output={tmp_path}/benchmark_<backend>.json'])
  results = json.loads((tmp_path / 'benchmark_cpu.json').read_text())
  rows = {(row['step'], row['precision']): row for row in results['rows']}
  assert len(rows) == 4 and all(row['ms'] > 0 and row['memory_mb'] > 0 for row in rows.values())
  assert rows['base', 'float32']['times_base'] == rows['base', 'float32']['flops_times_base'] == 1
  # Twice the images forward and back, and the teacher's and generator's forward passes.
  assert 2 < rows['abd', 'float32']['flops_times_base'] < 5
  assert len(capsys.readouterr().out.splitlines()) == len(benchmark.render(results).splitlines()) == 6
  row = rows['abd', 'float32']
  assert row['compiled_gflop'] < 1.5 * row['gflop'] < 3 * row['compiled_gflop']  # on a CPU both count all there is


def test_steps_are_timed_one_by_one_or_in_a_scan():
  """What a GPU runs in one scan counts as that many steps."""
  here = steps.setting(NETWORKS, jax.devices(), 16)
  step = Step(lambda state, copies, x, data: (state, x @ x))
  scanned = steps.compiled(step, here.student, np.ones((3, 2), np.float32), here.data, images=2, scan_steps=3)
  assert scanned.steps == 3 and scanned.images == 2 and scanned.flops > 0
  assert scanned.run().tolist() == scanned.run().tolist() == [2, 2, 2]  # more than once


def test_each_form_of_an_operation_is_timed_against_the_plain_one(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(steps, 'EVALUATED', 16)
  monkeypatch.setattr(
    benchmark, 'kernels_for', lambda mesh: Kernels(statistics=in_sums(1, mesh.gather, one_pass=True), folds=True)
  )
  whole = benchmark.forms
  monkeypatch.setattr(benchmark, 'forms', lambda rounds: whole(rounds, NETWORKS))
  command.run(['benchmark', '--forms', '--rounds=1', f'--output={tmp_path}/<what>_<backend>.json'])
  results = json.loads((tmp_path / 'forms_cpu.json').read_text())
  assert [row['forms'] for row in results['rows']] == ['all', 'none', 'without statistics', 'without folds']
  assert all(row[step] > 0 for row in results['rows'] for step in benchmark.STEPS)
  assert 'abd ms' in capsys.readouterr().out


@pytest.fixture
def quick(monkeypatch, tmp_path, digits_data, compile_once):
  """(words of a command that is through in a moment, how often the numbers and the benchmark were asked for)."""
  asked = []
  monkeypatch.setattr(accelerator, 'check_numbers', lambda: asked.append('numbers') or {'n': 1})
  monkeypatch.setattr(accelerator, 'timed', lambda: asked.append('benchmark') or {'n': 2})
  monkeypatch.setattr(accelerator, 'forms', lambda: asked.append('forms') or {'n': 3})
  tiny_runs(monkeypatch)
  folders = [f'--{name}={tmp_path / name}' for name in ('runs', 'results', 'output')]
  return ['accelerator', '--config=digits', '--rows=base', '--quick', *folders], asked


def test_accelerator_checks_times_and_runs_in_that_order_and_resumes(quick, tmp_path, capsys):
  words, asked = quick
  with pytest.raises(Paused):
    command.run([*words, '--max_seconds=0.01'])
  assert asked == ['numbers', 'benchmark', 'forms'] and not (tmp_path / 'results').exists()
  command.run([*words, '--max_runs=1'])
  names = [f'digits_quick-base{precision}-tasks=3-trial=0' for precision in ('', '-precision=bfloat16')]
  assert [file.stem for file in (tmp_path / 'results').iterdir()] == names[:1]  # as a table looks for it
  assert '1 of 2 runs are missing' in capsys.readouterr().err
  command.run(words)
  assert asked == ['numbers', 'benchmark', 'forms']  # once
  assert sorted(file.stem for file in (tmp_path / 'results').iterdir()) == sorted(names)
  assert {file.name for file in (tmp_path / 'output').iterdir()} == {f'{name}_cpu.json' for name in asked}


def test_accelerator_runs_the_protocol_under_the_names_of_the_tables():
  arguments = SimpleNamespace(rows=accelerator.METHODS, config='cifar100', trials=1, quick=False)
  names = [one.name for one in accelerator.planned(arguments)]
  assert names[:3] == [f'cifar100-{method}-tasks=10-trial=0' for method in ('abd', 'lwf', 'base')]
  assert names[3:] == [f'cifar100-{method}-precision=bfloat16-tasks=10-trial=0' for method in ('abd', 'lwf', 'base')]
