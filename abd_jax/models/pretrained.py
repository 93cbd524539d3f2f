"""Weights of ResNets that were trained elsewhere, from safetensors files with torch's names and layouts.

Three families: torchvision's and timm's networks of basic blocks (resnet18, resnet34), those of bottlenecks (resnet50,
its stride in the 3x3 convolution), and the networks of CIFAR with parameter-free shortcuts (resnet20, resnet32).
Pickles, which may run code, are never opened.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from abd_jax.errors import UserError
from abd_jax.models import BACKBONES

PyTree = Any
# Of ImageNet's channels, with values of 0 to 1. The three families were trained on images normalised with them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB, FILE = 'hf:', 'model.safetensors'  # hf:OWNER/NAME names that file of a repository of huggingface.co
_HEADS = ('fc', 'linear')
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_EXPECTED = 'a ResNet-18, -34 or -50 as torchvision and timm name its tensors, or one of CIFAR such as ResNet-32'


class Pretrained(NamedTuple):
  """The content of a file. Arrays are f32, shaped as those of the network that `variant`, `blocks`, `widths` make."""

  variant: str
  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  channels: int  # of the images
  params: PyTree  # of the backbone
  batch_stats: PyTree
  head: dict[str, np.ndarray]  # {'kernel': [d, c], 'bias': [c]}; {} if the file has none
  sha256: str
  licence: str  # as the file's metadata name it, or ''


def locate(init: str, download: bool = True) -> Path:
  """The file that config.model.init names; that of hf:OWNER/NAME is downloaded once. Raises UserError without it."""
  if not init.startswith(HUB):
    return Path(init)
  repository = init.removeprefix(HUB)
  try:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would print each retry
    here = try_to_load_from_cache(repository, FILE)
    return Path(here if isinstance(here, str) else hf_hub_download(repository, FILE, local_files_only=not download))
  except ImportError:
    reason = "pip install 'abd_jax[hub]' is missing"
  except Exception as error:  # of many kinds, some of other libraries
    reason = str(error).partition('\n')[0][:200]
  raise UserError(
    f'config.model.init={init} cannot be downloaded ({reason}). Download {FILE} from '
    f'https://huggingface.co/{repository} by hand, and set config.model.init to its path.'
  )


def name_of(init: str) -> str:
  """What config.model.init names, without folders."""
  return init if init.startswith(HUB) else Path(init).name


def of(model, download: bool) -> Pretrained | None:
  """The trunk that config.model, `model`, asks for. None without one, and if its hash is known and its file is missing.

  Only the first start of a run needs the file. download: whether the network may be used for it. Raises UserError for
  a file that has another hash or cannot be used.
  """
  if not model.init:
    return None
  try:
    file = locate(model.init, download)
    digest = sha256(file)
  except UserError:
    if model.init_hash:
      return None
    raise
  if model.init_hash not in ('', digest):
    raise UserError(
      f'weights {file} have the SHA-256 {digest}, not config.model.init_hash={model.init_hash}. Give the file that the '
      'run began with, or choose another --workdir.'
    )
  return read(file)


def sha256(file: Path) -> str:
  """The SHA-256 of the file's bytes, as `sha256sum` and model hubs give it. Raises UserError if it cannot be read."""
  try:
    with file.open('rb') as content:
      return hashlib.file_digest(content, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'weights {file} cannot be read ({error.strerror}). Give the path of a safetensors file.') from None


def read(file: Path) -> Pretrained:
  """The network in a safetensors file. Raises UserError for any other file."""
  digest = sha256(file)
  try:
    with safe_open(file, 'numpy') as content:
      metadata = content.metadata() or {}
      names = [name for name in content.keys() if not name.endswith('.num_batches_tracked')]  # noqa: SIM118
      shapes = {name: tuple(content.get_slice(name).get_shape()) for name in names}
      try:
        variant, blocks, widths = _network(shapes)
        places = _places(variant, blocks, widths, shapes)
      except ValueError as error:
        raise UserError(f'weights {file}: {error}. Expected {_EXPECTED}.') from None
      arrays = {place: _ours(content.get_tensor(name)) for place, name in places.items()}
  except SafetensorError as error:
    raise UserError(
      f'weights {file} are no safetensors file, or it is cut ({error}). Pickles (.pth, .pt, .bin) are not opened: '
      'convert them where they come from, with safetensors.torch.save_file(model.state_dict(), FILE).'
    ) from None
  tree = unflatten_dict(arrays)
  licence = metadata.get('license') or metadata.get('licence') or ''
  channels = shapes['conv1.weight'][1]
  return Pretrained(
    variant, blocks, widths, channels, tree['params'], tree['batch_stats'], tree.get('head', {}), digest, licence
  )


def _network(shapes: dict[str, tuple]) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
  """(variant, blocks, widths) by the names and shapes of tensors. Raises ValueError if there are no stages."""
  if not {'conv1.weight', 'layer1.0.conv2.weight'} <= shapes.keys():
    raise ValueError('it holds no ResNet')
  variant = 'imagenet' if shapes['conv1.weight'][2:] == (7, 7) else 'abd'
  last = 'conv2'
  if 'layer1.0.conv3.weight' in shapes:
    variant, last = 'bottleneck', 'conv3'
  blocks, widths = [], []
  while width := shapes.get(f'layer{len(blocks) + 1}.0.{last}.weight'):
    widths.append(width[0])
    stage, count = f'layer{len(blocks) + 1}', 1
    while f'{stage}.{count}.{last}.weight' in shapes:
      count += 1
    blocks.append(count)
  return variant, tuple(blocks), tuple(widths)


def _places(variant, blocks, widths, shapes: dict[str, tuple]) -> dict[tuple[str, ...], str]:
  """Path in {'params', 'batch_stats', 'head'} -> torch's name of the tensor that belongs there.

  Raises ValueError if the tensors are not all those of that network, in their shapes.
  """
  images = jnp.zeros((1, 32, 32, shapes['conv1.weight'][1]))
  network = BACKBONES[variant](blocks, widths, variant)
  variables: Any = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))
  leaves: dict[Any, Any] = flatten_dict(variables)
  places, expected = {}, {}
  for path, leaf in leaves.items():
    places[path] = name = _torch_name(path[1:])
    expected[name] = leaf.shape if len(leaf.shape) == 1 else tuple(leaf.shape[k] for k in (3, 2, 0, 1))
  for head in _HEADS:
    if len(weight := shapes.get(f'{head}.weight', ())) == 2:
      places |= {('head', 'kernel'): f'{head}.weight', ('head', 'bias'): f'{head}.bias'}
      expected |= {f'{head}.weight': (weight[0], widths[-1]), f'{head}.bias': (weight[0],)}
  for name in [*expected, *sorted(shapes)]:
    if shapes.get(name) != expected.get(name):
      if name not in shapes:
        raise ValueError(f"it lacks the tensor '{name}'")
      if name not in expected:
        raise ValueError(f"it has a tensor '{name}'")
      raise ValueError(f"its tensor '{name}' has shape {shapes[name]}, not {expected[name]}")
  return places


def _torch_name(path: tuple[str, ...]) -> str:
  """('stage0_block1', 'norm2', 'mean') -> 'layer1.1.bn2.running_mean'."""
  part, layer, leaf = path
  layer = {'conv': 'conv1', 'norm': 'bn1', 'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1'}.get(
    layer, layer.replace('norm', 'bn')
  )
  if part != 'stem':
    stage, block = part.removeprefix('stage').split('_block')
    layer = f'layer{int(stage) + 1}.{block}.{layer}'
  return f'{layer}.{_LEAVES[leaf]}'


def _ours(array: np.ndarray) -> np.ndarray:
  """A tensor in our layout: kernels OIHW -> HWIO, the head's [c, d] -> [d, c]."""
  axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array.transpose(axes) if axes else array, np.float32)
