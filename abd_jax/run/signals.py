"""Ctrl-C and SIGTERM: the first asks a run to pause and is answered at once, the second stops it."""

import atexit
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from abd_jax.run.streams import PATIENCE, put

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
  """From now on each of SIGNALS ends the process, with one line and the exit code that shells give a signal.

  As an exception, Ctrl-C would get lost or become another one inside some imports. Whatever is written is written
  atomically. A run puts handlers of its own before these while it runs.
  """
  for number in SIGNALS:
    signal.signal(number, _stop)
  atexit.register(_let_end)  # first, so it is called last


def _let_end() -> None:
  """Python, ending, takes the handlers away: a signal would then make work that is done look stopped."""
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: object) -> None:
  put(2, b'stopped; the same command resumes a run from its newest checkpoint\n', PATIENCE)
  os._exit(128 + number)


class PauseSignals:
  """While entered, the first of SIGNALS sets `received` to its name, and the handlers that were there return.

  Python runs a handler only between two of its own instructions, so not while a step is computed or compiled. The
  answer does not wait for that: `tell` is called from a thread that the system wakes at once.
  """

  def __init__(self, tell: Callable[[str], None]):
    self.received = ''
    self._tell = tell
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> 'PauseSignals':
    if threading.current_thread() is not threading.main_thread():
      return self  # where no signal arrives
    self._reader, self._writer = os.pipe()
    os.set_blocking(self._writer, False)
    self._previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
    self._thread = threading.Thread(target=self._answer, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    if not self._handlers:
      return
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._previous)
    os.close(self._writer)  # ends the thread
    self._thread.join()
    os.close(self._reader)

  def _on_signal(self, number: int, _frame: object) -> None:
    self.received = signal.Signals(number).name
    signal.signal(number, self._handlers[number])

  def _answer(self) -> None:
    told = False
    while received := os.read(self._reader, 1):
      if received[0] in SIGNALS and not told:
        told = True
        self._tell('pausing after this chunk; again to stop now')
