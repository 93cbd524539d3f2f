"""Runs N steps of any pure step function: the only module about chunks, scan and the Python loop.

A chunk is the steps between two returns to the host.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from abd_jax.devices.backend import full_precision_matmul
from abd_jax.devices.mesh import shape_of_slices
from abd_jax.steps.inputs import StepInputs

PyTree = Any


@dataclass(frozen=True)
class Step:
  """One step, `step(state, inputs, data) -> (state, metrics)`, in parts that the steps of a scan can share.

  Attributes:
    run: (state, copies, inputs, data) -> (state, metrics): `inputs` is the step's slice of per-step inputs.
    copies: state -> copies of it for `run`, such as narrower weights; a scan makes them when it has a new state.
    prepare: the data of a phase -> the `data` of `run`; a scan makes it once.
  """

  run: Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
  copies: Callable[[PyTree], PyTree] = lambda state: None
  prepare: Callable[[PyTree], PyTree] = lambda data: data

  def __call__(self, state: PyTree, inputs: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    return self.run(state, self.copies(state), inputs, self.prepare(data))


class Chunk:
  """Compiles a step into `chunk(state, inputs, data) -> (state, metrics)`, one metrics row per step.

  Inputs and metrics have a leading axis of steps. A chunk of exactly `scan_steps` steps runs as one compiled
  `lax.scan` (fast on GPU and TPU); any other runs step by step, as all do with 0 (on CPU, XLA runs convolutions
  inside a loop about 16 times slower). The step is traced once for both. `state` is donated.
  """

  def __init__(self, step: Step, *, scan_steps: int = 0, out_sharding: Any = None):
    compiled = lambda f: jax.jit(full_precision_matmul(f), donate_argnums=0, out_shardings=out_sharding)
    step = Step(jax.jit(step.run), step.copies, step.prepare)

    def scanned(state, inputs, data):
      data, like = step.prepare(data), []

      def body(carry, x):
        state, copies = carry
        state, metrics = step.run(state, copies, x, data)
        row, unravel = ravel_pytree(metrics)  # written at once
        like.append(unravel)
        return (state, step.copies(state)), row

      (state, _), rows = jax.lax.scan(body, (state, step.copies(state)), inputs)
      return state, jax.vmap(like[-1])(rows)

    self._one, self._scanned, self._scan_steps = compiled(step), compiled(scanned), scan_steps

  def scans(self, length: int) -> bool:
    """Whether a chunk of so many steps is one scan."""
    return length == self._scan_steps

  def __call__(self, state: PyTree, inputs: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
    length = _length(inputs)
    if self.scans(length):
      return self._scanned(state, inputs, data)
    rows = []
    for k in range(length):
      state, metrics = self._one(state, jax.tree.map(lambda leaf: leaf[k], inputs), data)  # noqa: B023
      rows.append(metrics)
    return state, jax.tree.map(lambda *row: np.stack(jax.device_get(row)), *rows)

  def lower(self, state: PyTree, inputs: PyTree, data: PyTree) -> jax.stages.Lowered:
    """The program that a chunk of these inputs runs, once or step by step; shapes may stand for arrays."""
    if self.scans(_length(inputs)):
      return self._scanned.lower(state, inputs, data)
    return self._one.lower(state, jax.tree.map(shape_of_slices, inputs), data)


def _length(inputs: PyTree) -> int:
  return jax.tree.leaves(inputs)[0].shape[0]


def run(
  chunk: Chunk, state: PyTree, data: PyTree, inputs: StepInputs, steps: range, chunk_steps: int
) -> Iterator[tuple[PyTree, PyTree, int]]:
  """Runs steps.start .. steps.stop - 1; yields (state, metrics of each step, steps done) after each chunk.

  Chunks lie on the absolute grid of multiples of `chunk_steps`, so a resumed run computes the same chunks.
  The next chunk reuses the yielded state's buffers.
  """
  start = steps.start
  while start < steps.stop:
    stop = min(steps.stop, (start // chunk_steps + 1) * chunk_steps)
    state, metrics = chunk(state, inputs(start, stop), data)
    yield state, jax.device_get(metrics), stop
    start = stop
