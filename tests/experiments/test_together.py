"""experiments trials: what it times, and that it sees a difference."""

import json

import pytest

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import lab, trials


def test_the_same_trials_are_learnt_in_three_ways_and_compared(monkeypatch, tmp_path, capsys):
  asked, compared = [], []
  monkeypatch.setattr(trials, 'learn', lambda words: asked.append([word for word in words if 'workdir' not in word]))
  monkeypatch.setattr(lab, 'difference', lambda ours, one: compared.append((ours, one)) or '')
  command.run(['trials', '--trials=2', f'--output={tmp_path}/trials_<backend>.json'])
  digits, two = '--config=configs/digits.py', '--config.trials=2'
  assert asked == [
    [digits, two, '--config.trials_at_once=1'],
    [digits, two, '--config.trials_at_once=2'],
    [f'{digits}:trial=0'],
    [f'{digits}:trial=1'],
  ]
  assert {(ours.parent.name, ours.name) for ours, _ in compared} == {
    (way, f'trial_{k}') for way in (trials.AT_ONCE, trials.APART) for k in (0, 1)
  }
  assert all(one.parent.name == trials.TOGETHER and one.name == ours.name for ours, one in compared)
  found = json.loads((tmp_path / 'trials_cpu.json').read_text())
  assert list(found['seconds']) == [trials.TOGETHER, trials.AT_ONCE, trials.APART] and found['differing'] == {}
  assert found['device']['cpu_cores'] and 'all in the same bits' in capsys.readouterr().out


def test_a_trial_that_ends_otherwise_is_named(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(trials, 'learn', lambda words: None)
  monkeypatch.setattr(lab, 'difference', lambda ours, one: 'log' if ours.parent.name == trials.AT_ONCE else '')
  command.run(['trials', '--trials=2', f'--output={tmp_path}/trials_<backend>.json'])
  named = {f'{trials.AT_ONCE}, trial_{k}': 'log' for k in (0, 1)}
  assert json.loads((tmp_path / 'trials_cpu.json').read_text())['differing'] == named
  assert 'not in the same bits' in capsys.readouterr().out


def test_commands_run_without_compiled_programs_and_failures_are_told(monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'anywhere')
  ran = []
  done = type('Done', (), {'returncode': 0, 'stderr': ''})
  monkeypatch.setattr(trials.subprocess, 'run', lambda words, **more: ran.append((words, more)) or done)
  trials.learn(['--config=digits'])
  ((words, more),) = ran
  assert words[1:] == ['-m', 'abd_jax.main', '--config=digits'] and 'JAX_COMPILATION_CACHE_DIR' not in more['env']
  done.returncode, done.stderr = 2, 'first\nerror: no such field'
  with pytest.raises(UserError, match=r'^`--config=digits` ended with 2: error: no such field$'):
    trials.learn(['--config=digits'])
