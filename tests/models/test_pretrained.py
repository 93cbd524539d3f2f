"""Weights trained elsewhere: what torch computes with them, and the files that are refused."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from safetensors.numpy import save, save_file

from abd_jax.errors import UserError
from abd_jax.models import BACKBONES, pretrained
from abd_jax.models.resnet import Classifier

SMALL = {'abd': ((1, 2), (4, 8)), 'imagenet': ((1, 2), (4, 8)), 'bottleneck': ((2, 1), (8, 16))}


@pytest.mark.parametrize('variant', SMALL)
def test_a_network_computes_what_torch_does(variant, tmp_path):
  """As restated in NumPy, which was held to torchvision's logits of ResNet-18, -34 and -50."""
  weights, file = reference.torch_weights(variant, *SMALL[variant]), tmp_path / 'weights.safetensors'
  save_file(weights, file, {'license': 'cc-by-4.0'})
  found = pretrained.read(file)
  assert (found.variant, found.blocks, found.widths, found.channels) == (variant, *SMALL[variant], 3)
  assert found.licence == 'cc-by-4.0' and len(found.sha256) == 64
  images = np.random.default_rng(1).normal(size=(2, 3, 17, 20))  # odd sides tell where strides begin
  with jax.enable_x64(True):
    wide = jnp.float64
    backbone = BACKBONES[variant](found.blocks, found.widths, variant, dtype=wide, param_dtype=wide)
    variables = {
      'params': {'backbone': found.params, 'head': found.head},
      'batch_stats': {'backbone': found.batch_stats},
    }
    variables = jax.tree.map(wide, variables)
    apply = jax.jit(lambda images: Classifier(backbone, 5, wide).apply(variables, images, train=False))
    outputs = apply(images.transpose(0, 2, 3, 1))
  chex.assert_trees_all_close(outputs, reference.torch_resnet(weights, images), rtol=1e-9, atol=1e-9)


def test_a_file_may_be_narrower_and_have_no_head(tmp_path):
  weights = reference.torch_weights('abd', *SMALL['abd'])
  half = {name: array.astype(np.float16) for name, array in weights.items() if not name.startswith('linear')}
  save_file(half, tmp_path / 'half.safetensors')
  found = pretrained.read(tmp_path / 'half.safetensors')
  assert found.head == {} and found.licence == ''
  kernel = found.params['stage1_block0']['conv1']['kernel']
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel, weights['layer2.0.conv1.weight'].transpose(2, 3, 1, 0), rtol=1e-3)


def changed(**fields):
  """A file of a ResNet with some tensors replaced, or removed for None."""
  weights = reference.torch_weights('imagenet', *SMALL['imagenet'])
  weights |= {name.replace('__', '.'): array for name, array in fields.items()}
  return save({name: array for name, array in weights.items() if array is not None})


WRONG = {
  'a pickle': (pickle.dumps({'conv1.weight': 1}), 'no safetensors file'),
  'cut': (changed()[:-1], 'cut'),
  'empty': (b'', 'no safetensors file'),
  'another network': (save({'encoder.weight': np.zeros(3, np.float32)}), 'holds no ResNet'),
  'more layers': (changed(layer1__0__se__fc1__weight=np.zeros((1, 4), np.float32)), "has a tensor 'layer1.0.se.fc1."),
  'fewer layers': (changed(layer2__1__bn2__running_var=None), "lacks the tensor 'layer2.1.bn2.running_var'"),
  'groups': (changed(layer1__0__conv2__weight=np.zeros((4, 2, 3, 3), np.float32)), r'has shape \(4, 2, 3, 3\), not'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_file_is_refused_in_a_line(name, tmp_path):
  content, told = WRONG[name]
  (tmp_path / 'file').write_bytes(content)
  with pytest.raises(UserError, match=f'{tmp_path}/file.*{told}'):
    pretrained.read(tmp_path / 'file')
