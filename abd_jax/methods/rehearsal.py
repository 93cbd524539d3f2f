"""Naive rehearsal: Base, with as many stored images as new ones in every epoch."""

from dataclasses import replace

from abd_jax.data.memory import ExemplarPolicy, random_order, task_and_as_many
from abd_jax.methods import base
from abd_jax.methods.types import Method

READS = ('memory',)


def rehearse(method: Method, redraw: str) -> Method:
  """`method` with a memory of random images, mixed in equal parts with the new ones. redraw: config.memory.redraw."""
  later = tuple(replace(phase, data=task_and_as_many) for phase in method.later)
  return replace(method, later=later, memory=ExemplarPolicy(random_order, redraw=redraw == 'released'))


def make(config) -> Method:
  return rehearse(base.make(config), config.memory.redraw)
