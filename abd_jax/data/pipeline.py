"""Streams of images too many for the devices: decoded by threads of the host, one chunk of steps ahead."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from abd_jax.data import memory as memory_lib
from abd_jax.data.images import from_array
from abd_jax.data.memory import Memory, Pool
from abd_jax.data.records import Split, in_parts
from abd_jax.data.threads import pool as threads


class Chunk(NamedTuple):
  """Images that threads are at work on."""

  images: np.ndarray  # u8[k, b, h, w, c], whole once all of `parts` are done
  parts: list[Future]


class StreamedPool(NamedTuple):
  """A pool whose task's images stay encoded on disk; stands where a memory.PooledImages does.

  A memory's images are as they were tested: of those cut out at random in training, the centre.
  """

  split: Split  # the task's, labels in learning order
  memory: Memory
  images = None  # on no device

  @property
  def pool(self) -> Pool:
    return memory_lib.join(self.split.labels, self.memory.labels)

  @property
  def labels(self) -> np.ndarray:
    """i32[n] of all rows."""
    return self.pool.labels

  @property
  def task_images(self) -> Split:
    """The task's own, decoded slice by slice."""
    return self.split

  @property
  def crops(self) -> bool:
    """Whether training images are cut out at random on the host."""
    return self.split.view.crop == 'resized'

  def take(self, rows: np.ndarray) -> Memory:
    """A memory of these rows."""
    images = np.empty((len(rows), *self.split.view.shape), np.uint8)
    for part in self._start(images, rows, None):
      part.result()
    return Memory(images, self.labels[rows])

  def begin(self, rows: np.ndarray, draws: Sequence[np.ndarray | None]) -> Chunk:
    """Has threads decode rows i32[k, b]; draws: for each step those of the random crops, f64[b, DRAWS]."""
    images = np.empty((*rows.shape, *self.split.view.shape), np.uint8)
    steps = zip(images, rows, draws, strict=True)
    return Chunk(images, [part for step in steps for part in self._start(*step)])

  def _start(self, images: np.ndarray, rows: np.ndarray, draws: np.ndarray | None) -> list[Future]:
    return [
      threads().submit(self._fill, images[part], rows[part], None if draws is None else draws[part])
      for part in in_parts(len(rows))
    ]

  def _fill(self, images: np.ndarray, rows: np.ndarray, draws: np.ndarray | None) -> None:
    of_task, count = rows < len(self.split), len(self.split)
    mine = np.flatnonzero(of_task)
    self.split.fill([images[k] for k in mine], rows[mine], None if draws is None else draws[mine])
    for k in np.flatnonzero(~of_task):
      stored = self.memory.images[rows[k] - count]
      images[k] = stored if draws is None else self.split.view.cut(from_array(stored), draws[k])


class Prefetch:
  """Gives the chunks of a phase's steps one after another, and has the next one made meanwhile.

  begin: (start, stop) -> a Chunk of steps start .. stop - 1, a function of these alone. seconds_waited: how long the
  steps had to wait for images, over all chunks.
  """

  def __init__(self, begin: Callable[[int, int], Chunk], steps: int):
    self._begin, self._steps = begin, steps
    self._ahead: tuple[int, int, Chunk] | None = None
    self.seconds_waited = 0.0

  def get(self, start: int, stop: int) -> np.ndarray:
    """u8[stop - start, b, h, w, c]."""
    if self._ahead and self._ahead[:2] == (start, stop):
      chunk = self._ahead[2]
    else:
      self.close()
      chunk = self._begin(start, stop)
    after = min(2 * stop - start, self._steps)
    self._ahead = (stop, after, self._begin(stop, after)) if stop < after else None
    began = time.monotonic()
    for part in chunk.parts:
      part.result()
    self.seconds_waited += time.monotonic() - began
    return chunk.images

  def close(self) -> None:
    """Gives up what is under way."""
    for part in self._ahead[2].parts if self._ahead else []:
      part.cancel()
    self._ahead = None
