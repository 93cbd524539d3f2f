"""Signals before a run begins, and a full disk behind stdout."""

import subprocess
import sys

import pytest
from conftest import REPO


def test_a_full_stdout_is_one_line():
  with open('/dev/full', 'w') as full:
    command = [sys.executable, '-m', 'abd_jax', '--help']
    done = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True)
  assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'No space left' in done.stderr, done.stderr


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM'])
def test_a_signal_before_there_is_a_run_is_one_line_and_its_code(number):
  code = f'import os, signal; from abd_jax.run.console import stop_at_once; stop_at_once(); os.kill(os.getpid(), signal.{number})'  # noqa: E501
  done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
  assert done.returncode == {'SIGINT': 130, 'SIGTERM': 143}[number]
  assert done.stderr.startswith('stopped;') and done.stderr.count('\n') == 1
