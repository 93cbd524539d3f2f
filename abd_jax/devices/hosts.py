"""Several hosts as one run: how they meet, agree on values, and wait for each other."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from abd_jax.errors import InUse, UserError, reason

Given = TypeVar('Given')
PATIENCE = 300.0  # seconds to wait for the first process


def join_cluster(coordinator: str, count: int, rank: int) -> None:
  """Makes this process one of `count`. '', 0 and -1: as the cluster's own variables say.

  Raises:
    UserError: there is no cluster, the address is not HOST:PORT, or the first process does not answer.
  """
  if coordinator:
    host, _, port = coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
      raise UserError(f'config.cluster.coordinator: expected HOST:PORT, such as 10.0.0.1:1234, got {coordinator!r}.')
    if rank > 0:
      _wait_for(host.strip('[]'), int(port))
  jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM, by which runs pause
  try:
    jax.distributed.initialize(coordinator or None, count or None, None if rank < 0 else rank)
  except Exception as error:  # of many kinds, depending on the cluster
    raise UserError(
      f'expected a cluster, found none ({reason(error)}). Give each process --config.cluster.coordinator=HOST:PORT, '
      '.count and .rank, or leave --config.distributed out.'
    ) from error


def _wait_for(host: str, port: int) -> None:
  """Returns once the first process listens. Raises UserError if it does not: JAX would end the process instead."""
  end = time.monotonic() + PATIENCE
  while True:
    try:
      return socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
      if time.monotonic() > end:
        raise UserError(
          f'config.cluster.coordinator={host}:{port} has not answered for {PATIENCE:.0f} s '
          f'({error.strerror or error}). Start the process of rank 0 there.'
        ) from error
    time.sleep(0.5)


def is_main() -> bool:
  """Whether this host is the one that writes."""
  return jax.process_index() == 0


def any_says(mine: bool) -> bool:
  """Whether `mine` is true on any host: clocks and signals differ between hosts, and all must save together."""
  if jax.process_count() == 1:
    return mine
  return bool(multihost_utils.process_allgather(np.asarray(mine)).any())


def barrier(name: str) -> None:
  """Returns once every host has called this."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_or_none(function: Callable[[], Given]) -> Given:
  """What `function` returns on this host, once it has returned on every host.

  Raises what it raises here, and UserError if it raised on another host: waiting for that one would never end.
  function: must not wait for other hosts.
  """
  if jax.process_count() == 1:
    return function()
  given, error = None, None
  try:
    given = function()
  except Exception as caught:
    error = caught
  failed = multihost_utils.process_allgather(np.asarray(error is not None))
  if error is not None:
    raise error
  if failed.any():
    raise UserError(f'process {int(np.argmax(failed))} of this run cannot begin. Its own message says why.')
  return cast(Given, given)


def must_agree(what: str, function: Callable[[], Any]) -> None:
  """Raises UserError on every host if `function` does not return the same on all of them.

  function: as for `all_or_none`; returns what JSON can hold. A single host does not call it.
  """
  if jax.process_count() == 1:
    return
  mine = json.dumps(all_or_none(function), sort_keys=True)
  if any_says(mine != word_of_main(lambda: mine)):
    raise UserError(f'a process of this run has another {what} than process 0. Start all with the same.')


def word_of_main(function: Callable[[], Any]) -> Any:
  """What `function` returns on the main host, on every host; the others do not call it.

  function: returns what JSON can hold. The others raise what it raises as a UserError, or as InUse if it is that.
  """
  if jax.process_count() == 1:
    return function()
  said: dict[str, Any] = {}
  own: Exception | None = None
  if is_main():
    try:
      said = {'value': function()}
    except Exception as error:  # the others wait for an answer
      own, said = error, {'error': str(error), 'in_use': isinstance(error, InUse)}
  text = json.dumps(said).encode()
  # The length goes first, as all hosts must give arrays of one shape.
  length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
  mine = np.frombuffer(text.ljust(length, b' ')[:length], np.uint8)
  said = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes())
  if own is not None:
    raise own
  if 'error' in said:
    raise (InUse if said['in_use'] else UserError)(said['error'])
  return said['value']
