"""What a config leaves open: how many tasks; and, found out from the data, normalisation, networks, a fingerprint."""

import math
import os

import numpy as np

from abd_jax.config import Config, changed, flatten, left_open
from abd_jax.data.records import Split
from abd_jax.data.sources import Dataset
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import order_text

_BLOCK = 512  # images decoded at once
_LARGE = 128  # pixels; from here on networks begin with a strided convolution


def completed(config: Config) -> Config:
  """`config` with what others of its fields, or files, say: how many tasks, and the class order itself.

  Folders of data are named in full, so that they are found again from wherever the run is looked at or extended.
  Raises UserError if the file of a class order cannot be read.
  """
  fields: dict = {'tasks': len(config.task_sizes)} if config.task_sizes else {}
  for name in ('dir', 'prepared'):
    if config.data[name]:
      fields[f'data.{name}'] = os.path.abspath(os.path.expanduser(config.data[name]))
  return changed(config, fields | {'class_order': order_text(config.class_order)})


def found(config: Config, data: Dataset, first_task: tuple[int, ...]) -> Config:
  """`config` with nothing left open. first_task: original ids of its classes, whose training images are measured.

  Raises UserError if no generator makes images of their size.
  """
  unknown, fields = left_open(flatten(config.to_dict())), {}
  if 'data.mean' in unknown:
    fields |= _normalisation(data.train_split(first_task), config.data.max_value)
  if 'model.blocks' in unknown:
    fields |= _network(max(data.image_shape[:2]), config.model.variant)
  if 'generator.start' in unknown:
    fields |= _generator(*data.image_shape[:2])
  if 'data.fingerprint' in unknown:
    fields['data.fingerprint'] = data.fingerprint()
  return changed(config, fields)


def _normalisation(images: Split, max_value: float) -> dict:
  """Mean and deviation of each channel, over all pixels of u8[n, h, w, c], exact in whatever order they come."""
  channels = images.view.shape[-1]
  counts = np.zeros((channels, 256), np.int64)
  for start in range(0, len(images), _BLOCK):
    block = images[start : start + _BLOCK]
    for c in range(channels):
      counts[c] += np.bincount(block[..., c].ravel(), minlength=256)
  values, shares = np.arange(256) / max_value, counts / counts.sum(1, keepdims=True)
  mean = shares @ values
  spread = np.sqrt([share @ np.square(values - centre) for share, centre in zip(shares, mean, strict=True)])
  # A channel of one value in all images would be divided by zero.
  return {'data.mean': tuple(mean.tolist()), 'data.std': tuple(np.maximum(spread, 1 / max_value).tolist())}


def _network(side: int, variant: str) -> dict:
  """ResNet-32 for small images, ResNet-18 for large ones."""
  if side < _LARGE:
    return {'model.blocks': (5, 5, 5), 'model.widths': (16, 32, 64), 'model.variant': variant}
  return {'model.blocks': (2, 2, 2, 2), 'model.widths': (64, 128, 256, 512), 'model.variant': 'imagenet'}


def _generator(height: int, width: int) -> dict:
  """The paper's for 32, 64 and 224 pixels; for others one that begins at 4 to 8 pixels, or as near as halving comes."""
  doublings = 0
  while min(height, width) / 2**doublings > 8 and math.gcd(height, width) % 2 ** (doublings + 1) == 0:
    doublings += 1
  start = (height >> doublings, width >> doublings)
  if not doublings or min(start) > 32:
    raise UserError(
      f'no generator is known for images of {height}x{width}: sides should be a small number doubled a few times. '
      'Set config.data.size to 32, 64, 128 or 224.'
    )
  if max(height, width) > _LARGE:
    return {'generator.start': (*start, 64), 'generator.widths': (64,) * doublings}
  return {'generator.start': (*start, 128), 'generator.widths': (*(128,) * (doublings - 1), 64)}
