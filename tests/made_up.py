"""Made-up photographs, TFDS data sets, and what a step is given."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def write(path, shape=(32, 32, 3), value=None, form=None, **given):
  """Writes an image of noise, or of one value, and returns its pixels. given: to Pillow."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
  Image.fromarray(pixels).save(path, form, **given)
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


def second_task(config, task_of_class, shape, mesh, method=None, **fields):
  """(components, student, generator, data): of the second task on made-up images u8[20, h, w, c] of 0 to 16.

  All networks are fresh. The data have two teachers. fields: of make_components.
  """
  from abd_jax.state import Classes, PhaseData, freeze
  from abd_jax.steps import inversion, student
  from abd_jax.steps.components import make_components

  components = make_components(config, len(task_of_class), shape, mesh, **fields)
  generator, rng = inversion.init_generator(components, 1, 0), np.random.default_rng(0)
  teacher = freeze(student.init_student(components, shape, method, 2), generator)
  images = rng.integers(0, 17, (20, *shape), np.uint8)
  labels = rng.choice(np.flatnonzero(task_of_class == 1), 20).astype(np.int32)
  data = PhaseData(images, labels, Classes(task_of_class, np.int32(1)), (teacher, teacher), np.uint32(3))
  return components, student.init_student(components, shape, method, 1), generator, data
