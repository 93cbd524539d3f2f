"""Where arrays live: the only file that names a mesh axis.

Batches are split over the axis 'batch'; everything else is replicated. Steps are ordinary `jit` functions of global
arrays, so batch norm sees the global batch and results do not depend on the number of devices.
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
    self.split_in_steps = NamedSharding(self._mesh, PartitionSpec(None, AXIS))  # for batches of several steps

  @property
  def size(self) -> int:
    return self._mesh.size

  @property
  def platform(self) -> str:
    """'cpu', 'gpu' or 'tpu', of these devices; this process may run on another."""
    return self._mesh.devices.flat[0].platform

  def replicate(self, tree: PyTree) -> PyTree:
    """Every leaf, the same on each host, as a global array on every device."""

    def place(leaf: Any) -> jax.Array:
      leaf = np.asarray(leaf)
      # With several processes, each makes only its own shards.
      return jax.make_array_from_callback(leaf.shape, self.replicated, lambda index: leaf[index])

    return jax.tree.map(place, tree)

  def local_rows(self, size: int) -> np.ndarray:
    """The rows of a batch of `size` that this host's devices hold. Hosts hold disjoint rows, in the mesh's order."""
    slices = self.split.addressable_devices_indices_map((size,)).values()
    return np.sort(np.concatenate([np.arange(size)[one] for one in slices]))

  def split_steps(self, local: np.ndarray, size: int) -> jax.Array:
    """Batches of k steps, [k, size, ...], from each host's `local_rows` of them."""
    shape = (local.shape[0], size, *local.shape[2:])
    return jax.make_array_from_process_local_data(self.split_in_steps, local, shape)

  def constrain(self, batch: jax.Array) -> jax.Array:
    """Inside jit: tells the compiler that the leading axis of `batch` is split."""
    return jax.lax.with_sharding_constraint(batch, self.split)

  def gather(self, array: jax.Array) -> jax.Array:
    """Inside jit: tells the compiler to put the whole `array` on every device."""
    return jax.lax.with_sharding_constraint(array, self.replicated)

  def gather_by_sum(self, array: jax.Array) -> jax.Array:
    """The same for one row of each device, exactly, as a sum of rows that are zero elsewhere.

    The TPU compiler merges the sums of several layers, but not their gathers.
    """
    own = np.eye(self.size, dtype=bool).reshape(self.size, self.size, *(1,) * (array.ndim - 1))
    return self.gather(jnp.where(own, array[:, None], 0).sum(0))


def shape_of_slices(array: Any) -> jax.ShapeDtypeStruct:
  """The shape and the placement of array[k]: split axes stay split."""
  sharding = getattr(array, 'sharding', None)
  if isinstance(sharding, NamedSharding):
    axes = () if sharding.num_devices == 1 else sharding.spec[1:]
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(array.shape[1:], array.dtype, sharding=sharding)
