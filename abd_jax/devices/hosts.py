"""Several hosts agreeing: what one of them says, and when all have come to the same point."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from abd_jax.errors import InUse, UserError


def is_main() -> bool:
  """Whether this host is the one that writes."""
  return jax.process_index() == 0


def any_says(mine: bool) -> bool:
  """Whether any host says so: clocks and signals differ between hosts, and all must save together."""
  if jax.process_count() == 1:
    return mine
  return bool(multihost_utils.process_allgather(np.asarray(mine)).any())


def barrier(name: str) -> None:
  """Returns once every host has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def word_of_main(function: Callable[[], Any]) -> Any:
  """What `function` gives or raises on the main host, on every host; elsewhere it is not called.

  function: returns what JSON can hold; of what it raises, UserError and InUse reach the others.
  """
  if jax.process_count() == 1:
    return function()
  said: dict[str, Any] = {}
  if is_main():
    try:
      said = {'value': function()}
    except UserError as error:
      said = {'error': str(error), 'in_use': isinstance(error, InUse)}
  said = json.loads(_broadcast(json.dumps(said).encode()))
  if 'error' in said:
    raise (InUse if said['in_use'] else UserError)(said['error'])
  return said['value']


def _broadcast(text: bytes) -> bytes:
  """The main host's bytes: their number first, for all must give arrays of one shape."""
  length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
  mine = np.frombuffer(text.ljust(length, b' ')[:length], np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes()
