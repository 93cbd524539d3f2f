"""Every random number of a run, from named streams of its one seed, on devices and on the host."""

import jax
import numpy as np

STREAMS = ('student_init', 'generator_init', 'student', 'generator', 'picture', 'start_task', 'end_task')


def stream(seed: int | jax.Array, name: str) -> jax.Array:
  """The key of a named stream. `seed` is a number, not a key: keys cannot be placed on several hosts."""
  return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))


def epoch_rng(seed: int, task: int, phase: int, epoch: int) -> np.random.Generator:
  """Shuffles one epoch: a function of its arguments alone, so that a resumed run has the same batches."""
  return np.random.default_rng([seed, task, phase, epoch])


def host_rng(name: str, seed: int, task: int, phase: int, step: int = 0) -> np.random.Generator:
  """Chooses the 'rows' that a phase trains on, the images that the 'memory' keeps after it, or a step's 'crops'."""
  # A fifth word, which the seeds of epochs lack, so that these streams differ from every epoch's.
  return np.random.default_rng([seed, task, phase, step, 1 + ('rows', 'memory', 'crops').index(name)])
