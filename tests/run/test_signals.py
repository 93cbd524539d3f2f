"""Signals before and during a run, and a full disk behind stdout."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import REPO

from abd_jax.errors import PauseSignals


def test_a_full_stdout_is_one_line():
  with open('/dev/full', 'w') as full:
    command = [sys.executable, '-m', 'abd_jax', '--help']
    done = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True)
  assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'No space left' in done.stderr, done.stderr


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM'])
def test_a_signal_before_there_is_a_run_is_one_line_and_its_code(number):
  code = (
    f'import os, signal; from abd_jax.errors import stop_at_once; stop_at_once(); os.kill(os.getpid(), signal.{number})'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
  assert done.returncode == {'SIGINT': 130, 'SIGTERM': 143}[number]
  assert done.stderr.startswith('stopped;') and done.stderr.count('\n') == 1


def test_the_first_signal_pauses_and_the_second_is_the_callers(capfd):
  received, before = [], signal.getsignal(signal.SIGTERM)
  try:
    signal.signal(signal.SIGTERM, lambda *_: received.append('second'))
    with PauseSignals() as signals:
      os.kill(os.getpid(), signal.SIGTERM)
      assert signals.received == 'SIGTERM' and not received
      assert capfd.readouterr().err == 'pausing after this chunk; again to stop now\n'
      os.kill(os.getpid(), signal.SIGTERM)
      assert received == ['second']
  finally:
    signal.signal(signal.SIGTERM, before)
