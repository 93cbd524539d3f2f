"""The form of each expensive operation for each kind of device; all forms are equal up to rounding."""

from typing import NamedTuple

from abd_jax.data.augment import Crop, crop_by_choice, crop_by_index
from abd_jax.devices.mesh import DataMesh
from abd_jax.models.conv import Conv, conv_on_cpu, plain_conv, upsample_conv_of_four, upsample_conv_of_one
from abd_jax.models.moments import TWO_PASSES, Statistics, in_sums


class Kernels(NamedTuple):
  conv: Conv = plain_conv
  upsample_conv: Conv = upsample_conv_of_four(plain_conv)
  statistics: Statistics = TWO_PASSES
  crop: Crop = crop_by_index
  folds: bool = False  # whether batch norms of teachers become part of their convolutions


def kernels_for(mesh: DataMesh) -> Kernels:
  """The forms for the devices of the mesh, which may not be those of this process."""
  if mesh.platform != 'cpu':
    on_tpu = mesh.platform == 'tpu'
    gather = mesh.gather_by_sum if on_tpu else mesh.gather
    statistics = in_sums(mesh.size, gather, one_pass=not on_tpu)
    crop = crop_by_choice if on_tpu else crop_by_index
    return Kernels(plain_conv, upsample_conv_of_one, statistics, crop, folds=True)
  if mesh.size == 1:
    return Kernels(conv_on_cpu, upsample_conv_of_four(conv_on_cpu))
  return Kernels()
