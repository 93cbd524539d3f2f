"""A folder of photographs: train/<class>/* and test/<class>/*, or <class>/*, which is then split in two."""

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from abd_jax.data import images as images_lib
from abd_jax.data.builders._files import FileBuilder, Files, Photo, check_classes, digest_of
from abd_jax.data.folders import image_files, in_order, natural, subfolders
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError

SIZES = (32, 64, 128, 224)  # pixels
# Names of splits, in small or large letters; 'set', 'data' or 'images' may follow.
TRAINS = ('train', 'training')
TESTS = ('test', 'testing', 'val', 'valid', 'validation', 'dev', 'eval', 'evaluation')
_KNOWN = f'splits are called {", ".join(TRAINS)}; {", ".join(TESTS)}'
_SAY = 'If these are classes, set --config.data.layout=classes.'


class Builder(FileBuilder):
  """Classes are the folders, by name; images are in the order of their files' names, over all classes."""

  name = 'image_folder'
  VERSION = '2.0.0'  # 1.0.0 has class 10 before class 2

  @classmethod
  def key(cls, folder: Path, options: Options) -> str:
    """One for each content of the folder, by names, sizes and times, and each way to prepare it."""
    stat = lambda file: file.stat() if file.exists() else file.lstat()  # of a link to nothing, its own
    facts = [
      (split, str(file.relative_to(place)), (found := stat(file)).st_size, found.st_mtime_ns)
      for split, place in _layout(folder, options.layout).items()
      for folders in subfolders(place).values()
      for one in folders
      for file in image_files(one)
    ]
    return f'{cls.name}_{digest_of([facts, options, cls.VERSION])}'

  @classmethod
  def stored_size(cls, size: tuple[int, int], crop: str) -> tuple[int, int] | None:
    return None if crop == 'resized' else size

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    folder, layout, passed_over = place.folder, _layout(place.folder, options.layout), Counter()
    used = {one for classes in layout.values() for one in (classes, *classes.parents)}
    if folder not in layout.values():
      passed_over.update(f'{one.name}/' for places in subfolders(folder).values() for one in places if one not in used)
    for one in {folder, *layout.values()}:
      passed_over['images outside the class folders'] += len(image_files(one, passed_over, below=False))
    names = tuple(in_order({name for classes in layout.values() for name in subfolders(classes)}))
    splits = {split: _photos(classes, names, passed_over) for split, classes in layout.items()}
    if 'test' not in splits:
      splits = _deal(splits['train'], options.test_fraction, options.split_seed)
    check_classes(folder, dict(enumerate(names)), splits, passed_over)
    size, channels, value_range = _measured(splits, options)
    side = size if options.crop == 'padded' else None
    return Files(names, splits, (side, side, channels), size, value_range, passed_over)


def _layout(folder: Path, said: str) -> dict[str, Path]:
  """The folder of each split's classes; of the training split alone if it is to be split in two.

  said: config.data.layout. Raises UserError for no folder, or if it is not clear which folders are splits.
  """
  there = subfolders(folder)
  if not there:
    raise UserError(f'{folder} has no folders of images. Give one with train/CLASS/* and test/CLASS/*, or CLASS/*.')
  if said == 'classes':
    return {'train': folder}
  if said:
    places = [folder / name.strip() for name in said.split(',') if name.strip()]
    if len(places) != 2 or not all(place.is_dir() for place in places):
      raise UserError(f"config.data.layout={said!r}: expected 'classes', or the folders of training and test images in "
                      f'{folder}, as in train,test.')  # fmt: skip
    return dict(zip(('train', 'test'), places, strict=True))
  splits = named_splits(there)
  if not splits:
    _check_tops(folder, there)
    return {'train': folder}
  layout = {}
  for split, places in splits.items():
    labelled = [place for place in places if subfolders(place)]
    if not labelled:
      raise UserError(f'{places[0]} has no folders of classes: its images are unlabelled. Sort them into CLASS/*, or '
                      f'leave them out. {_SAY}')  # fmt: skip
    layout[split] = unwrapped(labelled[0])
  if missing := {'train', 'test'} - splits.keys():
    one = next(iter(layout.values()))
    raise UserError(f"{folder} has a folder '{one.name}' but none for the {min(missing)} split; {_KNOWN}. Add it, or "
                    f'give {one} as --config.data.dir, to test on a part of it. {_SAY}')  # fmt: skip
  return layout


def unwrapped(place: Path) -> Path:
  """The innermost folder of a split: archives may unpack as train/train."""
  inside = subfolders(place)
  inner = place / next(iter(inside))
  return unwrapped(inner) if len(inside) == 1 and named_splits(inside) and subfolders(inner) else place


def named_splits(there: dict[str, list[Path]]) -> dict[str, list[Path]]:
  """'train' and 'test' -> folders with a name of that split, the likeliest first."""
  plain = {name: re.sub('[-_ ]?(set|data|images)$', '', name.casefold()) for name in there}
  found = {
    split: [place for word in words for name in there if plain[name] == word for place in there[name]]
    for split, words in (('train', TRAINS), ('test', TESTS))
  }
  return {split: places for split, places in found.items() if places}


def _check_tops(folder: Path, there: dict[str, list[Path]]) -> None:
  """Raises UserError if no top folder has the name of a split and they look like splits, or if a class holds splits."""
  within = {top: set(subfolders(places[0])) for top, places in there.items()}
  for top, inner in within.items():
    if splits := named_splits({name: [folder / top / name] for name in sorted(inner)}):
      one = next(iter(splits.values()))[0]
      what = 'Put it above the classes' if len(there) > 1 else f'Give {one.parent} as --config.data.dir'
      raise UserError(f"{one.parent} has a folder '{one.name}' within a class; {_KNOWN}. {what}. {_SAY}")
  tops = [top for top, inner in within.items() if inner]
  shared = in_order(set.intersection(*(within[top] for top in tops))) if len(tops) > 1 else []
  if len(shared) > 1 and not any(image_files(place, below=False) for places in there.values() for place in places):
    raise UserError(
      f'{folder}: {", ".join(tops[:3])} hold the same folders, {", ".join(shared[:3])}. They may be splits; {_KNOWN}. '
      f'Rename them, or set --config.data.layout={",".join(tops[:2])}, training first. {_SAY}'
    )


def _photos(place: Path, names: tuple[str, ...], passed_over: Counter[str]) -> list[Photo]:
  """The images of one split. passed_over: counts everything else."""
  folders = subfolders(place)
  of_class = [(label, one) for label, name in enumerate(names) for one in folders.get(name, [])]
  photos = [Photo(file, label) for label, one in of_class for file in image_files(one, passed_over)]
  return sorted(photos, key=lambda photo: (natural(photo.path.name), photo.label, photo.path))


def _deal(photos: list[Photo], fraction: float, seed: int) -> dict[str, list[Photo]]:
  """A part of each class as the test split: `fraction`, at least one image, but for a class that has only one."""
  labels, rng, is_test = np.array([photo.label for photo in photos]), np.random.default_rng(seed), set()
  for label in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == label))
    is_test |= set(mine[: min(max(1, round(fraction * len(mine))), len(mine) - 1)].tolist())
  trained = [photo for k, photo in enumerate(photos) if k not in is_test]
  return {'train': trained, 'test': [photos[k] for k in sorted(is_test)]}


def _measured(splits: dict[str, list[Photo]], options: Options) -> tuple[int, int, tuple[float, ...]]:
  """(size, channels, value range) of the options; where these are 0 or empty, what fits all files.

  The value range is that of training images with more than 8 bits. Damaged files are refused later.
  """
  photos, headers = [(split, photo.path) for split in splits for photo in splits[split]], []
  for split, path in tqdm(photos, 'headers', unit='image', disable=None, leave=False):
    with contextlib.suppress(images_lib.BadImage):
      headers.append((split, *images_lib.header(path)))
  if not headers:
    raise UserError(f'no file can be read as an image, of {len(photos)} such as {photos[0][1]}. Replace them.')
  deep = [limits for split, _, _, limits in headers if split == 'train' and limits]
  low, high = min((low for low, _ in deep), default=0), max((high for _, high in deep), default=0)
  size = options.size or _fitting_size([shape for _, shape, _, _ in headers])
  channels = options.channels or (1 if all(grey for _, _, grey, _ in headers) else 3)
  return size, channels, options.value_range or ((low, max(high, low + 1)) if deep else ())


def _fitting_size(shapes: Sequence[tuple[int, int]]) -> int:
  """The side of all images if they are squares that a generator can make, else the nearest of SIZES."""
  (height, width), *others = set(shapes)
  if not others and height == width <= max(SIZES) and height % 4 == 0:
    return height
  side = np.median([min(shape) for shape in shapes])
  return min(SIZES, key=lambda size: abs(np.log(size / side)))
