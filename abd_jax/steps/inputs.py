"""What each step of a phase is given beside the state: rows or images, and a learning rate."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from abd_jax.methods.types import Phase
from abd_jax.state import Array
from abd_jax.steps import optim
from abd_jax.steps.rng import epoch_rng

PyTree = Any


class StepInputs(Protocol):
  """The inputs of a phase's steps, a function of the step alone, so that a resumed run sees the very same ones."""

  steps: int  # of the phase
  images_per_step: int  # how many pass through the networks

  def __call__(self, start: int, stop: int) -> PyTree:
    """Those of steps start .. stop - 1, as numpy arrays with a leading axis of steps."""
    ...


class StudentInputs(NamedTuple):
  """One student step's own inputs: rows of the images on the devices, or the images themselves."""

  lr: Array  # f32[]
  index: Array | None = None  # i32[b], rows of PhaseData.images
  images: Array | None = None  # u8[b, h, w, c]
  labels: Array | None = None  # i32[b], in learning order


class EpochIndices:
  """Each epoch a fresh permutation of `rows`, whole batches only.

  Fewer rows than a batch make one batch, some of them repeated. key: the integers (seed, task, phase).
  """

  def __init__(self, key: tuple[int, int, int], rows: np.ndarray, batch_size: int, phase: Phase):
    self._key, self._rows, self._batch_size, self._phase = key, rows, batch_size, phase
    self._per_epoch = steps_per_epoch(len(rows), batch_size)
    self.steps = phase.epochs * self._per_epoch
    self.images_per_step = batch_size * (1 + phase.dreams)

  def __call__(self, start: int, stop: int) -> StudentInputs:
    epochs, batches = np.divmod(np.arange(start, stop), self._per_epoch)
    orders = {epoch: self._batches(epoch) for epoch in np.unique(epochs)}
    index = np.stack([orders[epoch][batch] for epoch, batch in zip(epochs, batches, strict=True)])
    return StudentInputs(optim.learning_rates(self._phase.lr, self._phase.milestones, epochs), index)

  def _batches(self, epoch: int) -> np.ndarray:
    order = epoch_rng(*self._key, epoch).permutation(len(self._rows))
    order = np.resize(order, max(len(order), self._batch_size))[: self._per_epoch * self._batch_size]
    return self._rows[order].astype(np.int32).reshape(self._per_epoch, self._batch_size)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  return max(num_images // batch_size, 1)


class ConstantRate:
  """Inversion's: one learning rate for all steps. `config` is config.inversion."""

  def __init__(self, config):
    self._lr = config.lr if config.what == 'generator' else config.pixel_lr
    self.steps, self.images_per_step = config.steps, config.batch_size

  def __call__(self, start: int, stop: int) -> np.ndarray:
    return np.full(stop - start, self._lr, np.float32)
