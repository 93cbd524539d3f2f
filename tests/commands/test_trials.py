"""config.trials: one by one, or each in a process of its own; each as it would be alone."""

import fcntl
import signal
import subprocess
import sys

import jax
import pytest
from conftest import REPO, assert_same_outcome

from abd_jax.commands import train as command
from abd_jax.errors import Paused, UserError
from abd_jax.report.tables import METRICS
from abd_jax.run import queue


@pytest.mark.parametrize('at_once', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_trials_are_the_runs_that_they_would_be_alone(learn, tiny_config, tmp_path, capsys, at_once):
  config = tiny_config(method='base', trials=2, trial=1, trials_at_once=at_once)
  results = command.learn_trials(config, tmp_path / 'both')
  assert [one['config']['trial'] for one in results] == [1, 2]
  for trial in (1, 2):
    learn(tmp_path / f'{trial}', method='base', trial=trial)
    assert_same_outcome(tmp_path / f'both/trial_{trial}', tmp_path / f'{trial}')
  assert 'trial_1 ...' in capsys.readouterr().err
  assert command.learn_trials(config, tmp_path / 'both') == results


def test_the_summary_has_means_and_population_deviations_as_the_tables_have():
  numbers = dict.fromkeys(METRICS, 0.5)
  runs = [
    numbers | {'method': 'abd', 'config': {'trial': k}, 'seconds': {'train': 10.0 * k}, 'final_accuracy': 0.6 + 0.1 * k}
    for k in range(3)
  ]
  assert '| trial 2    | 80.0 ' in command.summary(runs)
  assert '| mean ± std | 70.0 ± 8.2 ' in command.summary(runs)
  runs[1]['forgetting'] = None  # of one task
  assert command.summary(runs[1:2]).splitlines()[-1].count(' - ') == 1


@pytest.mark.parametrize(
  'said, visible, environments',
  [
    ('', '', []),
    ('gpu 2', '', [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]),
    ('gpu 2', '3,5', [{'CUDA_VISIBLE_DEVICES': '3'}, {'CUDA_VISIBLE_DEVICES': '5'}]),
    ('a warning of a plugin\ntpu 1', '', [{'TPU_VISIBLE_CHIPS': '0'}]),
  ],
)
def test_accelerators_are_asked_of_another_process(monkeypatch, said, visible, environments):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
  monkeypatch.setattr(subprocess, 'run', lambda *words, **options: subprocess.CompletedProcess([], 0, said))
  found = queue.accelerators()
  assert [{name: one[name] for name in two} for one, two in zip(found, environments, strict=True)] == environments


def test_the_question_is_answered_here():
  said = subprocess.run([sys.executable, '-c', queue._ASK], capture_output=True, text=True, check=True)
  platform, count = said.stdout.split()
  assert platform in ('cpu', 'gpu', 'tpu') and int(count) >= 1


def test_shares_of_accelerators():
  places = [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]
  assert queue.shares(2, places) == places and queue.shares(2, []) == [{}, {}]
  three = queue.shares(3, places)
  assert [one['CUDA_VISIBLE_DEVICES'] for one in three] == ['0', '1', '0']
  assert {one['XLA_PYTHON_CLIENT_MEM_FRACTION'] for one in three} == {'0.45'}


def run_script(text, environments):
  """(exit codes, lines on stderr) of a script in each environment."""
  lines = []
  return queue.run_copies(['-c', text], environments, lines.append, 'words'), sorted(lines)


def test_lines_and_exit_codes_of_processes():
  text = 'import os, sys; print(os.environ["K"], sys.stdin.read(), file=sys.stderr); sys.exit(int(os.environ["K"]))'
  assert run_script(text, [{'K': '2'}, {'K': '0'}]) == ([2, 0], ['0: 2 words', '1: 0 words'])


@pytest.mark.parametrize(
  'ends',
  [
    'signal.signal(signal.SIGTERM, lambda *_: os._exit(0))',
    'signal.signal(signal.SIGTERM, lambda *_: os._exit(143))',  # stopped before it can pause, as the next one
    'pass',
  ],
)
def test_a_signal_is_passed_on(ends, capfd):
  before = signal.getsignal(signal.SIGTERM)
  text = f'import os, signal, time; {ends}; os.environ["K"] == "1" and os.kill(os.getppid(), 15); time.sleep(60)'
  assert run_script(text, [{'K': '0'}, {'K': '1'}]) == ([0, 0], [])
  assert 'pausing' in capfd.readouterr().err and signal.getsignal(signal.SIGTERM) is before


def test_processes_get_an_accelerator_each_and_their_failures_and_pauses_are_reported(
  tiny_config, tmp_path, monkeypatch
):
  places, taken = [{'CUDA_VISIBLE_DEVICES': str(k)} for k in range(4)], []
  monkeypatch.setattr(queue, 'accelerators', lambda: places)
  for codes, error, match in (([0, 2, 0], UserError, 'ended with exit code 2'), ([0, 0, 0], Paused, '3 of 3 trials')):
    run = lambda words, environments, *_, codes=codes: taken.extend(environments) or codes
    monkeypatch.setattr(queue, 'run_copies', run)
    with pytest.raises(error, match=match):
      command.learn_trials(tiny_config(trials=3), tmp_path)
  assert taken == places[:3] * 2


def test_a_trial_that_another_process_runs_is_left_to_it(tiny_config, tmp_path, monkeypatch, compile_once):
  config = tiny_config(method='base', trials=2)
  (tmp_path / 'trial_0').mkdir()
  with (tmp_path / 'trial_0' / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(Paused, match='1 of 2 trials are run by other processes'):
      command.learn_trials(config, tmp_path)
  assert (tmp_path / 'trial_1' / 'results.json').exists()


def test_trials_of_several_hosts_run_in_turn_until_one_pauses(tiny_config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(queue, 'accelerators', lambda: pytest.fail('asks for devices that are held'))
  begun = []

  def begin(config, workdir):
    begun.append(config.max_seconds)
    raise Paused('paused')

  monkeypatch.setattr('abd_jax.train.train_and_evaluate', begin)
  with pytest.raises(Paused):
    command.learn_trials(tiny_config(trials=2, max_seconds=60.0), tmp_path)
  assert len(begun) == 1 and 50 < begun[0] <= 60
  with pytest.raises(UserError, match='trials_at_once=2: several hosts'):
    command.learn_trials(tiny_config(trials=2, trials_at_once=2), tmp_path)


LEFT_ALONE = """
import sys
from pathlib import Path
from jax._src import xla_bridge
from abd_jax.commands import train
from abd_jax.config import load_config
from abd_jax.run import queue
queue.accelerators = lambda: [{}, {}]
def run_copies(*_):
  sys.exit('taken' if xla_bridge.backends_are_initialized() else 'left alone')
queue.run_copies = run_copies
train.learn_trials(load_config('digits:quick', trials=2, trials_at_once=2), Path(sys.argv[1]))
"""


def test_the_process_that_runs_others_leaves_the_devices_to_them(tmp_path, cli_env):
  """A TPU chip serves one process, and a GPU's memory is taken at once."""
  words = [sys.executable, '-c', LEFT_ALONE, str(tmp_path)]
  assert subprocess.run(words, env=cli_env, cwd=REPO, capture_output=True, text=True).stderr.endswith('left alone\n')
