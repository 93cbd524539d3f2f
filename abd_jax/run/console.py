"""What a run shows while it runs: a progress bar on a terminal, plain lines elsewhere."""

import os
import sys
import time

import jax
from tqdm import tqdm


class Console:
  """Task, phase, losses, images/s and time left of a run of `total` steps, `done` of which lie behind.

  On a terminal a bar (coloured unless NO_COLOR is set); otherwise a plain line at most every `every` seconds.
  """

  def __init__(self, total: int, done: int, every: float = 10.0):
    self._silent = jax.process_index() != 0
    self._plain = not sys.stderr.isatty()
    self._total, self._done, self._start = total, done, done
    self._every, self._began, self._last = every, time.monotonic(), time.monotonic()
    self._bar = None
    if not (self._plain or self._silent):
      colour = None if os.environ.get('NO_COLOR') else 'green'
      self._bar = tqdm(total=total, initial=done, unit='step', colour=colour, dynamic_ncols=True)

  def step(self, where: str, steps: int, metrics: dict[str, float], images_per_second: float) -> None:
    """`steps` more steps are done; `where` names task and phase."""
    self._done += steps
    losses = ' '.join(f'{name} {value:.3g}' for name, value in metrics.items())
    text = f'{losses} {images_per_second:.0f} images/s'
    if self._bar is not None:
      self._bar.set_description(where, refresh=False)
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(steps)
    elif time.monotonic() - self._last >= self._every:
      self._last = time.monotonic()
      self.line(f'{where}: {text}, {self._done}/{self._total} steps, {self._left()} left')

  def line(self, text: str) -> None:
    """A plain line on stderr, above the bar if there is one."""
    if not self._silent:
      tqdm.write(text, file=sys.stderr)

  def _left(self) -> str:
    rate = (self._done - self._start) / (time.monotonic() - self._began)
    return tqdm.format_interval((self._total - self._done) / rate)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
