"""LwF with a coreset: Learning without Forgetting, with as many stored images as new ones in every epoch."""

from abd_jax.methods import lwf
from abd_jax.methods.rehearsal import rehearse
from abd_jax.methods.types import Method

READS = ('lwf', 'memory')


def make(config) -> Method:
  return rehearse(lwf.make(config), config.memory.redraw)
