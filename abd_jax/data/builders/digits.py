"""scikit-learn's handwritten digits: small enough for a demo on a laptop, and nothing is downloaded."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """1,797 grey 8x8 images uint8[8, 8, 1] of values 0..16, 10 classes; a fixed stratified split."""

  name = 'digits'
  VERSION = tfds.core.Version('1.0.0')
  COUNTS: ClassVar[dict[str, int]] = {'train': 1500, 'test': 297}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1)),
          'label': tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
      ),
      homepage='https://scikit-learn.org/stable/datasets/toy_dataset.html',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    from sklearn import datasets, model_selection

    digits: Any = datasets.load_digits()
    train, test = model_selection.train_test_split(
      np.arange(len(digits.target)), test_size=self.COUNTS['test'], random_state=0, stratify=digits.target
    )
    images = digits.images.astype(np.uint8)
    return {
      'train': self._generate_examples(images[train], digits.target[train]),
      'test': self._generate_examples(images[test], digits.target[test]),
    }

  def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      # A PIL image, because tfds encodes arrays with TensorFlow.
      yield i, {'image': Image.fromarray(image), 'label': int(label)}
