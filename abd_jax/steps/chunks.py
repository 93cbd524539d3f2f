"""Runs N steps of any pure step function: the one place that knows about chunks, scan and the Python loop.

A step is `step(state, inputs, data) -> (state, metrics)`: `inputs` is its slice of per-step inputs, `data`
what all steps of a phase read. A chunk is a run of steps between two looks at the host.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

PyTree = Any
Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
Chunk = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def make_chunk(step: Step, *, scan_steps: int = 0, out_sharding: Any = None) -> Chunk:
  """Compiles `step` into `chunk(state, inputs, data) -> (state, metrics)`, one metrics row per step.

  Inputs and metrics have a leading axis of steps. A chunk of exactly `scan_steps` steps runs as one compiled
  `lax.scan` (fast on GPU and TPU); any other runs step by step, as all do with 0 (on CPU, XLA runs convolutions
  inside a loop about 16 times slower). The step is traced once for both. `state` is donated.
  """
  compile_ = lambda f: jax.jit(f, donate_argnums=0, out_shardings=out_sharding)
  one = compile_(step)

  @compile_
  def scanned(state, inputs, data):
    return jax.lax.scan(lambda carry, x: one(carry, x, data), state, inputs)

  def chunk(state, inputs, data):
    length = jax.tree.leaves(inputs)[0].shape[0]
    if length == scan_steps:
      return scanned(state, inputs, data)
    rows = []
    for k in range(length):
      state, metrics = one(state, jax.tree.map(lambda leaf: leaf[k], inputs), data)  # noqa: B023
      rows.append(metrics)
    return state, jax.tree.map(lambda *row: np.stack(jax.device_get(row)), *rows)

  return chunk


def run(
  chunk: Chunk,
  state: PyTree,
  data: PyTree,
  inputs: Callable[[int, int], PyTree],
  steps: range,
  chunk_steps: int,
  on_chunk: Callable[[PyTree, PyTree, int], None],
) -> PyTree:
  """Runs steps.start .. steps.stop - 1 and returns the state after them.

  Chunks lie on the absolute grid of multiples of `chunk_steps`, so a resumed run computes the very same chunks.
  `inputs(start, stop)` gives the inputs of those steps as numpy arrays. After each chunk
  `on_chunk(state, metrics, steps done)` may log, save, or raise to end the run.
  """
  start = steps.start
  while start < steps.stop:
    stop = min(steps.stop, (start // chunk_steps + 1) * chunk_steps)
    state, metrics = chunk(state, inputs(start, stop), data)
    on_chunk(state, jax.device_get(metrics), stop)
    start = stop
  return state
