"""LwF with a coreset: Learning without Forgetting, with as many stored images as new ones in every epoch."""

from abd_jax.methods import Method, lwf
from abd_jax.methods.rehearsal import rehearse


def make(config) -> Method:
  return rehearse(config, lwf.make(config))
