"""What a run shows while it runs: a progress bar on a terminal, plain lines elsewhere."""

import os
import shutil
import sys
import time

import jax
from tqdm import tqdm

BAR = 15  # cells that the bar has at least, in 80 columns


class Console:
  """Task, phase, percent, time left and losses of a run of `total` steps, `done` of which lie behind.

  On a terminal a bar (coloured unless NO_COLOR is set); otherwise a plain line at most every `every` seconds. The time
  left is of steps alone: what was spent on compiling is taken out.
  """

  def __init__(self, total: int, done: int, every: float = 10.0):
    self._silent = jax.process_index() != 0
    self._plain = not sys.stderr.isatty()
    self._total, self._done, self._start = total, done, done
    self._every, self._began, self._last = every, time.monotonic(), time.monotonic()
    self._compiled, self._where = 0.0, ''
    self._bar = None
    if not (self._plain or self._silent):
      colour = None if os.environ.get('NO_COLOR') else 'green'
      form = '{desc}{percentage:3.0f}% |{bar}| {unit}'  # as the unit, for tqdm puts a comma before a postfix
      self._bar = tqdm(total=total, initial=done, colour=colour, dynamic_ncols=True, bar_format=form, unit='starting')

  def begin(self, where: str, what: str) -> None:
    """A phase, named by `where`, begins with `what`, of which nothing else is told while it lasts."""
    self._where = where
    self._show(what)

  def compiled(self, seconds: float) -> None:
    """Compiling something has just taken so long."""
    self._compiled += seconds

  def step(self, steps: int, metrics: dict[str, float], images_per_second: float) -> None:
    """`steps` more steps of the phase are done."""
    self._done += steps
    words = [f'{name} {value:.3g}' for name, value in sorted(metrics.items(), key=lambda item: item[0] != 'loss')]
    words.append(f'{images_per_second:.0f} images/s')
    if self._bar is not None:
      self._bar.n += steps
      self._show(f'{self._left()} left', words)
    elif time.monotonic() - self._last >= self._every:
      self._last = time.monotonic()
      self.line(f'{self._where}: {" ".join(words)}, {self._done}/{self._total} steps, {self._left()} left')

  def line(self, text: str) -> None:
    """A plain line on stderr, above the bar if there is one."""
    if not self._silent:
      tqdm.write(text, file=sys.stderr)

  def _show(self, text: str, words: list[str] | None = None) -> None:
    """Puts `text` behind the bar, and of `words` as many as leave the bar its cells."""
    if self._bar is None:
      return
    head = f'{self._where}: '
    room = shutil.get_terminal_size().columns - len(head) - len('100% || ') - BAR - len(text) - 1
    for word in words or []:
      if len(word) + 1 > room:
        break
      text, room = f'{text} {word}', room - len(word) - 1
    self._bar.set_description_str(head, refresh=False)
    self._bar.unit = text
    self._bar.refresh()

  def _left(self) -> str:
    seconds = max(time.monotonic() - self._began - self._compiled, 1e-3)
    rate = max(self._done - self._start, 1) / seconds
    return tqdm.format_interval((self._total - self._done) / rate)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
