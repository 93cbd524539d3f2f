"""Where arrays live: the only file that names a mesh axis.

Batches are split over the axis 'batch', everything else is replicated. Steps are ordinary `jit` functions of
global arrays, so batch norm sees the global batch and results do not depend on the number of devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

PyTree = Any
AXIS = 'batch'


class DataMesh:
  """A one-dimensional mesh over `devices` (of jax.devices()) and the two shardings everything uses."""

  def __init__(self, devices: Sequence[Any]):
    self._mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    self.replicated = NamedSharding(self._mesh, PartitionSpec())
    self.split = NamedSharding(self._mesh, PartitionSpec(AXIS))
    self.split_in_steps = NamedSharding(self._mesh, PartitionSpec(None, AXIS))  # of batches of several steps

  @property
  def size(self) -> int:
    return self._mesh.size

  @property
  def platform(self) -> str:
    """'cpu', 'gpu' or 'tpu': what programs are compiled for, whatever this process runs on."""
    return self._mesh.devices.flat[0].platform

  def replicate(self, tree: PyTree) -> PyTree:
    """Every leaf, the same on each host, as a global array on every device."""
    return jax.tree.map(lambda leaf: _place(leaf, self.replicated), tree)

  def local_rows(self, size: int) -> np.ndarray:
    """Which rows of a batch of `size` this host's devices hold: disjoint shares, in the order of the mesh."""
    slices = self.split.addressable_devices_indices_map((size,)).values()
    return np.sort(np.concatenate([np.arange(size)[one] for one in slices]))

  def split_steps(self, local: np.ndarray, size: int) -> jax.Array:
    """Batches of k steps, [k, size, ...], of which each host has its `local_rows`."""
    shape = (local.shape[0], size, *local.shape[2:])
    return jax.make_array_from_process_local_data(self.split_in_steps, local, shape)

  def constrain(self, batch: jax.Array) -> jax.Array:
    """Inside jit: tells the compiler that the leading axis of `batch` is split."""
    return jax.lax.with_sharding_constraint(batch, self.split)

  def gather(self, array: jax.Array) -> jax.Array:
    """Inside jit: tells the compiler to lay `array` whole on every device."""
    return jax.lax.with_sharding_constraint(array, self.replicated)

  def gather_by_sum(self, array: jax.Array) -> jax.Array:
    """The same for one row of each device, exactly: a sum of rows that are zero elsewhere.

    A TPU's compiler does the sums of several layers at once, but gathers for each by itself.
    """
    own = np.eye(self.size, dtype=bool).reshape(self.size, self.size, *(1,) * (array.ndim - 1))
    return self.gather(jnp.where(own, array[:, None], 0).sum(0))


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
  leaf = np.asarray(leaf)
  # Works with several processes too, where each makes only its own shards.
  return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def placement_of_slices(sharding: Any) -> Any:
  """Where JAX puts array[k] of an array that lies so: what is split stays split."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  return NamedSharding(sharding.mesh, PartitionSpec(*(() if sharding.num_devices == 1 else sharding.spec[1:])))
