"""What a terminal shows at 80 and 120 columns, without one: the text that the bar is given."""

import os
import re
import signal
import sys

import pytest

import abd_jax.run.console as console_lib
from abd_jax.run.console import PauseSignals

LOSSES = {'ce': 0.0123, 'ft': 12.3, 'kd': 0.456, 'loss': 1.23, 'prior': 4.56e-5}


class Terminal:
  def __init__(self):
    self.text = ''

  def isatty(self):
    return True

  def write(self, text):
    self.text += text

  def flush(self):
    pass


@pytest.fixture
def screen(monkeypatch):
  """screen(columns) -> a terminal of that width in the place of stderr, from now on."""

  def make(columns):
    terminal = Terminal()
    monkeypatch.setenv('COLUMNS', str(columns))
    monkeypatch.setenv('NO_COLOR', '1')
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr('tqdm.std._screen_shape_wrapper', lambda: lambda _: (columns, 24))
    return terminal

  return make


def last_line(terminal):
  return [part for part in re.split(r'[\r\n]', terminal.text) if part.strip()][-1]


@pytest.mark.parametrize('columns', [80, 120])
def test_the_bar_keeps_its_cells_and_the_losses_take_what_is_left(screen, columns):
  terminal = screen(columns)
  console = console_lib.Console(1000, 0)
  console.begin('task 10 learning_2', 'compiling')
  assert last_line(terminal).endswith('| compiling') and '  0% ' in last_line(terminal)
  console.begin('task 2 dreaming', 'first steps')
  assert last_line(terminal).startswith('task 2 dreaming: ') and last_line(terminal).endswith('| first steps')
  console.begin('task 10 learning_2', 'first steps')
  console.compiled(30.0)
  console.step(100, LOSSES, 123.0)
  line = last_line(terminal)
  assert re.match(r'task 10 learning_2:  10% \|.{15,}\| \d\d:\d\d left loss 1\.23', line), line
  assert len(line) <= columns and ('images/s' in line) == (columns == 120)
  console.close()


def test_the_time_left_is_of_steps_alone(screen):
  terminal = screen(80)
  console = console_lib.Console(200, 0)
  console._began -= 110.0  # of which 100 s were compiling
  console.begin('task 1 learning', 'first steps')
  console.compiled(100.0)
  console.step(100, LOSSES, 1.0)
  assert re.search(r'00:1[01] left', last_line(terminal)), last_line(terminal)
  console.close()


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
