"""CIFAR-100: CIFAR-10's layout with two labels; `label` is the fine one, of 100 classes."""

from typing import ClassVar

from abd_jax.data.builders import cifar10


class Builder(cifar10.Builder, skip_registration=True):
  """60,000 colour images uint8[32, 32, 3], 100 classes in 20 superclasses."""

  name = 'cifar100'
  URL = 'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz'
  MD5 = '03b5dce01913d631647c71ecec9e9cb8'
  FILES: ClassVar[dict[str, list[str]]] = {'train': ['train.bin'], 'test': ['test.bin']}
  LABELS: ClassVar[dict[str, tuple[int, str]]] = {
    'coarse_label': (20, 'coarse_label_names.txt'),
    'label': (100, 'fine_label_names.txt'),
  }
