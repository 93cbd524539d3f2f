"""LwF with a coreset: Learning without Forgetting, with as many stored images as new ones in every epoch."""

from abd_jax.methods import lwf
from abd_jax.methods.rehearsal import rehearse
from abd_jax.methods.types import Method


def make(config) -> Method:
  return rehearse(config, lwf.make(config))
