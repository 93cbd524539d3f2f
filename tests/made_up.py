"""Made-up photographs and TFDS data sets."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def write(path, shape=(32, 32, 3), value=None, form=None):
  """Writes an image of noise, or of one value, and returns its pixels."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
  Image.fromarray(pixels).save(path, form)
  return pixels


def write_classes(folder, count, shape=(32, 32, 3)):
  """Images 0.png, 1.png, ... of value 0, 1, ... in two classes a and b, by turns."""
  for k in range(count):
    write(folder / 'ab'[k % 2] / f'{k}.png', shape, k)


def prepare(root, train, image, label, test=None, name='mine', test_split='test'):
  """Writes a data set of these examples (image, label), by default the same to test with, and returns its folder.

  image, label: the TFDS features.
  """
  import tensorflow_datasets as tfds

  set_name = name
  root.mkdir(exist_ok=True)

  class Mine(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = set_name
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = root  # of a module in no package

    def _info(self):
      features = tfds.features.FeaturesDict({'image': image, 'label': label})
      return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(train), test_split: self._generate_examples(test or train)}

    def _generate_examples(self, examples):
      yield from ((k, {'image': one, 'label': of}) for k, (one, of) in enumerate(examples))

  Mine(data_dir=root).download_and_prepare(file_format='array_record')
  return root / name / '1.0.0'
