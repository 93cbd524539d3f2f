"""abd_jax.run.streams: what cannot be told is dropped, and holds nothing up."""

import subprocess
import sys

import pytest
from conftest import REPO


@pytest.mark.parametrize(('words', 'code'), [(['--help'], 2), (['pedict'], 2)])
def test_a_full_stdout_is_one_line(words, code):
  with open('/dev/full', 'w') as full:
    command = [sys.executable, '-m', 'abd_jax', *words]
    done = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True)
  assert done.returncode == code and done.stderr.count('\n') == 1, done.stderr
  assert ('No space left' in done.stderr) == (words == ['--help'])


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM'])
def test_a_signal_before_there_is_a_run_is_one_line_and_its_code(number):
  code = f'import os, signal; from abd_jax.run.console import stop_at_once; stop_at_once(); os.kill(os.getpid(), signal.{number})'  # noqa: E501
  done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
  assert done.returncode == {'SIGINT': 130, 'SIGTERM': 143}[number]
  assert done.stderr == 'stopped; the same command resumes a run from its newest checkpoint\n'


@pytest.mark.parametrize('number', ['SIGTERM', 'SIGINT'])
def test_a_signal_while_python_ends_leaves_done_work_done(number):
  code = f"""
import os, signal
from abd_jax.run.console import stop_at_once
class Late:
  def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{number}):
    kill(pid, number)
late = Late()
stop_at_once()
print('done')
"""
  ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
  assert (ended.returncode, ended.stdout, ended.stderr) == (0, 'done\n', '')
