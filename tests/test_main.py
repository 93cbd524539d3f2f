"""The command: what it writes, what it prints, and one line for every mistake."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from conftest import REPO, RUN, TINY, assert_same_outcome, command, flags_of, refused, snapshot

from abd_jax.commands import train as train_command
from abd_jax.config import load_config
from abd_jax.errors import Paused, UserError
from abd_jax.run.plan import build
from abd_jax.train import train_and_evaluate

DIGITS = '--config=configs/digits.py'


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
  """The command leaves the settings of the tests' process as they are."""
  monkeypatch.setattr('abd_jax.devices.backend.use_compilation_cache', lambda folder: None)
  monkeypatch.setattr('abd_jax.devices.backend.keep_freed_memory', lambda: None)


@pytest.fixture
def cli(cli_env):
  """cli(*words) -> the finished process, started in the repository's root."""

  def run(*words, **env):
    return subprocess.run(command(*words), env=cli_env | env, cwd=REPO, capture_output=True, text=True, timeout=300)

  return run


# Mistakes on the command line.


@pytest.mark.parametrize(
  'flags, words',
  [
    ([DIGITS, '--config.student.leraning_rate=1'], ['config.student.leraning_rate', 'is not a field']),
    ([DIGITS, '--config.method=rdfcil'], ['after the colon', ':method=']),
    ([DIGITS, '--config.student.epochs=many'], ['student.epochs', 'many']),
    ([f'{DIGITS}:qick'], ["'qick'", "'quick'"]),
    ([f'{DIGITS}:tasks=two'], ["'tasks=two'", 'whole number']),
    (['--config=configs/digit.py'], ["'configs/digit.py'", "'digits'"]),
    ([], ['--config is missing', '--config=digits']),
    ([DIGITS, '--confgi=3'], ['confgi', 'config']),
    ([DIGITS, 'tasks=3'], ["'tasks=3'"]),
    ([f'{DIGITS}:tasks=3', '--config.task_sizes=(5,5)'], ['tasks=3', 'config.task_sizes=(5, 5)']),
    ([DIGITS, '--config.tasks=3', '--config.task_sizes=(5,5)'], ['tasks=3', 'config.task_sizes=(5, 5)']),
  ],
)
def test_a_mistyped_command_is_refused_in_one_line(monkeypatch, tmp_path, flags, words):
  monkeypatch.chdir(REPO)
  with refused(*words):
    train_command.run([*flags, f'--workdir={tmp_path / "run"}'])
  assert not (tmp_path / 'run').exists()


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
  config = load_config('digits').to_dict()
  text = '\ufeff' + json.dumps(config)
  (tmp_path / 'c.json').write_text(text)
  monkeypatch.setattr(sys, 'stdin', io.StringIO(text))
  assert load_config(str(tmp_path / 'c.json')).to_dict() == load_config('-').to_dict() == config


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(cli):
  assert str(UserError('a file\nof two lines')) == 'a file of two lines'
  done = cli(DIGITS)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith('error: --workdir is missing') and done.stderr.count('\n') == 1


# Mistakes in the config or the workdir: raised as UserError, which the command turns into its one line.


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'method': 'adb'}, ["'adb'", "'abd'"]),
    ({'task_sizes': ()}, ['10 classes', '3 equal tasks', '2 or 5']),
    ({'task_sizes': (5, 5, 5)}, ['15', '10 classes']),
    ({'student__batch_size': 30, 'devices': 8}, ['student.batch_size', 'multiple of 8', '30']),
    ({'inversion__batch_size': 12, 'devices': 8}, ['inversion.batch_size', 'multiple of 8', '12']),
    ({'devices': 99}, ['devices=99', 'Use 0']),
    ({'class_order': 'no_such_file'}, ['no_such_file', 'cannot be read']),
    ({'data__name': 'digit'}, ["'digit'", "'digits'"]),
    ({'abd__first_softmax': 'sen'}, ['abd.first_softmax', "'seen'"]),
    ({'method': 'rehearsal', 'memory__size': 5}, ['memory.size', 'at least 6', 'got 5']),
    ({'method': 'bic', 'memory__size': 10}, ['BiC holds 0 images', 'config.memory']),
    ({'method': 'bic', 'memory__size': 1000, 'bic__held_out': 1.0}, ['the smallest class has', 'bic.held_out']),
    ({'method': 'dgr', 'data__mean': (0.5,)}, ["'dgr'", ':method=dgr']),
  ],
)
def test_an_impossible_config_is_refused_before_anything_is_written(tiny_config, tmp_path, fields, words):
  with refused(*words):
    train_and_evaluate(tiny_config(**fields), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_task_smaller_than_a_batch_repeats_images_and_that_is_told(tiny_config, capsys):
  plan = build(tiny_config('base', student__batch_size=300))
  assert 'batch_size=300: 1 of 3, the smallest with 294; their batches repeat' in capsys.readouterr().err
  assert plan.schedule.total_steps(plan.stream.labels) == 3
  build(tiny_config('base'))
  assert 'repeat' not in capsys.readouterr().err


def test_an_unwritable_workdir_is_refused(learn, tmp_path):
  (tmp_path / 'file').write_text('a file, not a folder')
  with pytest.raises(UserError, match='file/run cannot be written'):
    learn(tmp_path / 'file/run')
  assert snapshot(tmp_path) == {'file': b'a file, not a folder'}


def test_a_tilde_in_the_workdir_is_the_home_folder(tiny_config, tmp_path, monkeypatch, capsys):
  """Shells leave the one in --workdir=~/runs as it is."""

  def begin(config, workdir):
    raise Paused(workdir)

  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr('abd_jax.train.train_and_evaluate', begin)
  train_command.learn(tiny_config(), '~/runs/a')
  assert capsys.readouterr().err == f'{tmp_path}/runs/a\n'


@pytest.fixture
def paused(learn, tmp_path):
  """The workdir of a run paused in its first task."""
  with pytest.raises(Paused):
    learn(tmp_path / 'run', max_seconds=1e-9)
  return tmp_path / 'run'


def assert_refused(learn, path, match, **fields):
  """The run is refused in one line, and no file changes."""
  before = snapshot(path)
  with pytest.raises(UserError, match=match):
    learn(path, **fields)
  assert snapshot(path) == before


@pytest.mark.parametrize('name', ['metrics.jsonl', 'checkpoints/student/1/x', 'teachers/0.json', 'results.json'])
def test_a_workdir_without_its_config_is_left_as_it_is(learn, tmp_path, name):
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / name).write_text('mine')
  with pytest.raises(UserError, match=f'{name.partition("/")[0]} but no config.json'):
    learn(tmp_path)
  assert (tmp_path / name).read_text() == 'mine' and not (tmp_path / 'config.json').exists()


def test_a_workdir_of_another_config_is_refused_and_stays_free_for_its_own(learn, paused):
  assert_refused(learn, paused, r'config\.student\.lr=0\.15, not 0\.2', student__lr=0.2)
  assert learn(paused)['final_accuracy'] > 0


@pytest.mark.parametrize('text', ['{"tasks": 3', '[]'])
def test_a_damaged_config_json_is_refused(learn, paused, text):
  (paused / 'config.json').write_text(text)
  assert_refused(learn, paused, 'config.json')


def test_a_workdir_in_use_by_another_process_is_refused(learn, paused):
  with open(paused / '.lock') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert_refused(learn, paused, 'in use by another process')


# A run from end to end.


def documented_keys():
  """What the documents say stands in results.json."""
  text = (REPO / 'docs/results.md').read_text()
  section = text.partition('\n## results.json\n')[2].partition('\n## ')[0]
  cells = [line.split('|')[1] for line in section.splitlines() if line.startswith('| `')]
  return {key for cell in cells for key in re.findall(r'`(\w+)`', cell)}


def test_results_have_every_documented_key(finished):
  results = json.loads((finished[0] / 'results.json').read_text())
  assert set(results) == documented_keys()
  assert results['schema_version'] == 1 and results['method'] == 'abd' and results['seed'] == 0
  assert len(results['class_order']['names']) == 10
  assert sorted(results['class_order']['original_ids']) == list(range(10))
  assert set(results['seconds']) == {'compile', 'train', 'invert', 'evaluate'}
  assert all(seconds > 0 for seconds in results['seconds'].values())
  assert {'platform', 'kind', 'count'} <= set(results['device']) and 'jax' in results['versions']
  assert sorted(file.name for file in (finished[0] / 'dreams').iterdir()) == ['task_1.png', 'task_2.png']
  names = sorted(file.name for file in (finished[0] / 'teachers').iterdir())
  assert names == ['0', '0.json', '1', '1.json', '2', '2.json']


def test_accuracies_are_fractions_of_a_lower_triangle(finished):
  results = json.loads((finished[0] / 'results.json').read_text())
  matrix = results['accuracy_matrix']
  assert [len(row) for row in matrix] == [1, 2, 3]
  for numbers in (*matrix, results['seen_accuracy'], [results['final_accuracy'], results['average_accuracy']]):
    assert all(0 <= number <= 1 for number in numbers)
  weights = results['test_images']
  last = sum(weight * number for weight, number in zip(weights, matrix[-1], strict=True)) / sum(weights)
  assert results['final_accuracy'] == pytest.approx(last)
  assert matrix[0][0] > 0.5 and results['final_accuracy'] > 1 / 6  # it has learnt something


def test_output_that_is_no_terminal_has_plain_lines_and_running_again_prints_the_table(finished, capsys):
  path, output, errors = finished
  assert '\r' not in output + errors and '\x1b' not in output + errors
  assert '| abd ' in output and 'results.json' in output
  assert 'after task 3: accuracy' in errors
  before = snapshot(path)
  train_command.run([*RUN, f'--workdir={path}'])
  assert tuple(capsys.readouterr()) == (output, '')
  assert snapshot(path) == before


@contextmanager
def terminal(monkeypatch):
  """Gives a list that holds, after the block, what this process wrote to its terminal of 120 columns."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('4H', 24, 120, 0, 0))  # a bar needs a width
  parts, output = [], []

  def read():
    with suppress(OSError):  # closed on the other side
      while part := os.read(ours, 4096):
        parts.append(part)

  reader = threading.Thread(target=read)
  reader.start()
  with monkeypatch.context() as patch, open(theirs, 'w') as screen:
    patch.setattr(sys, 'stdout', screen), patch.setattr(sys, 'stderr', screen)
    yield output
  reader.join()
  os.close(ours)
  output.append(b''.join(parts).decode())


def test_a_terminal_shows_a_bar_and_max_seconds_pauses_a_run_that_then_completes(learnt, tmp_path, monkeypatch):
  words = ['--config=digits:tasks=3', *flags_of(TINY), f'--workdir={tmp_path / "run"}']
  with terminal(monkeypatch) as output:
    train_command.run([*words, '--config.max_seconds=0.01'])
  assert 'paused (max_seconds=0.01) in task 1' in output[0]
  assert '\r' in output[0] and re.search(r'task 1 learning: .*% \|', output[0])
  assert '\x1b[32m' in output[0] or '\x1b[38' in output[0]
  assert not (tmp_path / 'run/results.json').exists()

  monkeypatch.setenv('NO_COLOR', '1')
  with terminal(monkeypatch) as output:
    train_command.run(words)
  assert '\r' in output[0] and '| abd ' in output[0]
  assert not re.search(r'\x1b\[[0-9;]*m', output[0])
  assert_same_outcome(tmp_path / 'run', learnt())


def test_sigterm_pauses_a_run(cli_env, tmp_path, digits_data):
  words = [*(word for word in RUN if 'inversion.steps' not in word), '--config.inversion.steps=100000']
  words.append(f'--workdir={tmp_path}')
  process = subprocess.Popen(command(*words), env=cli_env, cwd=REPO, stderr=subprocess.PIPE, text=True)
  log = tmp_path / 'metrics.jsonl'
  while not log.exists() or 'dreaming' not in log.read_text():
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  stderr = process.communicate(timeout=60)[1]
  assert process.returncode == 0 and 'paused (SIGTERM) in task 1' in stderr
  assert any((tmp_path / 'checkpoints/generator').iterdir())
