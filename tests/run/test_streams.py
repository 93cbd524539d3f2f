"""abd_jax.run.streams: what cannot be told is dropped, and holds nothing up."""

import os
import subprocess
import sys
import time

import pytest
from conftest import REPO

from abd_jax.run import streams


@pytest.fixture
def pipe():
  reader, writer = os.pipe()
  yield reader, writer
  for number in (reader, writer):
    try:
      os.close(number)
    except OSError:
      continue


def fill(writer):
  os.set_blocking(writer, False)
  try:
    while True:
      os.write(writer, b'x' * 4096)
  except BlockingIOError:
    os.set_blocking(writer, True)


def test_what_is_read_arrives_whole(pipe):
  reader, writer = pipe
  text = 'ä' * 3000 + '\n'
  assert streams.put(writer, text.encode(), 1.0)
  assert os.read(reader, 10_000).decode() == text


def test_a_pipe_that_nobody_reads_is_waited_for_once(pipe, monkeypatch):
  reader, writer = pipe
  fill(writer)
  monkeypatch.setattr(streams, 'PATIENCE', 0.3)
  stream = streams._Dropping(writer, False)
  began = time.monotonic()
  for _ in range(20):
    assert stream.write(b'progress') == 8
  assert 0.25 < time.monotonic() - began < 2
  os.read(reader, 65536)
  stream.write(b'heard again')
  assert os.read(reader, 100).endswith(b'heard again')


def test_a_closed_reader_and_a_closed_descriptor_raise_nothing(pipe):
  reader, writer = pipe
  os.close(reader)
  assert not streams.put(writer, b'x', 1.0)
  os.close(writer)
  assert not streams.put(writer, b'x', 1.0)


CLOSED = """
import os, sys
from abd_jax.run import streams
streams.open_closed()
streams.let_go('stderr')
number = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
print('progress', file=sys.stderr)
os.write(2, b'noise')
sys.exit(0 if number > 2 else 3)
"""


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
  words = [sys.executable, '-c', CLOSED, str(tmp_path / 'file')]
  done = subprocess.run(words, cwd=REPO, preexec_fn=lambda: (os.close(1), os.close(2)))
  assert done.returncode == 0 and (tmp_path / 'file').read_bytes() == b''


@pytest.mark.parametrize(('words', 'code'), [(['--help'], 2), (['pedict'], 2)])
def test_a_full_stdout_is_one_line(words, code):
  with open('/dev/full', 'w') as full:
    command = [sys.executable, '-m', 'abd_jax', *words]
    done = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True)
  assert done.returncode == code and done.stderr.count('\n') == 1, done.stderr
  assert ('No space left' in done.stderr) == (words == ['--help'])


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM'])
def test_a_signal_before_there_is_a_run_is_one_line_and_its_code(number):
  code = f'import os, signal; from abd_jax.run.signals import stop_at_once; stop_at_once(); os.kill(os.getpid(), signal.{number})'  # noqa: E501
  done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
  assert done.returncode == {'SIGINT': 130, 'SIGTERM': 143}[number]
  assert done.stderr == 'stopped; the same command resumes a run from its newest checkpoint\n'


@pytest.mark.parametrize('number', ['SIGTERM', 'SIGINT'])
def test_a_signal_while_python_ends_leaves_done_work_done(number):
  code = f"""
import os, signal
from abd_jax.run.signals import stop_at_once
class Late:
  def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{number}):
    kill(pid, number)
late = Late()
stop_at_once()
print('done')
"""
  ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
  assert (ended.returncode, ended.stdout, ended.stderr) == (0, 'done\n', '')
