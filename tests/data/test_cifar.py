"""The CIFAR builders, on tiny archives in the official layout: what is read, and when the network is touched."""

import collections
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from http.client import BadStatusLine

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import refused

from abd_jax.data import prepare, sources

COUNTS = {'train': 30, 'test': 20}
# The catalog's own copy has its first 20 test images in this order (among the others).
CATALOG_ORDER = [16, 13, 19, 15, 6, 1, 8, 12, 9, 4, 3, 2, 7, 14, 10, 18, 5, 11, 0, 17]

Case = collections.namedtuple('Case', 'name url archive images labels names')


def names_of(n, word):
  return tuple(f'{word}_{(7 * i) % n}' for i in range(n))  # Not sorted.


def make_archive(folder, files):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
    for name, data in {'readme.html': b'<html>', **files}.items():
      member = tarfile.TarInfo(f'{folder}/{name}')
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


@pytest.fixture(params=['cifar10', 'cifar100'])
def case(request, monkeypatch):
  """A data set of noise: its archive's bytes, its images and labels by split, the class names by label."""
  name, rng = request.param, np.random.default_rng(0)
  sizes = {'label': 10} if name == 'cifar10' else {'coarse_label': 20, 'label': 100}
  names = {label: names_of(n, label) for label, n in sizes.items()}
  images = {split: rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in COUNTS.items()}
  labels = {split: {key: rng.integers(0, m, n) for key, m in sizes.items()} for split, n in COUNTS.items()}
  records = {
    split: [
      bytes([*row]) + image.transpose(2, 0, 1).tobytes()
      for *row, image in zip(*labels[split].values(), images[split], strict=True)
    ]
    for split in COUNTS
  }
  lines = {label: '\n'.join(words).encode() + b'\n\n' for label, words in names.items()}
  if name == 'cifar10':
    parts = {f'data_batch_{i + 1}.bin': b''.join(records['train'][6 * i : 6 * i + 6]) for i in (4, 0, 2, 1, 3)}
    files = parts | {'batches.meta.txt': lines['label'], 'test_batch.bin': b''.join(records['test'])}
    archive = make_archive('cifar-10-batches-bin', files)
  else:
    files = {f'{split}.bin': b''.join(records[split]) for split in COUNTS}
    files |= {'coarse_label_names.txt': lines['coarse_label'], 'fine_label_names.txt': lines['label']}
    archive = make_archive('cifar-100-binary', files)
  builder = prepare.builder_class(name)
  monkeypatch.setattr(builder, 'MD5', hashlib.md5(archive).hexdigest())
  monkeypatch.setattr(builder, 'COUNTS', COUNTS)
  return Case(name, builder.URL, archive, images, labels, names)


@pytest.fixture(autouse=True)
def network(monkeypatch):
  """A network that only counts its calls, until a test sets `answer`."""

  class Network:
    calls = 0

    def answer(self):
      raise AssertionError('the network was touched')

    def urlopen(self, url, *, timeout):
      assert 0 < timeout <= 60  # Otherwise a silent host is waited for without end.
      self.calls, self.url = self.calls + 1, url
      return self.answer()

  network = Network()
  monkeypatch.setattr(urllib.request, 'urlopen', network.urlopen)
  return network


def check_content(root, case, download=True):
  dataset = open_case(case, root, download)
  assert dataset.class_names == case.names['label'] and dataset.image_shape == (32, 32, 3)
  for split, read in (('train', dataset.train), ('test', dataset.test)):
    ids = [record['id'].decode() for record in records(root, case.name, split)]
    order = [int(text.removeprefix(f'{split}_')) for text in ids]
    assert sorted(order) == list(range(COUNTS[split])) and all(len(text) == len(split) + 6 for text in ids)
    images, labels = read(range(dataset.num_classes)).decode()
    np.testing.assert_array_equal(images, case.images[split][order])
    np.testing.assert_array_equal(labels, case.labels[split]['label'][order])


def records(root, name, split):
  return list(tfds.builder_from_directory(prepare.find(root / name)).as_data_source(split))


def place(case, root):
  return root / 'downloads' / case.url.split('/')[-1]


def open_case(case, root, download=True):
  return sources.open_dataset(case.name, str(root), download=download)


def test_download_prepare_and_use(case, network, tmp_path):
  network.answer = lambda: io.BytesIO(case.archive)
  check_content(tmp_path, case)
  assert network.url == f'https://www.cs.toronto.edu/~kriz/cifar-{case.name[5:]}-binary.tar.gz'
  assert not list(tmp_path.rglob('incomplete*'))
  place(case, tmp_path).unlink()  # The prepared copy needs no archive.
  check_content(tmp_path, case, download=False)
  assert network.calls == 1


def test_an_archive_placed_by_hand_gives_the_catalogs_features_and_order(case, tmp_path):
  path = place(case, tmp_path)
  path.parent.mkdir()
  path.write_bytes(case.archive)
  check_content(tmp_path, case)
  features = tfds.builder_from_directory(prepare.find(tmp_path / case.name)).info.features
  assert set(features) == {'id', 'image', *case.names}
  assert all(tuple(features[label].names) == names for label, names in case.names.items())
  test = records(tmp_path, case.name, 'test')
  order = [int(record['id'].decode()[-5:]) for record in test]
  assert order == CATALOG_ORDER
  for label in case.names:
    np.testing.assert_array_equal([record[label] for record in test], case.labels['test'][label][order])


class Broken(io.BytesIO):
  """An answer that fails after a thousand bytes."""

  def __init__(self, content, error):
    super().__init__(content)
    self.error = error

  def read(self, size=-1):
    if self.tell():
      raise self.error
    return super().read(1000)


@pytest.mark.parametrize(
  ('error', 'reason', 'answered'),
  [
    (None, 'may not be downloaded', False),
    (urllib.error.URLError(OSError(-2, 'Name or service not known')), 'Name or service not known', False),
    (TimeoutError('timed out'), 'timed out', False),
    (BadStatusLine('nonsense'), 'nonsense', False),
    (ConnectionResetError('reset'), 'reset', True),
    (KeyboardInterrupt(), '', True),
  ],
)
def test_a_download_that_fails_is_not_tried_again_and_leaves_nothing(case, network, tmp_path, error, reason, answered):
  def answer():
    if answered:
      return Broken(case.archive, error)
    raise error

  network.answer = answer
  with refused(reason, case.url, place(case, tmp_path)) if reason else pytest.raises(KeyboardInterrupt):
    open_case(case, tmp_path, download=bool(error))
  assert network.calls == bool(error)
  assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == [f'.{case.name}.lock']
  assert not list(tmp_path.rglob('incomplete*'))


def test_wrong_checksum(case, network, tmp_path, monkeypatch):
  monkeypatch.setattr(tarfile, 'open', lambda *_, **__: pytest.fail('unpacked before it was verified'))
  network.answer = lambda: io.BytesIO(case.archive[:-1])
  with refused(place(case, tmp_path), 'MD5'):
    open_case(case, tmp_path)
