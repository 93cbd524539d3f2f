"""Tiny-ImageNet in its official layout: downloaded, or a folder tiny-imagenet-200 placed in data.dir by hand."""

import zipfile
from pathlib import Path

from abd_jax.data.builders._files import FileBuilder, Files, Photo, check_classes, of_wnids, unique_names
from abd_jax.data.folders import image_files, lines
from abd_jax.data.prepare import Options, Place, arriving, fetch
from abd_jax.errors import UserError

FOLDER = 'tiny-imagenet-200'
_SHAPE = (64, 64, 3)


class Builder(FileBuilder):
  """100,000 training and 10,000 test images uint8[64, 64, 3] of 200 classes; a part of the classes will do.

  Labels are positions among the sorted WordNet ids. The official validation split is the test split.
  """

  name = 'tiny_imagenet'
  URL = f'http://cs231n.stanford.edu/{FOLDER}.zip'
  MD5 = '90528d7ca1a48142e341f4ef8d21d0de'

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    root = cls._root(place)
    wnids = sorted(lines(root / 'wnids.txt'))
    label = {wnid: k for k, wnid in enumerate(wnids)}
    train = [Photo(path, label[wnid]) for wnid in wnids for path in _of_class(root / 'train' / wnid)]
    annotations, images = root / 'val/val_annotations.txt', image_files(root / 'val/images')
    listed = {Path(name).stem: wnid for name, wnid, *_ in (line.split('\t') for line in lines(annotations))}
    test = of_wnids([file for file in images if file.stem in listed], listed, annotations, label)
    names = unique_names(wnids, root / 'words.txt', '\t')
    check_classes(root, dict(enumerate(names)), splits := {'train': train, 'test': test})
    return Files(names, splits, _SHAPE)

  @classmethod
  def stored_size(cls, size: tuple[int, int], crop: str) -> tuple[int, int] | None:
    return _SHAPE[:2]

  @classmethod
  def _root(cls, place: Place) -> Path:
    """The folder of the files, unpacked if needed. Raises UserError if the archive is missing or the disk is full."""
    target = place.downloads / FOLDER
    for folder in (place.folder, place.folder / FOLDER, target):
      if (folder / 'wnids.txt').is_file():
        return folder
    if not place.prepare:
      raise UserError(f'{target} is missing.')
    archive = fetch(cls.URL, cls.MD5, place.downloads, place.download)
    with arriving(target) as folder, zipfile.ZipFile(archive) as content:
      content.extractall(folder.parent)
    return target


def _of_class(folder: Path) -> list[Path]:
  """The training images of a class. Raises UserError if one is missing that the class's list of boxes names."""
  place, boxes = folder / 'images', folder / f'{folder.name}_boxes.txt'
  there = image_files(place)
  listed = {line.split('\t')[0] for line in lines(boxes)} if boxes.is_file() else set()
  if missing := listed - {path.name for path in there}:
    raise UserError(f'{place / min(missing)} is missing, with {len(missing) - 1} more of that class. Copy them all.')
  return there
