"""Tiny-ImageNet and ImageNet-50 and -100 on replicas in the official layouts: labels, counts, choice of classes."""

import hashlib
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from conftest import refused
from made_up import write

from abd_jax.data import sources
from abd_jax.data.builders import imagenet50, imagenet100, tiny_imagenet
from abd_jax.data.prepare import Options
from abd_jax.protocol.tasks import parse_class_order

# The first of the fifty classes of NumPy's legacy shuffle with seed 1993 (released code; Rebuffi et al.'s class order).
FIRST = (54, 7, 894, 512, 126, 337, 988, 11, 284, 493)


def write_image(path, value, shape=(64, 64, 3)):
  write(path, shape, value, 'png')  # lossless, whatever its name says


@pytest.fixture
def tiny(tmp_path):
  """A replica of 7 classes; every image's value tells its label. One is grey."""
  root, wnids = tmp_path / 'data/tiny-imagenet-200', [f'n{k:08}' for k in (5, 3, 9, 1, 7, 2, 8)]
  for wnid in wnids:
    for k in range(3):
      shape = (64, 64) if (wnid, k) == (wnids[0], 1) else (64, 64, 3)
      write_image(root / 'train' / wnid / 'images' / f'{wnid}_{k}.JPEG', 10 * sorted(wnids).index(wnid), shape)
    boxes = ''.join(f'{wnid}_{k}.JPEG\t0\t0\t9\t9\n' for k in range(3))
    (root / 'train' / wnid / f'{wnid}_boxes.txt').write_text(boxes)
  annotations = ''
  for k, wnid in enumerate(2 * wnids):
    write_image(root / 'val/images' / f'val_{k}.JPEG', 10 * sorted(wnids).index(wnid) + 1)
    annotations += f'val_{k}.JPEG\t{wnid}\t0\t0\t9\t9\n'
  (root / 'val/val_annotations.txt').write_text(annotations)
  (root / 'wnids.txt').write_text('\r\n'.join(wnids), encoding='utf-8-sig')  # as editors on Windows write it
  (root / 'words.txt').write_text('n00000001\tcrane, bird\nn00000002\tcrane\nn00000003\tdog, hound\n')
  return root


def open_tiny(folder, **options):
  return sources.open_dataset('tiny_imagenet', str(folder), download=False, **options)


def check_tiny(data):
  assert data.image_shape == (64, 64, 3)
  assert data.class_names[:4] == ('crane (n00000001)', 'crane (n00000002)', 'dog', 'n00000005')
  for (images, labels), count, plus in ((data.train(range(7)).decode(), 3, 0), (data.test(range(7)).decode(), 2, 1)):
    assert np.bincount(labels).tolist() == [count] * 7
    np.testing.assert_array_equal(images[:, 0, 0, 0], 10 * labels + plus)


def test_tiny_imagenet_in_a_folder_or_an_archive(tiny, tmp_path, monkeypatch):
  check_tiny(open_tiny(tiny.parent, prepared=str(tmp_path / 'one')))
  check_tiny(open_tiny(tiny, prepared=str(tmp_path / 'another')))
  downloads = tmp_path / 'empty/downloads'
  archive = shutil.make_archive(str(downloads / 'tiny-imagenet-200'), 'zip', tiny.parent, tiny.name)
  with refused('is damaged', tiny_imagenet.Builder.MD5):
    open_tiny(tmp_path / 'empty')
  with open(archive, 'rb') as file:
    monkeypatch.setattr(tiny_imagenet.Builder, 'MD5', hashlib.file_digest(file, 'md5').hexdigest())
  check_tiny(open_tiny(tmp_path / 'empty'))
  shutil.rmtree(downloads / 'tiny-imagenet-200')
  check_tiny(open_tiny(tmp_path / 'empty'))
  assert not (downloads / 'tiny-imagenet-200').exists()  # the copy is enough


@pytest.mark.parametrize(
  ('missing', 'words'),
  [
    ('train/n00000003/images/n00000003_1.JPEG', ['n00000003_1.JPEG is missing']),
    ('val/images/val_4.JPEG', ['val_annotations.txt does not list just the 13 images']),
    ('train/n00000009', ['n00000009']),
  ],
)
def test_half_copied_tiny_imagenet(tiny, missing, words):
  shutil.rmtree(tiny / missing) if (tiny / missing).is_dir() else (tiny / missing).unlink()
  with refused(*words):
    open_tiny(tiny.parent)


def test_a_copy_of_other_files_is_not_taken_for_these(tiny, tmp_path):
  def open_it(damaged='refuse'):
    return open_tiny(tiny.parent, prepared=str(tmp_path / 'copies'), options=Options(damaged=damaged))

  assert open_it().class_names == open_it().class_names
  with refused('copies/tiny_imagenet', 'data.damaged'):
    open_it('skip')
  wnid = sorted((tiny / 'train').iterdir())[0].name
  (tiny / 'train' / wnid / f'{wnid}_boxes.txt').unlink()
  write_image(tiny / 'train' / wnid / 'images' / f'{wnid}_9.JPEG', 3)
  with refused('was prepared from other files than lie in'):
    open_it()
  shutil.rmtree(tiny)
  assert open_it().num_classes == 7  # the originals may be gone


def open_imagenet(root, name='imagenet50'):
  return sources.open_dataset(name, str(root), options=Options(size=32, crop='resized'))


@pytest.fixture(params=['folders', 'solution', 'synsets'])
def imagenet(request, tmp_path):
  """A replica of 1,000 classes, with one training and one test image of each of the first hundred that are learnt."""
  root, wnids = tmp_path / 'ILSVRC', [f'n{3 * k + 7:08}' for k in range(1000)]
  order = np.random.RandomState(1993).permutation(1000).tolist()
  for wnid in wnids:
    (root / 'train' / wnid).mkdir(parents=True)
  for place, k in enumerate(order[:100]):
    write_image(root / 'train' / wnids[k] / f'{wnids[k]}_0.JPEG', place, (40, 50, 3))
  flat = [order[(7 * j) % 100] for j in range(100)]
  for j, k in enumerate(flat):
    folder = root / 'val' / (wnids[k] if request.param == 'folders' else '')
    write_image(folder / f'ILSVRC2012_val_{j + 1:08}.JPEG', order.index(k), (50, 40, 3))
  if request.param == 'solution':
    rows = [f'ILSVRC2012_val_{j + 1:08},{wnids[k]} 1 2 3 4 {wnids[k]} 5 6 7 8' for j, k in enumerate(flat)]
    (root / 'LOC_val_solution.csv').write_text('\n'.join(['ImageId,PredictionString', *rows]) + '\n')
  if request.param == 'synsets':
    (root / imagenet50.SYNSETS).write_text('\n'.join(wnids[k] for k in flat))
  (root / 'LOC_synset_mapping.txt').write_text(f'{wnids[54]} tench, Tinca tinca\n')
  return root


def test_imagenet_50_holds_the_classes_that_are_learnt_under_labels_of_all(imagenet, capsys):
  data = open_imagenet(imagenet)
  order = parse_class_order('numpy:1993', data.class_names, 5)
  assert data.num_classes == 1000 and order[:10] == FIRST
  assert data.class_names[54] == 'tench' and data.image_shape == (32, 32, 3)
  for images, labels in (data.train(order).decode(), data.test(order).decode()):
    assert sorted(labels) == sorted(order[:50])
    np.testing.assert_array_equal(images[:, 0, 0, 0], [order.index(label) for label in labels])
  assert 'benchmark' not in capsys.readouterr().err
  data = open_imagenet(imagenet, 'imagenet100')
  assert len(data.train(range(1000))) == len(data.test(range(1000))) == 100 == imagenet100.Builder.KEPT


def write_part(root, tested):
  """A training image of each of 60 classes, and test images of the first of them in one folder."""
  for k in range(60):
    write_image(root / 'train' / f'n{k:08}' / '0.JPEG', k)
  for k in range(tested):
    write_image(root / 'val' / f'{k}.JPEG', k)


def test_unusable_imagenet_folders(tmp_path):
  with refused('train cannot be read'):
    open_imagenet(tmp_path)
  write_part(tmp_path, tested=1)
  with refused('LOC_val_solution.csv'):
    open_imagenet(tmp_path)
  (tmp_path / imagenet50.SYNSETS).write_text('n00000001\nn00000002\n')
  with refused('1 images', imagenet50.SYNSETS):
    open_imagenet(tmp_path)


@pytest.mark.parametrize('tested, listed', [(10, 60), (60, 59), (60, 60)])
def test_a_solution_must_be_of_these_images(tmp_path, capsys, tested, listed):
  write_part(tmp_path, tested)
  rows = [f'{k},n{k:08} 1 2 3 4' for k in range(listed)]
  (tmp_path / 'LOC_val_solution.csv').write_text('\n'.join(['ImageId,PredictionString', *rows]))
  with refused('LOC_val_solution.csv does not list') if tested != listed else nullcontext():
    open_imagenet(tmp_path)
    assert "not the benchmark's" in ' '.join(capsys.readouterr().err.split())  # 60 classes, not 1,000
