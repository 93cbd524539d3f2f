"""The residual networks of CIFAR and of ImageNet (He et al., 2016) and the linear head on top."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from abd_jax.models.kernels import Kernels
from abd_jax.models.norm import GAMMA_INITS, BatchNorm, Initializer

# Kaiming normal, fan in, gain sqrt(2), not truncated.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
kaiming_normal_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def fan_in_uniform(fan_in: int) -> Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the authors' framework's default for weights and biases."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


LARGE = ('imagenet', 'bottleneck')  # variants with ImageNet's stem and shortcuts


class Stem(nn.Module):
  """3x3 convolution and batch norm: [b, h, w, c] -> [b, h, w, width].

  variant 'imagenet' or 'bottleneck': a 7x7 convolution with stride 2, and 3x3 maxima with stride 2 after it: h / 4,
  w / 4.
  """

  width: int
  conv: Any
  norm: Any
  variant: str = 'abd'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    large = self.variant in LARGE
    shape = dict(kernel_size=(7, 7), padding=((3, 3), (3, 3)), strides=2) if large else {}
    x = nn.relu(self.norm(name='norm')(self.conv(self.width, **shape, name='conv')(x), train))
    if not large:
      return x
    # jax2onnx forgets the padding of nn.max_pool. Zeros are no maxima here that were none before.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))


class Block(nn.Module):
  """Basic block with the parameter-free shortcut (option A): subsample, then pad channels on both sides.

  variant 'rdfcil': no ReLU after the sum, scales of the second batch norm start at zero, and the new channels are
  all padded behind the old ones. 'imagenet': the shortcut is a 1x1 convolution and batch norm (option B). 'bottleneck':
  the same shortcut around three convolutions, 1x1, 3x3 with the stride, and 1x1; the first two have width / 4 channels.
  """

  width: int
  stride: int
  conv: Any
  norm: Any
  variant: str = 'abd'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    point: dict[str, Any] = dict(kernel_size=(1, 1), padding=((0, 0), (0, 0)))
    convs: list[tuple[int, dict[str, Any]]] = [(self.width, {'strides': self.stride}), (self.width, {})]
    if self.variant == 'bottleneck':
      convs = [(self.width // 4, point), (self.width // 4, {'strides': self.stride}), (self.width, point)]
    plain, y = self.variant != 'rdfcil', x
    for k, (width, shape) in enumerate(convs, 1):
      last = k == len(convs)
      norm = self.norm if plain or not last else partial(self.norm, gamma_init=nn.initializers.zeros)
      y = norm(name=f'norm{k}')(self.conv(width, **shape, name=f'conv{k}')(y), train)
      y = y if last else nn.relu(y)
    reshapes = self.stride > 1 or x.shape[-1] != self.width
    if reshapes and self.variant in LARGE:
      x = self.conv(self.width, **point, strides=self.stride, name='shortcut')(x)
      x = self.norm(name='shortcut_norm')(x, train)
    elif reshapes:
      missing = self.width - x.shape[-1]
      before = missing // 2 if plain else 0
      x = x[:, :: self.stride, :: self.stride, :]
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))
    return nn.relu(x + y) if plain else x + y


class ResNet(nn.Module):
  """Stem and stages of blocks, each later stage at half the resolution; global average pooling.

  blocks (5, 5, 5) and widths (16, 32, 64) are ResNet-32, (2, 2, 2) the 14 layers that the authors released as
  ResNet-18. [b, h, w, c] -> features f32[b, widths[-1]].
  variant: 'rdfcil' for the blocks of that name, and kernels that start by their fan-out; 'imagenet' for its stem and
  blocks and such kernels: ResNet-18 with blocks (2, 2, 2, 2) and widths (64, 128, 256, 512). 'bottleneck': likewise,
  ResNet-50 with (3, 4, 6, 3) and (256, 512, 1024, 2048).
  folded: without batch norms, for parameters from `models.cast_and_fold.fold`.
  """

  blocks: Sequence[int]
  widths: Sequence[int]
  variant: str = 'abd'
  gamma_init: str = 'ones'
  kernels: Kernels = Kernels()
  folded: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def layers(self) -> tuple[Any, Any]:
    """Makers of a convolution, 3x3 by default, and of a batch norm."""
    conv = partial(
      nn.Conv,
      kernel_size=(3, 3),
      padding=((1, 1), (1, 1)),
      use_bias=self.folded,
      kernel_init=kaiming_normal if self.variant == 'abd' else kaiming_normal_out,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      conv_general_dilated=self.kernels.conv,
    )
    same: dict[str, Any] = dict(statistics=self.kernels.statistics, param_dtype=self.param_dtype)
    norm: Any = partial(BatchNorm, gamma_init=GAMMA_INITS[self.gamma_init], **same)
    if self.folded:
      norm = lambda **fields: lambda x, train: x
    return conv, norm

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    conv, norm = self.layers()
    width = self.widths[0] // 4 if self.variant == 'bottleneck' else self.widths[0]
    x = Stem(width, conv, norm, self.variant, name='stem')(x, train)
    for i, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
      for j in range(count):
        stride = 2 if i > 0 and j == 0 else 1
        x = Block(width, stride, conv, norm, self.variant, name=f'stage{i}_block{j}')(x, train)
    if x.dtype != self.param_dtype:  # XLA of jaxlib 0.11.2 gives garbage on a CPU if it fuses bfloat16 into the mean
      x = jax.lax.optimization_barrier(x)
    return x.astype(self.param_dtype).mean((1, 2))


class Classifier(nn.Module):
  """A backbone and one linear head over ALL classes of the run; losses mask the classes not seen yet.

  Returns (features f32[b, d], logits f32[b, c]). Parameters: {'backbone': ..., 'head': {kernel, bias}}.
  """

  backbone: nn.Module
  num_classes: int
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    features = self.backbone(images, train)
    head = nn.Dense(
      self.num_classes,
      name='head',
      kernel_init=kaiming_normal,
      bias_init=fan_in_uniform(features.shape[-1]),
      dtype=self.param_dtype,
      param_dtype=self.param_dtype,
    )
    return features, head(features)
