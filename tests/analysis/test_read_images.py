"""The real images of a run as it had them, without a model."""

import json

import numpy as np
import pytest
from PIL import Image

from abd_jax.analysis import diagnose
from abd_jax.analysis.diagnose import read_images
from abd_jax.config import default, flatten
from abd_jax.data.sources import open_configured
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import class_order

NAMES = ('ant', 'bee', 'cat', 'dog')


@pytest.fixture
def workdir(tmp_path):
  """Of a run on a folder of photographs of varying size, in two tasks: 40 to train on and 12 to test with.

  All pixels of a photograph are 60 times its class.
  """
  for split, count in (('train', 10), ('test', 3)):
    for label, name in enumerate(NAMES):
      for k in range(count):
        file = tmp_path / 'photos' / split / name / f'{k}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20 + k, 24, 3), 60 * label, np.uint8)).save(file)
  config = default().unlock()
  fields = {'name': 'image_folder', 'dir': str(tmp_path / 'photos'), 'prepared': str(tmp_path / 'copies'),
            'crop': 'resized', 'size': 8, 'device_mib': 1}  # fmt: skip
  config.update_from_flattened_dict({'tasks': 2} | {f'data.{name}': value for name, value in fields.items()})
  open_configured(config.data)  # as the run did
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config.to_dict()))
  return tmp_path / 'run'


def test_photographs_are_cut_and_labelled_as_the_run_had_them(workdir):
  real, order = read_images(workdir, 1), class_order(4, 0)
  assert real.train.shape == (40, 8, 8, 3) and real.test.shape == (12, 8, 8, 3) and real.white == 255
  for images, labels in ((real.train, real.train_labels), (real.test, real.test_labels)):
    assert (images == 60 * np.asarray(order)[labels][:, None, None, None]).all()
  first = read_images(workdir, 0)
  assert set(first.train_labels) == {0, 1} and len(first.train) == 20 and len(first.test) == 6


def test_of_many_large_images_some_are_read_of_every_class(workdir, monkeypatch):
  monkeypatch.setattr(diagnose, 'MOST_BYTES', 15 * 8 * 8 * 3)
  real = read_images(workdir, 1)
  assert len(real.train) == 14 and set(real.train_labels) == {0, 1, 2, 3} and len(real.test) == 12


def test_a_copy_that_is_gone_is_not_fetched(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  assert flatten(config)['data.download']
  config['data'] |= {'name': 'cifar100', 'crop': 'padded', 'size': 0, 'dir': str(workdir), 'prepared': ''}
  (workdir / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError) as error:
    read_images(workdir, 1)
  assert '\n' not in str(error.value)
