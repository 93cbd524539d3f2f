"""What a run shows on the terminal, and how it answers Ctrl-C and SIGTERM."""

import contextlib
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from typing import Any

from tqdm import tqdm

from abd_jax.errors import SIGNALS, say_past_buffers


class PauseSignals:
  """Inside the block the first of SIGNALS sets `received` to its name. The next one finds the old handlers.

  Python runs a handler between two instructions of its own, so the answer may come only after a step.
  """

  def __init__(self):
    self.received = ''
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> 'PauseSignals':
    if threading.current_thread() is threading.main_thread():  # no other thread receives signals
      self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)

  def _on_signal(self, number: int, _frame: object) -> None:
    self.received = signal.Signals(number).name
    for each, handler in self._handlers.items():
      signal.signal(each, handler)
    say_past_buffers(b'pausing after this chunk; again to stop now')


class Console:
  """Shows task, phase, percent, time left and losses of a run of `total` steps, `done` of which are done.

  On a terminal or in a notebook it shows a bar (coloured unless NO_COLOR is set), elsewhere a plain line every `every`
  seconds. The time left does not count compiling. A closed stderr does not end the run. silent: shows nothing, as on
  all hosts but the first.
  """

  def __init__(self, total: int, done: int, silent: bool = False, every: float = 10.0):
    self._silent = silent
    notebook = type(sys.stderr).__module__.startswith('ipykernel')
    self._plain = not (sys.stderr.isatty() or notebook)
    self._total, self._done, self._start = total, done, done
    self._every, self._began, self._last = every, time.monotonic(), time.monotonic()
    self._compiled, self._where = 0.0, ''
    self._bar = None
    if not (self._plain or self._silent):
      colour = None if os.environ.get('NO_COLOR') else 'green'
      form = '{desc}{percentage:3.0f}% |{bar:15}| {unit}'  # as the unit, for tqdm puts a comma before a postfix
      self._bar = tqdm(total=total, initial=done, colour=colour, dynamic_ncols=True, bar_format=form, unit='starting')

  def begin(self, where: str, what: str) -> None:
    """Shows that the phase `where` begins with `what`, which prints nothing itself."""
    self._where = where
    self._show(what)

  def compiled(self, seconds: float) -> None:
    """Adds the seconds that a compilation took, so that the time left does not count them."""
    self._compiled += seconds

  def step(self, steps: int, metrics: dict[str, float], images_per_second: float) -> None:
    """Shows that `steps` more steps of the phase are done."""
    self._done += steps
    words = [f'{name}={value:.3g}' for name, value in sorted(metrics.items(), key=lambda item: item[0] != 'loss')]
    words.append(f'{images_per_second:.0f} images/s')
    if self._bar is not None:
      self._bar.n += steps
      self._show(' '.join([self._left(), 'left', *words]))
    elif time.monotonic() - self._last >= self._every:
      self._last = time.monotonic()
      self.line(f'{self._where}: {" ".join(words)}, {self._done}/{self._total} steps, {self._left()} left')

  def line(self, text: str) -> None:
    """Prints a line on stderr, above the bar if there is one."""
    if not self._silent:
      with contextlib.suppress(OSError):
        tqdm.write(text, file=sys.stderr)

  def _show(self, text: str) -> None:
    """Shows as many words of `text` after the bar as the terminal has room for."""
    if self._bar is None:
      return
    self._bar.set_description_str(f'{self._where}: ', refresh=False)
    room = shutil.get_terminal_size().columns - len(f'{self._where}: 100% |{" " * 15}| ')
    self._bar.unit = textwrap.shorten(text, max(room, 1), placeholder='')
    with contextlib.suppress(OSError):
      self._bar.refresh()

  def _left(self) -> str:
    seconds = max(time.monotonic() - self._began - self._compiled, 1e-3)
    rate = max(self._done - self._start, 1) / seconds
    return tqdm.format_interval((self._total - self._done) / rate)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
