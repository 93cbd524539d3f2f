"""A folder of photographs: train/<class>/* and test/<class>/*, or <class>/*, which is then split in two."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abd_jax.data import images as images_lib
from abd_jax.data.builders._files import FileBuilder, Files, Photo, check_classes, digest_of
from abd_jax.data.folders import image_files, natural, subfolders
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError

SIZES = (32, 64, 128, 224)  # pixels
TRAINS = ('train', 'training')  # in small or large letters
TESTS = ('test', 'testing', 'val', 'valid', 'validation')


class Builder(FileBuilder, skip_registration=True):
  """Classes are the folders, by name; images are in the order of their files' names, over all classes."""

  name = 'image_folder'

  @classmethod
  def key(cls, folder: Path, options: Options) -> str:
    """One for each content of the folder, by names, sizes and times, and each way to prepare it."""
    facts = [
      (split, str(file.relative_to(place)), *_size_and_time(file))
      for split, place in _layout(folder).items()
      for name in subfolders(place)
      for file in image_files(place / name)
    ]
    return f'{cls.name}_{digest_of([facts, options])}'

  @classmethod
  def stored_size(cls, size: tuple[int, int], crop: str) -> tuple[int, int] | None:
    return None if crop == 'resized' else size

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    folder, layout = place.folder, _layout(place.folder)
    names = tuple(sorted({name for classes in layout.values() for name in subfolders(classes)}))
    others: Counter[str] = Counter()
    splits = {split: _photos(classes, names, others) for split, classes in layout.items()}
    check_classes(folder, dict(enumerate(names)), splits)
    if 'test' not in splits:
      splits = _deal(splits['train'], options.test_fraction, options.split_seed)
      check_classes(folder, dict(enumerate(names)), splits)
    size, channels = _size_and_channels([photo for photos in splits.values() for photo in photos], options)
    side = size if options.crop == 'padded' else None
    return Files(names, splits, (side, side, channels), size, tuple(sorted(others.items())))


def _size_and_time(file: Path) -> tuple[int, int]:
  try:
    stat = file.stat()
  except OSError:  # a link to nothing: reading it will say so
    return 0, 0
  return stat.st_size, stat.st_mtime_ns


def _layout(folder: Path) -> dict[str, Path]:
  """The folder of each split's classes. Raises UserError for no folder, one split alone, or splits within classes."""
  there = subfolders(folder)
  trains, tests = (
    sorted((name for name in there if name.casefold() in known), key=lambda name: known.index(name.casefold()))
    for known in (TRAINS, TESTS)
  )
  if trains and tests:
    return {'train': folder / trains[0], 'test': folder / tests[0]}
  if trains or tests:
    missing = 'test' if trains else 'train'
    raise UserError(f"{folder} has a folder '{(trains + tests)[0]}' but no '{missing}'. Add it.")
  if not there:
    raise UserError(f'{folder} has no folders of images. Give one with train/CLASS/* and test/CLASS/*, or CLASS/*.')
  for name in there:
    if within := {*TRAINS, *TESTS} & {inner.casefold() for inner in subfolders(folder / name)}:
      raise UserError(
        f"{folder / name} has a folder '{min(within)}' within a class. Put it above the classes: train/CLASS/* and "
        'test/CLASS/*.'
      )
  return {'train': folder}


def _photos(place: Path, names: tuple[str, ...], others: Counter[str]) -> list[Photo]:
  """The images of one split. others: counts the other files."""
  folders = [(label, place / name) for label, name in enumerate(names) if (place / name).is_dir()]
  photos = [Photo(file, label) for label, folder in folders for file in image_files(folder, others)]
  return sorted(photos, key=lambda photo: (natural(photo.path.name), photo.label, photo.path))


def _deal(photos: list[Photo], fraction: float, seed: int) -> dict[str, list[Photo]]:
  """A part of each class as the test split: `fraction`, at least one image."""
  labels, rng, is_test = np.array([photo.label for photo in photos]), np.random.default_rng(seed), set()
  for label in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == label))
    is_test |= set(mine[: max(1, round(fraction * len(mine)))].tolist())
  splits: dict[str, list[Photo]] = {'train': [], 'test': []}
  for k, photo in enumerate(photos):
    splits['test' if k in is_test else 'train'].append(photo)
  return splits


def _size_and_channels(photos: list[Photo], options: Options) -> tuple[int, int]:
  """Those of the options; where they are 0, what fits the headers of all files. Damaged files are refused later."""
  if options.size and options.channels:
    return options.size, options.channels
  headers = []
  for photo in photos:
    with contextlib.suppress(OSError, images_lib.BadImage), photo.path.open('rb') as file:
      headers.append(images_lib.header(file))
  if not headers:
    raise UserError(f'no file can be read as an image, of {len(photos)} such as {photos[0].path}. Replace them.')
  sizes, grey = zip(*headers, strict=True)
  return options.size or _fitting_size(sizes), options.channels or (1 if all(grey) else 3)


def _fitting_size(shapes: Sequence[tuple[int, int]]) -> int:
  """The side of all images if they are squares that a generator can make, else the nearest of SIZES."""
  (height, width), *others = set(shapes)
  if not others and height == width <= max(SIZES) and height % 4 == 0:
    return height
  side = np.median([min(shape) for shape in shapes])
  return min(SIZES, key=lambda size: abs(np.log(size / side)))
