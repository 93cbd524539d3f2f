"""The inputs of each step of a phase: rows or images, and a learning rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from abd_jax.data.images import DRAWS
from abd_jax.data.memory import Pool
from abd_jax.data.stream import Chunk, Prefetch, begin
from abd_jax.methods.types import Phase
from abd_jax.state import Array
from abd_jax.steps.rng import epoch_rng, host_rng


class StudentInputs(NamedTuple):
  """The inputs of one student step: rows of the images on the devices, or the images themselves."""

  lr: Array  # f32[]
  index: Array | None = None  # i32[b], rows of PhaseData.images
  images: Array | None = None  # u8[b, h, w, c]
  labels: Array | None = None  # i32[b], in learning order


class EpochIndices:
  """Each epoch a fresh permutation of `rows`, whole batches only.

  Fewer rows than a batch make one batch, some of them repeated. key: the integers (seed, task, phase).
  """

  def __init__(self, key: tuple[int, int, int], rows: np.ndarray, batch_size: int, phase: Phase):
    self.key, self._rows, self.batch_size, self._phase = key, rows, batch_size, phase
    self._per_epoch = steps_per_epoch(len(rows), batch_size)
    self.steps = phase.epochs * self._per_epoch
    self.images_per_step = batch_size * (1 + phase.dreams)

  def __call__(self, start: int, stop: int) -> StudentInputs:
    return StudentInputs(self.rates(start, stop), self.index(start, stop))

  def rates(self, start: int, stop: int) -> np.ndarray:
    """f32[k]: the learning rates of those steps."""
    epochs = np.arange(start, stop) // self._per_epoch
    drops = (epochs[:, None] >= np.asarray(self._phase.milestones, int)[None, :]).sum(1)
    return (self._phase.lr * 0.1**drops).astype(np.float32)

  def index(self, start: int, stop: int) -> np.ndarray:
    """i32[k, b]: the rows of those steps."""
    epochs, batches = np.divmod(np.arange(start, stop), self._per_epoch)
    orders = {epoch: self._batches(epoch) for epoch in np.unique(epochs)}
    return np.stack([orders[epoch][batch] for epoch, batch in zip(epochs, batches, strict=True)])

  def _batches(self, epoch: int) -> np.ndarray:
    order = epoch_rng(*self.key, epoch).permutation(len(self._rows))
    order = np.resize(order, max(len(order), self.batch_size))[: self._per_epoch * self.batch_size]
    return self._rows[order].astype(np.int32).reshape(self._per_epoch, self.batch_size)


Place = Callable[[np.ndarray, int], Any]  # (this host's rows [k, b, ...] of k batches, rows of one) -> a global array


class StreamedImages:
  """The same batches as `indices` names, decoded on this host ahead of the steps that need them.

  Each host decodes its own rows of every batch only. Leave it by `with`: threads then stop.
  """

  def __init__(self, indices: EpochIndices, pool: Pool, local_rows: np.ndarray, place: Place):
    self._indices, self._pool, self._local_rows, self._place = indices, pool, local_rows, place
    self.steps, self.images_per_step = indices.steps, indices.images_per_step
    self.prefetch = Prefetch(self._begin, self.steps)

  def __enter__(self) -> 'StreamedImages':
    return self

  def __exit__(self, *exc) -> None:
    self.prefetch.close()

  def __call__(self, start: int, stop: int) -> StudentInputs:
    place = lambda local: self._place(local, self._indices.batch_size)
    images, labels = self.prefetch.get(start, stop), self._pool.labels[self._rows(start, stop)]
    return StudentInputs(self._indices.rates(start, stop), None, place(images), place(labels))

  def _rows(self, start: int, stop: int) -> np.ndarray:
    """i32[k, b]: the rows of this host."""
    return self._indices.index(start, stop)[:, self._local_rows]

  def _begin(self, start: int, stop: int) -> Chunk:
    return begin(self._pool, self._rows(start, stop), [self._draws(step) for step in range(start, stop)])

  def _draws(self, step: int) -> np.ndarray | None:
    """f64[b, DRAWS]: this host's part of the draws for the whole batch."""
    if self._pool.source.view.crop != 'resized':
      return None
    return host_rng('crops', *self._indices.key, step).random((self._indices.batch_size, DRAWS))[self._local_rows]


def rows_of_task(labels: np.ndarray, old: np.ndarray, new: np.ndarray, most: int) -> dict[str, np.ndarray]:
  """The samples of a TaskEnd, one a row, padded as if there were `most` images.

  labels: i32[n]. old, new: f[n, k, d] of each image, its copy, and k - 2 dreams.
  """
  count, kinds = old.shape[:2]

  def rows(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, ((0, most - count), *[(0, 0)] * (values.ndim - 1)))
    return padded.reshape(-1, *values.shape[2:])

  there = np.ones((count, kinds), bool)
  each = {'labels': labels[:, None] * there, 'kinds': np.arange(kinds, dtype=np.int32)[None] * there, 'there': there}
  return {name: rows(values) for name, values in ({'old': old, 'new': new} | each).items()}


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  return max(num_images // batch_size, 1)


class ConstantRate:
  """The inputs of inversion: one learning rate for all steps."""

  def __init__(self, lr: float, steps: int, batch_size: int):
    self._lr, self.steps, self.images_per_step = lr, steps, batch_size

  def __call__(self, start: int, stop: int) -> np.ndarray:
    return np.full(stop - start, self._lr, np.float32)


def inversion_inputs(settings) -> ConstantRate:
  """The inputs of inversion after a task. settings: config.inversion."""
  lr = settings.lr if settings.what == 'generator' else settings.pixel_lr
  return ConstantRate(lr, settings.steps, settings.batch_size)


# steps: of the phase; images_per_step: how many pass through the networks. Called with (start, stop), they give the
# inputs of steps start .. stop - 1 with a leading axis of steps: functions of the step alone, so that a resumed run has
# the same ones.
StepInputs = EpochIndices | StreamedImages | ConstantRate
