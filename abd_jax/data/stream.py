"""Streams tasks too large for the devices: threads of the host decode one chunk of steps ahead.

Grain 0.2 was tried: a MapDataset of steps gives the same batches, but it replaces only `Prefetch`, with two more
packages; rows, memories and crops would stay as they are.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from abd_jax.data.memory import Pool
from abd_jax.data.records import start

Chunk = tuple[np.ndarray, list[Future]]  # u8[k, b, h, w, c], whole when all futures are done


def begin(pool: Pool, rows: np.ndarray, draws: Sequence[np.ndarray | None]) -> Chunk:
  """Has threads decode rows i32[k, b] of `pool`; draws: for each step those of the random crops, f64[b, DRAWS]."""
  images = np.empty((*rows.shape, *pool.source.view.shape), np.uint8)
  steps = zip(images, rows, draws, strict=True)
  return images, [part for step in steps for part in start(pool.fill, *step)]


class Prefetch:
  """Gives the chunks of a phase's steps one after another, and has the next one decoded meanwhile.

  begin: (start, stop) -> the Chunk of steps start .. stop - 1, a function of these alone.
  """

  def __init__(self, begin: Callable[[int, int], Chunk], steps: int):
    self._begin, self._steps = begin, steps
    self._next: tuple[tuple[int, int], Chunk] | None = None

  def get(self, start: int, stop: int) -> np.ndarray:
    """u8[stop - start, b, h, w, c]."""
    if self._next and self._next[0] == (start, stop):
      images, parts = self._next[1]
    else:
      self.close()
      images, parts = self._begin(start, stop)
    after = min(2 * stop - start, self._steps)
    self._next = ((stop, after), self._begin(stop, after)) if stop < after else None
    for part in parts:
      part.result()
    return images

  def close(self) -> None:
    """Gives up the next chunk."""
    for part in self._next[1][1] if self._next else []:
      part.cancel()
    self._next = None
