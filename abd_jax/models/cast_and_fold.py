"""Copies of weights in the form that steps compute with: cast to a narrower dtype, or with batch norms folded in."""

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from abd_jax.models.norm import BatchNorm

PyTree = Any
Narrow = dict[tuple[str, ...], jax.Array]

_NORM_OF = {'conv': 'norm', 'conv1': 'norm1', 'conv2': 'norm2', 'conv3': 'norm3', 'shortcut': 'shortcut_norm'}


def narrow(params: PyTree, dtype: Any) -> Narrow:
  """Path -> parameter of a convolution cast to `dtype`; without those that have it already."""
  flat: dict[Any, Any] = flatten_dict(params)
  of_conv = lambda path: getattr(flat.get((*path[:-1], 'kernel')), 'ndim', 0) == 4
  return {path: leaf.astype(dtype) for path, leaf in flat.items() if of_conv(path) and leaf.dtype != dtype}


def with_narrow(params: PyTree, copies: Narrow) -> PyTree:
  """The parameters with `copies` in their places."""
  return unflatten_dict(flatten_dict(params) | copies) if copies else params


def fold(params: PyTree, stats: PyTree) -> PyTree:
  """Parameters for a `folded` ResNet from a frozen classifier: each batch norm joins the convolution before it.

  In evaluation mode a norm scales and shifts each channel, which the kernel and bias of a convolution can do.
  """

  def folded(layers, stored):
    found = {}
    for name, layer in layers.items():
      if name in _NORM_OF:
        norm, moments = layers[_NORM_OF[name]], stored[_NORM_OF[name]]
        factor = norm['scale'] * jax.lax.rsqrt(moments['var'] + BatchNorm.epsilon)
        kernel = layer['kernel'] * factor.reshape(1, 1, 1, -1)
        found[name] = {'kernel': kernel, 'bias': norm['bias'] - moments['mean'] * factor}
      elif name not in _NORM_OF.values():
        found[name] = folded(layer, stored[name])
    return found

  return params | {'backbone': folded(params['backbone'], stats['backbone'])}
