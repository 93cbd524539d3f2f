"""Tiny-ImageNet in its official layout: downloaded, or a folder tiny-imagenet-200 placed in data.dir by hand."""

import os
import tempfile
import zipfile
from pathlib import Path

from abd_jax.data.builders._files import FileBuilder, Files, Photo, unique_names, words_of
from abd_jax.data.builders.cifar10 import fetch
from abd_jax.data.folders import image_files, lines
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError

FOLDER = 'tiny-imagenet-200'
_SHAPE = (64, 64, 3)


class Builder(FileBuilder, skip_registration=True):
  """100,000 training and 10,000 test images uint8[64, 64, 3] of 200 classes; a part of the classes will do.

  Labels are positions among the sorted WordNet ids. The official validation split is the test split.
  """

  name = 'tiny_imagenet'
  URL = f'http://cs231n.stanford.edu/{FOLDER}.zip'
  MD5 = '90528d7ca1a48142e341f4ef8d21d0de'

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    root = _root(place) or _unpacked(fetch(cls.URL, cls.MD5, place.downloads, place.download))
    wnids = sorted(lines(root / 'wnids.txt'))
    label = {wnid: k for k, wnid in enumerate(wnids)}
    train = [Photo(path, label[wnid]) for wnid in wnids for path in _of_class(root / 'train' / wnid)]
    names = unique_names(wnids, words_of(root / 'words.txt', '\t'))
    return Files(names, {'train': train, 'test': _annotated(root / 'val', label)}, _SHAPE)

  @classmethod
  def stored_size(cls, size: tuple[int, int], crop: str) -> tuple[int, int] | None:
    return _SHAPE[:2]

  @classmethod
  def check_copy(cls, copy: Path, place: Place, options: Options) -> None:
    if _root(place):  # the archive is not unpacked for that
      super().check_copy(copy, place, options)


def _root(place: Place) -> Path | None:
  """The folder of the files, or None."""
  folders = (place.folder, place.folder / FOLDER, place.downloads / FOLDER)
  return next((folder for folder in folders if (folder / 'wnids.txt').is_file()), None)


def _unpacked(archive: Path) -> Path:
  """The folder of `archive`, unpacked beside it. Raises UserError if there is no room for it."""
  target = archive.with_name(FOLDER)
  try:
    with tempfile.TemporaryDirectory(prefix='incomplete.', dir=archive.parent) as scratch:
      with zipfile.ZipFile(archive) as content:
        content.extractall(scratch)
      os.replace(Path(scratch, FOLDER), target)
  except OSError as error:
    if not target.exists():  # otherwise another process was faster
      raise UserError(f'{archive} cannot be unpacked ({error.strerror}). Make room there.') from None
  return target


def _of_class(folder: Path) -> list[Path]:
  """The training images of a class. Raises UserError if one is missing that the class's list of boxes names."""
  place, boxes = folder / 'images', folder / f'{folder.name}_boxes.txt'
  there = image_files(place)
  listed = {line.split('\t')[0] for line in lines(boxes)} if boxes.is_file() else set()
  if missing := listed - {path.name for path in there}:
    raise UserError(f'{place / min(missing)} is missing, with {len(missing) - 1} more of that class. Copy them all.')
  if not there:
    raise UserError(f'{place} has no images. Copy the data set anew.')
  return there


def _annotated(folder: Path, label: dict[str, int]) -> list[Photo]:
  """The test images with the labels that val_annotations.txt gives them."""
  file, photos = folder / 'val_annotations.txt', []
  for number, line in enumerate(lines(file), 1):
    name, wnid, *_ = [*line.split('\t'), '']
    if wnid not in label or not (folder / 'images' / name).is_file():
      what = f"'{wnid}' is not in wnids.txt" if wnid not in label else f'there is no {folder / "images" / name}'
      raise UserError(f'{file}, line {number}: {what}. Copy the data set anew.')
    photos.append(Photo(folder / 'images' / name, label[wnid]))
  return photos
