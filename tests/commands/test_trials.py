"""config.trials: in turn, or each in a process of its own; every one as a run of its own would be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from conftest import REPO, assert_same_outcome

from abd_jax.commands import trials
from abd_jax.config import changed, flatten, load_config
from abd_jax.errors import Paused, UserError
from abd_jax.run import queue as processes
from abd_jax.train import train_and_evaluate


def test_trials_in_turn_are_the_runs_that_they_would_be_alone(learn, tiny_config, tmp_path, capsys):
  results = trials.learn_trials(tiny_config(method='base', trials=2, trial=1), str(tmp_path / 'both'))
  assert [one['config']['trial'] for one in results] == [1, 2]
  for trial in (1, 2):
    learn(tmp_path / f'{trial}', method='base', trial=trial)
    assert_same_outcome(tmp_path / f'both/trial_{trial}', tmp_path / f'{trial}')
  assert 'trial_1 ...' in capsys.readouterr().err
  again = trials.learn_trials(tiny_config(method='base', trials=2, trial=1), str(tmp_path / 'both'))
  assert again == results


def test_a_pause_leaves_the_rest_to_the_same_command(compile_once, tiny_config, tmp_path):
  config = tiny_config(method='base', trials=2, max_seconds=1e-3)
  with pytest.raises(Paused):
    trials.learn_trials(config, str(tmp_path))
  assert not (tmp_path / 'trial_1').exists()


def test_one_run_is_not_several(tiny_config, tmp_path):
  with pytest.raises(UserError, match=r'config.trials=2: this runs one'):
    train_and_evaluate(tiny_config(trials=2), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_the_summary_has_means_and_population_deviations_as_the_tables_have():
  numbers = dict.fromkeys(('average_accuracy', 'forgetting', 'backward_transfer'), 0.5)
  runs = [
    {'method': 'abd', 'config': {'trial': k}, 'seconds': {'train': 10.0 * k}, 'final_accuracy': 0.6 + 0.1 * k} | numbers
    for k in range(3)
  ]
  assert '| trial 2    | 80.0 ' in trials.summary(runs)
  assert '| mean ± std | 70.0 ± 8.2 ' in trials.summary(runs)
  runs[1]['forgetting'] = None  # of one task
  assert trials.summary(runs[1:2]).splitlines()[-1].count(' - ') == 1


@pytest.mark.parametrize(
  'said, environments',
  [
    ('cpu 1', []),
    ('gpu 2', [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]),
    ('a warning of a plugin\ntpu 1', [{'TPU_VISIBLE_CHIPS': '0'}]),
    ('', []),
  ],
)
def test_accelerators_are_asked_of_another_process(monkeypatch, said, environments):
  for name in ('JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES'):
    monkeypatch.delenv(name, raising=False)
  done = subprocess.CompletedProcess([], 0, said)
  monkeypatch.setattr(subprocess, 'run', lambda *words, **options: done)
  found = processes.accelerators()
  assert [{name: one[name] for name in two} for one, two in zip(found, environments, strict=True)] == environments


def test_only_visible_gpus_are_shared_out(monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.setattr(subprocess, 'run', lambda *words, **options: subprocess.CompletedProcess([], 0, 'gpu 2'))
  assert [one['CUDA_VISIBLE_DEVICES'] for one in processes.accelerators()] == ['3', '5']


def test_the_question_is_answered_here():
  said = subprocess.run([sys.executable, '-c', processes._ASK], capture_output=True, text=True, check=True)
  platform, count = said.stdout.split()
  assert platform in ('cpu', 'gpu', 'tpu') and int(count) >= 1


def test_shares_of_accelerators(tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  places, cache = [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}], {'JAX_COMPILATION_CACHE_DIR': 'cache'}
  shares = lambda count, places: processes.shares(count, places, Path('cache'))
  assert shares(2, places) == [cache | one for one in places]
  assert shares(2, []) == [cache, cache]
  three = shares(3, places)
  assert [one['CUDA_VISIBLE_DEVICES'] for one in three] == ['0', '1', '0']
  assert {one['XLA_PYTHON_CLIENT_MEM_FRACTION'] for one in three} == {'0.45'}
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'mine')
  assert shares(1, [])[0]['JAX_COMPILATION_CACHE_DIR'] == 'mine'


@pytest.fixture
def scripts(monkeypatch):
  """Makes the processes of runs scripts: their configs' text."""

  def start(run, environment, left):
    words = [sys.executable, '-c', run.config]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)

  monkeypatch.setattr(processes, '_start', start)
  return lambda *texts: [processes.Run(f'run_{k}', text, None) for k, text in enumerate(texts)]  # pyright: ignore


def test_lines_and_exit_codes_of_processes(scripts):
  told = []
  runs = scripts('import sys; print("a", file=sys.stderr)', 'raise SystemExit(2)', 'pass')
  assert processes.run_all(runs, [{}, {}], told.append) == {'run_0': 0, 'run_1': 2, 'run_2': 0}
  assert told == ['run_0: a']


def test_a_signal_is_passed_on_and_no_run_is_begun_after_it(scripts):
  ends = 'import signal, sys, os, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(0)); '
  told, parent = [], f'os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)'
  before = signal.getsignal(signal.SIGTERM)
  assert processes.run_all(scripts(ends + parent, 'pass'), [{}], told.append) == {'run_0': 0}
  assert told == ['pausing after this chunk; again to stop now']
  assert signal.getsignal(signal.SIGTERM) is before


def test_processes_that_are_stopped_before_they_can_pause_have_not_failed(scripts):
  """One that is still importing, which SIGTERM ends, and one whose exit code says the same as a shell would."""
  sleeps = 'import time; time.sleep(60)'
  says = 'import os, signal, time; signal.signal(signal.SIGTERM, lambda *a: os._exit(143)); '
  parent = f'time.sleep(1); os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)'
  runs = scripts(sleeps, says + parent, 'pass')
  assert processes.run_all(runs, [{}, {}], lambda line: None) == {'run_0': 0, 'run_1': 0}


def test_failures_and_pauses_of_processes_are_told(tiny_config, tmp_path, monkeypatch):
  config = tiny_config(trials=2, trials_at_once=2)
  monkeypatch.setattr(processes, 'run_all', lambda runs, *rest: {'trial_0': 0, 'trial_1': 2})
  with pytest.raises(UserError, match='trial_1 ended with exit code 2'):
    trials.learn_trials(config, str(tmp_path))
  monkeypatch.setattr(processes, 'run_all', lambda runs, *rest: {'trial_0': 0})
  with pytest.raises(Paused, match='2 of 2 trials'):
    trials.learn_trials(config, str(tmp_path))


def test_trials_of_several_hosts_run_in_turn(tiny_config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(processes, 'accelerators', lambda: pytest.fail('asks for devices that are held'))
  begun = []

  def begin(config, workdir):
    begun.append(config.max_seconds)
    raise Paused('paused')

  monkeypatch.setattr('abd_jax.train.train_and_evaluate', begin)
  with pytest.raises(Paused):
    trials.learn_trials(tiny_config(trials=2), str(tmp_path))
  assert len(begun) == 1
  with pytest.raises(UserError, match='trials_at_once=2: trials of several hosts run in turn'):
    trials.learn_trials(tiny_config(trials=2, trials_at_once=2), str(tmp_path))


def test_as_many_at_once_as_there_are_accelerators(tiny_config, tmp_path, monkeypatch):
  places = [{'CUDA_VISIBLE_DEVICES': str(k)} for k in range(4)]
  monkeypatch.setattr(processes, 'accelerators', lambda: places)
  taken = []
  monkeypatch.setattr(processes, 'run_all', lambda runs, environments, *rest: taken.extend(environments) or {})
  with pytest.raises(Paused):
    trials.learn_trials(tiny_config(trials=3), str(tmp_path))
  assert [one['CUDA_VISIBLE_DEVICES'] for one in taken] == ['0', '1', '2']


def test_trials_at_once_of_tasks_of_their_own_sizes(tiny_config, tmp_path, monkeypatch):
  """Their runs have written another number of tasks to their configs than the field says."""

  def run_all(runs, *_):
    return {run.workdir.name: 0 for run in runs if train_and_evaluate(run.config, str(run.workdir))}

  monkeypatch.setattr(processes, 'accelerators', lambda: [{}, {}])
  monkeypatch.setattr(processes, 'run_all', run_all)
  config = tiny_config(method='base', trials=2, task_sizes=(2, 3), tasks=5)
  assert [one['task_sizes'] for one in trials.learn_trials(config, str(tmp_path))] == [[2, 3]] * 2


def test_trials_outlive_the_file_of_their_class_order(compile_once, tiny_config, tmp_path):
  order = tmp_path / 'order.txt'
  order.write_text('9 8 7 6 5 4 3 2 1 0')
  config = tiny_config(method='base', trials=2, class_order=str(order))
  with pytest.raises(Paused):
    trials.learn_trials(changed(config, {'max_seconds': 1e-3}), str(tmp_path / 'runs'))
  assert not (tmp_path / 'runs/trial_1').exists()
  order.unlink()
  found = trials.learn_trials(config, str(tmp_path / 'runs'))
  assert [one['class_order']['original_ids'][:3] for one in found] == [[9, 8, 7]] * 2


LEFT_ALONE = """
import sys
from jax._src import xla_bridge
from abd_jax.commands import trials
from abd_jax.run import queue as processes
from configs.digits import get_config
config = get_config('quick').unlock()
config.trials = config.trials_at_once = 2
processes.accelerators = lambda: [{}, {}]
def run_all(*_):
  sys.exit('taken' if xla_bridge.backends_are_initialized() else 'left alone')
processes.run_all = run_all
trials.learn_trials(config, sys.argv[1])
"""


def test_the_process_that_runs_others_leaves_the_devices_to_them(tmp_path, cli_env):
  """A TPU chip serves one process, and a GPU's memory is taken at once."""
  words = [sys.executable, '-c', LEFT_ALONE, str(tmp_path)]
  assert subprocess.run(words, env=cli_env, cwd=REPO, capture_output=True, text=True).stderr.endswith('left alone\n')


@pytest.mark.slow
def test_trials_at_once_are_the_runs_that_they_would_be_alone(learn, tiny_config, tmp_path):
  trials.learn_trials(tiny_config(trials=2, trials_at_once=2), str(tmp_path / 'both'))
  for trial in range(2):
    learn(tmp_path / f'{trial}', trial=trial)
    assert_same_outcome(tmp_path / f'both/trial_{trial}', tmp_path / f'{trial}')


def test_a_config_of_a_workdir(tiny_config, tmp_path, monkeypatch):
  stored = tiny_config(student__lr=0.03).to_dict()
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(stored))
  assert flatten(load_config(str(file)).to_dict()) == flatten(stored)
  # A new run may be of other data; one that is resumed is given its own back.
  file.write_text(json.dumps(stored | {'data': stored['data'] | {'fingerprint': 'f'}}))
  assert load_config(str(file)).data.fingerprint == ''
  for text, told in (
    ('{"student": {"lrr": 1}}', "student.lrr is not a field. Did you mean 'student.lr'"),
    ('{"student": {"lr": "fast"}}', 'is damaged .*lr'),
    ('[1]', 'it is not a config'),
    ('{', 'it is not a config'),
  ):
    file.write_text(text)
    with pytest.raises(UserError, match=told):
      load_config(str(file))
  with pytest.raises(UserError, match='No such file'):
    load_config(str(tmp_path / 'none.json'))
