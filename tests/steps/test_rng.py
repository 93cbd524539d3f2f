"""abd_jax.steps.rng: streams that never meet."""

import jax
import numpy as np

from abd_jax.steps import rng


def test_streams_of_a_seed_all_differ():
  keys = {tuple(np.asarray(jax.random.key_data(rng.stream(seed, name)))) for name in rng.STREAMS for seed in (0, 1)}
  assert len(keys) == 2 * len(rng.STREAMS)


def test_rows_and_memory_are_no_epochs_shuffles():
  """They once were those of epochs 1 and 2."""
  draw = lambda generator: generator.permutation(1000).tobytes()
  grid = [(seed, task, phase) for seed in (0, 1) for task in (0, 1) for phase in (0, 1)]
  epochs = [draw(rng.epoch_rng(*at, epoch)) for at in grid for epoch in range(20)]
  rows, memory = ([draw(rng.host_rng(name, *at)) for at in grid] for name in ('rows', 'memory'))
  assert len({*epochs, *rows, *memory}) == len(epochs) + 2 * len(grid)
  assert draw(rng.host_rng('rows', 1, 0, 1)) == draw(rng.host_rng('rows', 1, 0, 1))
