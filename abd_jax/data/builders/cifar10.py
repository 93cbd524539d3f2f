"""CIFAR-10 as in tfds's own catalog, prepared from the official binary archive without TensorFlow."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from abd_jax.data.prepare import fetch

_SHAPE = (32, 32, 3)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """60,000 colour images uint8[32, 32, 3], 10 classes. Keys are the catalog's, so the order on disk is too.

  Attributes:
    download: whether `download_and_prepare` may fetch an archive that is missing.
  """

  name = 'cifar10'
  VERSION = tfds.core.Version('3.0.2')
  COUNTS: ClassVar[dict[str, int]] = {'train': 50_000, 'test': 10_000}
  URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
  MD5 = 'c32a1d4ab5d03f1284b67883e8d87530'
  FILES: ClassVar[dict[str, list[str]]] = {
    'train': [f'data_batch_{i}.bin' for i in range(1, 6)],
    'test': ['test_batch.bin'],
  }
  # Each class label is one byte before the pixels, in this order: number of classes, file with their names.
  LABELS: ClassVar[dict[str, tuple[int, str]]] = {'label': (10, 'batches.meta.txt')}
  download = True

  def _info(self) -> tfds.core.DatasetInfo:
    labels = {name: tfds.features.ClassLabel(num_classes=n) for name, (n, _) in self.LABELS.items()}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {'id': tfds.features.Text(), 'image': tfds.features.Image(shape=_SHAPE), **labels}
      ),
      homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    archive = fetch(self.URL, self.MD5, Path(dl_manager.download_dir), self.download)
    with tarfile.open(archive) as tar:
      opened = ((Path(member.name).name, tar.extractfile(member)) for member in tar)
      files = {name: file.read() for name, file in opened if file}
    features: Any = self.info.features
    for label, (_, names) in self.LABELS.items():
      features[label].names = files[names].decode().split()
    return {
      split: self._generate_examples(split, b''.join(files[name] for name in names))
      for split, names in self.FILES.items()
    }

  def _generate_examples(self, split: str, records: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = np.frombuffer(records, np.uint8).reshape(-1, len(self.LABELS) + np.prod(_SHAPE))
    for i, record in enumerate(rows):
      labels, pixels = np.split(record, [len(self.LABELS)])
      # A PIL image, because tfds encodes arrays with TensorFlow. One plane per channel in the archive.
      image = Image.fromarray(np.ascontiguousarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)))
      yield i, {'id': f'{split}_{i:05d}', 'image': image, **dict(zip(self.LABELS, labels.tolist(), strict=True))}
