"""Made-up images, of as many classes as one likes: each class a pattern of its own, each image that under noise."""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIDE = 8  # pixels


class Shape(NamedTuple):
  """How many classes there are, and images of each."""

  classes: int
  train: int
  test: int


def images_of(shape: Shape, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(u8[classes * count, 8, 8, 1], i64[...] labels), class after class."""
  patterns = np.random.default_rng(0).integers(0, 256, (shape.classes, SIDE, SIDE, 1))
  labels = np.repeat(np.arange(shape.classes), count)
  noise = np.random.default_rng(seed).normal(0, 24, (len(labels), SIDE, SIDE, 1))
  return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels


def prepare(name: str, shape: Shape, data_dir: Path) -> None:
  """Writes them as data set `name`, unless they are there."""
  import tensorflow_datasets as tfds
  from PIL import Image

  if (data_dir / name / '1.0.0' / 'dataset_info.json').exists():
    return

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
      features = {
        'image': tfds.features.Image(shape=(SIDE, SIDE, 1)),
        'label': tfds.features.ClassLabel(names=[f'pattern {k}' for k in range(shape.classes)]),
      }
      return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      return {'train': self._generate_examples(shape.train, 1), 'test': self._generate_examples(shape.test, 2)}

    def _generate_examples(self, count: int, seed: int):
      for k, (image, label) in enumerate(zip(*images_of(shape, count, seed), strict=True)):
        # A PIL image, because tfds encodes arrays with TensorFlow.
        yield k, {'image': Image.fromarray(image[..., 0]), 'label': int(label)}

  Builder.name = name
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    Builder(data_dir=data_dir).download_and_prepare(file_format='array_record')
