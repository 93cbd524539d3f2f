"""The steps of configs/cifar100.py in PyTorch, from the paper and what its authors' code computes; images are NCHW.

Networks name their layers as ours do, so that weights can be copied. Only `experiments pytorch` imports this file.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from flax.traverse_util import flatten_dict
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

Step = Callable[..., dict[str, float]]  # (noise f32[b, latent], or drawn anew) -> the terms of the loss, unweighted
NAMES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


class Block(nn.Module):
  """Two convolutions and the parameter-free shortcut: every `stride`-th pixel, channels padded on both sides."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    self.conv1, self.norm1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
    self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    self.stride, self.missing = stride, (width - channels) // 2

  def forward(self, x):
    y = F.relu(self.norm1(self.conv1(x)), inplace=True)
    y = self.norm2(self.conv2(y))
    if self.stride > 1:
      x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing, self.missing))
    return F.relu(x + y, inplace=True)


class Classifier(nn.Module):
  """Images f[b, 3, h, w] -> (features f[b, d], logits f[b, classes])."""

  def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], classes: int):
    super().__init__()
    channels = widths[0]
    stem = OrderedDict(conv=nn.Conv2d(3, channels, 3, 1, 1, bias=False), norm=nn.BatchNorm2d(channels))
    layers = OrderedDict(stem=nn.Sequential(stem), relu=nn.ReLU(inplace=True))
    for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
      for j in range(count):
        layers[f'stage{i}_block{j}'] = Block(channels, width, 2 if i and not j else 1)
        channels = width
    self.backbone, self.head = nn.Sequential(layers), nn.Linear(channels, classes)

  def forward(self, images):
    features = self.backbone(images).mean((2, 3))
    return features, self.head(features)


def make_generator(latent: int, start: tuple[int, int, int], widths: tuple[int, ...]) -> nn.Sequential:
  """Noise f[b, latent] -> images f[b, 3, h, w]; start: (h, w, channels) before it doubles them for each width."""
  *size, channels = start
  layers: OrderedDict[str, nn.Module] = OrderedDict(project=nn.Linear(latent, math.prod(start)))
  layers |= {'reshape': nn.Unflatten(1, (channels, *size)), 'norm': nn.BatchNorm2d(channels)}
  for k, width in enumerate(widths):
    layers |= {f'double{k}': nn.Upsample(scale_factor=2), f'conv{k}': nn.Conv2d(channels, width, 3, 1, 1)}
    layers |= {f'norm{k}': nn.BatchNorm2d(width, eps=0.8), f'relu{k}': nn.LeakyReLU(0.2, inplace=True)}
    channels = width
  layers |= {'to_image': nn.Conv2d(channels, 3, 3, 1, 1), 'tanh': nn.Tanh()}
  return nn.Sequential(layers | {'norm_out': nn.BatchNorm2d(3, affine=False)})


def load(net: nn.Module, variables: dict[str, Any]) -> nn.Module:
  """`net` with the weights and statistics of our network of the same shape."""
  weights = {}
  for (*layer, name), leaf in {**flatten_dict(variables['params']), **flatten_dict(variables['batch_stats'])}.items():
    leaf = np.asarray(leaf)
    if layer == ['project']:  # our images have their channels last
      height, width = net[1].unflattened_size[1:]
      leaf = np.moveaxis(leaf.reshape(-1, height, width, net[2].num_features), -1, 1).reshape(leaf.shape)
    weights['.'.join((*layer, NAMES[name]))] = torch.tensor(leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T)
  net.load_state_dict(weights, strict=False)  # norms also count their batches
  return net


class Divergence:
  """Reads, at every forward pass, how far the input of each batch norm is from its stored statistics (Eq. 5)."""

  def __init__(self, net: nn.Module):
    self.of_layers: list[Any] = []
    for layer in net.modules():
      if isinstance(layer, nn.BatchNorm2d):
        layer.register_forward_pre_hook(self.read)

  def read(self, layer: nn.BatchNorm2d, inputs: tuple) -> None:
    var, mean = torch.var_mean(inputs[0].transpose(0, 1).flatten(1), 1, correction=0)
    var, stored = var + 1e-8, layer.running_var + 1e-8
    distance = (stored + (layer.running_mean - mean).square()) / var
    self.of_layers.append((0.5 * (var / stored).log() - 0.5 * (1 - distance)).mean())

  def take(self) -> Any:
    """The mean over layers (Eq. 4); forgets them."""
    layers, self.of_layers = self.of_layers, []
    return torch.stack(layers).mean()


def descend(optimizer: Any, terms: dict[str, Any], weights: dict[str, float]) -> dict[str, float]:
  optimizer.zero_grad()
  torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum().backward()
  optimizer.step()
  return {name: term.item() for name, term in terms.items()}


def _sgd(student: nn.Module, settings: Any) -> Any:
  c = settings
  return torch.optim.SGD(student.parameters(), c.lr, momentum=c.momentum, weight_decay=c.weight_decay)


def base_step(student: nn.Module, images: Any, labels: Any, seen: int, settings: Any) -> Step:
  """Cross-entropy over the first `seen` classes. settings: config.student."""
  optimizer = _sgd(student, settings)
  return lambda noise=None: descend(optimizer, {'ce': F.cross_entropy(student(images)[1][:, :seen], labels)}, {})


def abd_step(
  student: Classifier,
  teacher: Classifier,
  generator: nn.Module,
  batch: tuple,
  classes: tuple,
  config: Any,
  wasteful: bool,
) -> Step:
  """Eq. 15 as released. batch: (images, labels); classes: how many are (old, seen).

  wasteful: as in the authors' code, with a second forward pass of the student, three of the teacher, and the teacher's
  layers read at each. Otherwise one pass of each; a larger momentum of the norms stands for the second.
  """
  (images, labels), (old, seen), optimizer = batch, classes, _sgd(student, config.student)
  b, new_share, heads = len(images), (seen - old) / seen, teacher.head.weight[:old].detach().clone()
  if wasteful:
    divergence = Divergence(teacher)
  else:
    for layer in student.modules():
      if isinstance(layer, nn.BatchNorm2d):
        layer.momentum = 1 - 0.9**2

  @torch.no_grad()
  def look(noise):
    """(real and dreamed images, their labels, the teacher's features of them)"""
    dreams = generator(torch.randn(b, config.generator.latent) if noise is None else noise)
    joined = torch.cat([images, dreams])
    if wasteful:
      of_dreams = teacher(dreams)[1]
      teacher(images)
      features, _ = teacher(joined)
      divergence.take()
    else:
      features, logits = teacher(joined)
      of_dreams = logits[b:]
    return joined, torch.cat([labels, of_dreams[:, :old].argmax(1)]), features

  def step(noise=None):
    joined, targets, wanted = look(noise)
    features, logits = student(joined)
    fixed = features.detach()
    if wasteful:
      with torch.no_grad():
        fixed, _ = student(joined)
    balance = torch.where(targets < old, 1 - new_share, new_share)
    terms = {
      'ce': new_share * F.cross_entropy(logits[:b, old:seen], labels - old),
      'kd': F.mse_loss(F.linear(features, heads), F.linear(wanted, heads)),
      'ft': (balance * F.cross_entropy(student.head(fixed), targets, reduction='none')).mean(),
    }
    return descend(optimizer, terms, {'kd': config.abd.kd_weight, 'ft': config.abd.ft_weight})

  return step


def _blur(images):
  """A 5x5 Gaussian blur of variance 2, edges reflected."""
  line = torch.exp(-torch.arange(-2.0, 3.0).square() / 4)
  kernel = torch.outer(line, line) / line.sum().square()
  return F.conv2d(F.pad(images, (2, 2, 2, 2), 'reflect'), kernel.expand(3, 1, 5, 5), groups=3)


def inversion_step(generator: nn.Module, teacher: Classifier, seen: int, config: Any, wasteful: bool) -> Step:
  """Eq. 7 as released. wasteful: as in the authors' code, with gradients of the teacher's weights, never used."""
  c, divergence, optimizer = (
    config.inversion,
    Divergence(teacher),
    torch.optim.Adam(generator.parameters(), config.inversion.lr),
  )
  teacher.requires_grad_(wasteful)

  def step(noise=None):
    images = generator(torch.randn(c.batch_size, config.generator.latent) if noise is None else noise)
    logits = teacher(images)[1][:, :seen]
    mean = logits.softmax(1).mean(0)
    terms = {
      'content': F.cross_entropy(logits / c.temperature, logits.argmax(1)),
      'diversity': 1 + (mean * mean.clamp_min(1e-30).log()).sum() / math.log(seen),  # a class may have none
      'stat': divergence.take(),
      'prior': F.mse_loss(images, _blur(images)),
    }
    weights = {'content': c.content_weight, 'diversity': c.diversity_weight}
    return descend(optimizer, terms, weights | {'stat': c.stat_weight, 'prior': c.prior_weight})

  return step
