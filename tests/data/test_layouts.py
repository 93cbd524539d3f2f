"""Tiny-ImageNet and ImageNet-50 and -100 on replicas in the official layouts: labels, counts, class choice."""

import hashlib
import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from abd_jax.data import sources
from abd_jax.data.builders import imagenet50, imagenet100, tiny_imagenet
from abd_jax.data.prepare import Options
from abd_jax.errors import UserError
from abd_jax.protocol.tasks import parse_class_order

RESIZED = Options(size=32, crop='resized')
# The first fifty classes of NumPy's legacy shuffle with seed 1993 (released code; the class order of Rebuffi et al.).
FIRST = (54, 7, 894, 512, 126, 337, 988, 11, 284, 493)


def write(path, value, shape=(64, 64, 3)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full(shape, value, np.uint8)).save(path, 'png')  # lossless, whatever its name says


def refused(open_it, *words):
  with pytest.raises(UserError) as error:
    open_it()
  assert all(str(word) in str(error.value) for word in words), error.value


@pytest.fixture
def tiny(tmp_path):
  """A replica of 7 classes; every image's value tells its label. One is grey."""
  root, wnids = tmp_path / 'data/tiny-imagenet-200', [f'n{k:08}' for k in (5, 3, 9, 1, 7, 2, 8)]
  for wnid in wnids:
    for k in range(3):
      shape = (64, 64) if (wnid, k) == (wnids[0], 1) else (64, 64, 3)
      write(root / 'train' / wnid / 'images' / f'{wnid}_{k}.JPEG', 10 * sorted(wnids).index(wnid), shape)
    boxes = ''.join(f'{wnid}_{k}.JPEG\t0\t0\t9\t9\n' for k in range(3))
    (root / 'train' / wnid / f'{wnid}_boxes.txt').write_text(boxes)
  order = [wnids[k % 7] for k in range(14)]
  for k, wnid in enumerate(order):
    write(root / 'val/images' / f'val_{k}.JPEG', 10 * sorted(wnids).index(wnid) + 1)
  (root / 'val/val_annotations.txt').write_text(
    ''.join(f'val_{k}.JPEG\t{wnid}\t0\t0\t9\t9\n' for k, wnid in enumerate(order))
  )
  (root / 'wnids.txt').write_text('\n'.join(wnids))
  (root / 'words.txt').write_text('n00000001\tcrane, bird\nn00000002\tcrane\nn00000003\tdog, hound\n')
  return root


def open_tiny(root, **options):
  return sources.open_dataset('tiny_imagenet', str(root.parent), **options)


def check_tiny(data):
  assert data.image_shape == (64, 64, 3)
  assert data.class_names[:4] == ('crane (n00000001)', 'crane (n00000002)', 'dog', 'n00000005')
  for (images, labels), count, plus in ((data.train(range(7)).decode(), 3, 0), (data.test(range(7)).decode(), 2, 1)):
    assert np.bincount(labels).tolist() == [count] * 7
    np.testing.assert_array_equal(images[:, 0, 0, 0], 10 * labels + plus)


@pytest.mark.parametrize('named', ['the folder above', 'the folder itself'])
def test_tiny_imagenet(tiny, named, tmp_path):
  folder = tiny.parent if named == 'the folder above' else tiny
  data = sources.open_dataset('tiny_imagenet', str(folder), download=False, prepared=str(tmp_path / 'copies'))
  check_tiny(data)


def test_tiny_imagenet_from_its_archive(tiny, tmp_path, monkeypatch):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for file in tiny.rglob('*'):
      archive.write(file, file.relative_to(tiny.parent))
  folder = tmp_path / 'empty'
  unpacked = folder / 'downloads/tiny-imagenet-200'
  (folder / 'downloads').mkdir(parents=True)
  (folder / 'downloads/tiny-imagenet-200.zip').write_bytes(buffer.getvalue())
  open_it = lambda: sources.open_dataset('tiny_imagenet', str(folder), download=False)
  refused(open_it, 'is damaged', tiny_imagenet.Builder.MD5)
  monkeypatch.setattr(tiny_imagenet.Builder, 'MD5', hashlib.md5(buffer.getvalue()).hexdigest())
  check_tiny(open_it())
  shutil.rmtree(unpacked)
  check_tiny(open_it())
  assert not unpacked.exists()  # the copy is enough


@pytest.mark.parametrize(
  ('missing', 'words'),
  [
    ('train/n00000003/images/n00000003_1.JPEG', ['n00000003_1.JPEG is missing']),
    ('val/images/val_4.JPEG', ['val_annotations.txt, line 5', 'val_4.JPEG']),
    ('train/n00000009', ['n00000009']),
  ],
)
def test_half_copied_tiny_imagenet(tiny, missing, words):
  shutil.rmtree(tiny / missing) if (tiny / missing).is_dir() else (tiny / missing).unlink()
  refused(lambda: open_tiny(tiny), *words)


def test_a_copy_of_other_files_is_not_taken_for_these(tiny, tmp_path):
  open_it = lambda damaged='refuse': sources.open_dataset(
    'tiny_imagenet', str(tiny.parent), prepared=str(tmp_path / 'copies'), options=Options(damaged=damaged)
  )
  assert open_it().class_names == open_it().class_names
  refused(lambda: open_it('skip'), 'copies/tiny_imagenet', 'data.damaged')
  wnid = sorted((tiny / 'train').iterdir())[0].name
  (tiny / 'train' / wnid / f'{wnid}_boxes.txt').unlink()
  write(tiny / 'train' / wnid / 'images' / f'{wnid}_9.JPEG', 3)
  refused(open_it, 'was prepared from other files than lie in')
  shutil.rmtree(tiny)
  assert open_it().num_classes == 7  # the originals may be gone


@pytest.fixture(params=['folders', 'solution', 'synsets'])
def imagenet(request, tmp_path):
  """A replica of 1,000 classes: one training image each of the first hundred learnt, more in the first; a val each."""
  root, wnids = tmp_path / 'ILSVRC', [f'n{3 * k + 7:08}' for k in range(1000)]
  order = np.random.RandomState(1993).permutation(1000).tolist()
  for wnid in wnids:
    (root / 'train' / wnid).mkdir(parents=True)
  for place, k in enumerate(order[:100]):
    write(root / 'train' / wnids[k] / f'{wnids[k]}_0.JPEG', place, (40, 50, 3))
  flat = [order[(7 * j) % 100] for j in range(100)]
  for j, k in enumerate(flat):
    folder = root / 'val' / (wnids[k] if request.param == 'folders' else '')
    write(folder / f'ILSVRC2012_val_{j + 1:08}.JPEG', order.index(k), (50, 40, 3))
  if request.param == 'solution':
    rows = [f'ILSVRC2012_val_{j + 1:08},{wnids[k]} 1 2 3 4 {wnids[k]} 5 6 7 8' for j, k in enumerate(flat)]
    (root / 'LOC_val_solution.csv').write_text('\n'.join(['ImageId,PredictionString', *rows]) + '\n')
  if request.param == 'synsets':
    (root / imagenet50.SYNSETS).write_text('\n'.join(wnids[k] for k in flat))
  (root / 'LOC_synset_mapping.txt').write_text(f'{wnids[54]} tench, Tinca tinca\n')
  return root


def test_imagenet_50_holds_the_classes_that_are_learnt_under_labels_of_all(imagenet):
  data = sources.open_dataset('imagenet50', str(imagenet), options=RESIZED)
  order = parse_class_order('numpy:1993', data.class_names, 5)
  assert data.num_classes == 1000 and order[:10] == FIRST
  assert data.class_names[54] == 'tench' and data.image_shape == (32, 32, 3)
  for images, labels in (data.train(order).decode(), data.test(order).decode()):
    assert sorted(labels) == sorted(order[:50])
    np.testing.assert_array_equal(images[:, 0, 0, 0], [order.index(label) for label in labels])


def test_imagenet_100_holds_twice_as_many(imagenet):
  data = sources.open_dataset('imagenet100', str(imagenet), options=RESIZED)
  assert len(data.train(range(1000)).labels) == len(data.test(range(1000)).labels) == 100 == imagenet100.Builder.KEPT


def test_unusable_imagenet_folders(tmp_path):
  open_it = lambda: sources.open_dataset('imagenet50', str(tmp_path), options=RESIZED)
  refused(open_it, 'no folder train')
  for k in range(60):
    write(tmp_path / 'train' / f'n{k:08}' / '0.JPEG', k)
  write(tmp_path / 'val/1.JPEG', 0)
  refused(open_it, 'LOC_val_solution.csv')
  (tmp_path / imagenet50.SYNSETS).write_text('n00000001\nn00000002\n')
  refused(open_it, '1 images', imagenet50.SYNSETS)


@pytest.mark.parametrize('spoil', ['half', 'more', 'no class'])
def test_a_solution_that_is_not_of_these_images(tmp_path, spoil):
  for k in range(60):
    write(tmp_path / 'train' / f'n{k:08}' / '0.JPEG', k)
    if spoil != 'half' or k < 10:
      write(tmp_path / 'val' / f'{k}.JPEG', k)
  rows = [f'{k},n{k:08} 1 2 3 4' for k in range(60) if spoil != 'more' or k != 7]
  if spoil == 'no class':
    rows[7] = '7,'
  (tmp_path / 'LOC_val_solution.csv').write_text('\n'.join(['ImageId,PredictionString', *rows]))
  refused(lambda: sources.open_dataset('imagenet50', str(tmp_path), options=RESIZED), 'LOC_val_solution.csv lists')


@pytest.mark.parametrize(('classes', 'told'), [(60, True), (1000, False)])
def test_a_part_of_imagenet_is_told_to_be_no_benchmark(tmp_path, capsys, classes, told):
  chosen = set(np.random.RandomState(1993).permutation(classes)[:50].tolist())
  for k in range(classes):
    for split in ('train', 'val'):
      (tmp_path / split / f'n{k:08}').mkdir(parents=True)
      if k in chosen:
        write(tmp_path / split / f'n{k:08}' / '0.JPEG', k % 250)
  sources.open_dataset('imagenet50', str(tmp_path), options=RESIZED)
  assert (
    "has 60 classes instead of 1,000, so those that are learnt are not the benchmark's" in capsys.readouterr().err
  ) is told
