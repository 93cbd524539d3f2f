"""What a run shows on the terminal."""

import contextlib
import io
import os
import sys
import time
from typing import Any

from tqdm import tqdm


class Console:
  """Shows task, phase, percent, time left and losses of a run of `total` steps, `done` of which are done.

  On a terminal or in a notebook it shows a bar (coloured unless NO_COLOR is set), elsewhere a plain line every `every`
  seconds. The time left does not count compiling. A closed stderr does not end the run. silent: shows nothing, as on
  all hosts but the first.
  """

  def __init__(self, total: int, done: int, silent: bool = False, every: float = 10.0):
    self._silent, self._every, self._last = silent, every, time.monotonic()
    notebook = type(sys.stderr).__module__.startswith('ipykernel')
    self._plain = silent or not (sys.stderr.isatty() or notebook)
    look: dict[str, Any] = {'bar_format': '{desc}{n_fmt}/{total_fmt} steps, {remaining} left{postfix}'}
    if not self._plain:
      colour = None if os.environ.get('NO_COLOR') else 'green'
      form = '{desc}{percentage:3.0f}% |{bar:15}| {remaining} left{postfix}'
      look = {'bar_format': form, 'colour': colour, 'dynamic_ncols': True}
    file = io.StringIO() if self._plain else sys.stderr
    self._bar = tqdm(total=total, initial=done, file=file, smoothing=0, **look)

  def begin(self, where: str) -> None:
    """Shows that the phase `where` begins."""
    self._bar.set_description(where, refresh=False)
    self._show('first steps')

  def compiled(self, seconds: float) -> None:
    """Leaves the seconds that a compilation took out of the time left."""
    self._bar.start_t += seconds

  def step(self, steps: int, metrics: dict[str, float], images_per_second: float) -> None:
    """Shows that `steps` more steps of the phase are done."""
    self._bar.n += steps
    words = [f'{name}={value:.3g}' for name, value in sorted(metrics.items(), key=lambda item: item[0] != 'loss')]
    self._show(' '.join([*words, f'{images_per_second:.0f} images/s']))

  def line(self, text: str) -> None:
    """Prints a line on stderr, above the bar if there is one."""
    if not self._silent:
      with contextlib.suppress(OSError):
        tqdm.write(text, file=sys.stderr)

  def _show(self, text: str) -> None:
    self._bar.set_postfix_str(text, refresh=False)
    if not self._plain:
      with contextlib.suppress(OSError):
        self._bar.refresh()
    elif time.monotonic() - self._last >= self._every:
      self._last = time.monotonic()
      self.line(str(self._bar))

  def close(self) -> None:
    self._bar.close()
