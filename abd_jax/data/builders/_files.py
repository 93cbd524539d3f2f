"""Data sets that are files in folders: a TFDS builder for any list of them, which checks and converts each image."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tqdm import tqdm

from abd_jax.data import images as images_lib
from abd_jax.data.options import Options
from abd_jax.data.threads import pool
from abd_jax.errors import UserError

_BLOCK = 256  # files that are read and converted at once
SUFFIXES = {'.png', '.jpg', '.jpeg', '.jpe', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pnm', '.jfif'}


class Photo(NamedTuple):
  path: Path
  label: int


class Files(NamedTuple):
  """What to prepare.

  Attributes:
    class_names: of all classes, by label.
    splits: the files of 'train' and 'test', in the order in which they are stored.
    shape: (h, w, c) to store images in; None for h and w: each as it is.
    size: of the network's images, found out; 0: as stored.
  """

  class_names: tuple[str, ...]
  splits: dict[str, list[Photo]]
  shape: tuple[int | None, int | None, int]
  size: int = 0


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images `image`, classes `label` and the path `file` of each. A subclass says in `find` where they are.

  Attributes:
    skipped: what was wrong with the files left out of each split, with options.damaged 'skip'.
    done: how many images had to be changed in which way.
  """

  VERSION = tfds.core.Version('1.0.0')
  COUNTS: ClassVar[dict[str, int]] = {}
  files: Files = Files((), {}, (None, None, 3))

  def __init__(self, *, files: Files, options: Options, **kwargs):
    self.files, self.options = files, options
    self.skipped: dict[str, list[str]] = {split: [] for split in files.splits}
    self.done: Counter[str] = Counter()
    super().__init__(**kwargs)

  @classmethod
  def find(cls, folder: Path, downloads: Path, download: bool, options: Options) -> Files:
    """The files that lie in `folder`, or in an archive in `downloads`. Raises UserError if they are not all there."""
    raise NotImplementedError

  @classmethod
  def key(cls, folder: Path, options: Options) -> str:
    """The name of the prepared copy, one for all that would make the same."""
    return cls.name

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=self.files.shape),
          'label': tfds.features.ClassLabel(names=self.files.class_names),
          'file': tfds.features.Text(),
        }
      ),
      metadata=tfds.core.MetadataDict({'size': self.files.size}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self.files.splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    photos, kept = self.files.splits[split], 0
    with tqdm(photos, desc=f'{self.name}, {split}', unit='image', disable=None, leave=False) as bar:
      for start in range(0, len(photos), _BLOCK):
        block = photos[start : start + _BLOCK]
        for photo, (encoded, done, wrong) in zip(block, pool().map(self._convert, block), strict=True):
          bar.update()
          if wrong:
            self._refuse_or_skip(split, f'{photo.path} {wrong}')
            continue
          self.done.update(done)
          yield kept, {'image': encoded, 'label': photo.label, 'file': os.fspath(photo.path)}
          kept += 1

  def _refuse_or_skip(self, split: str, what: str) -> None:
    if self.options.damaged == 'refuse':
      raise UserError(f'{what}. Replace it, or skip such files with --config.data.damaged=skip.')
    self.skipped[split].append(what)

  def _convert(self, photo: Photo) -> tuple[bytes, list[str], str]:
    """(bytes to store, what was done to the image, what is wrong with it)."""
    try:
      encoded = photo.path.read_bytes()
      height, width, channels = self.files.shape
      image, done = images_lib.plain(encoded, channels)
      size = (height or image.height, width or image.width)
      if size != (image.height, image.width):
        image = images_lib.resize(image, size, images_lib.square_box(image.width, image.height))
        done.append('resized')
      if done or image.format not in ('PNG', 'JPEG'):
        encoded = images_lib.png(image)
      return encoded, done, ''
    except images_lib.BadImage as error:
      return b'', [], str(error)
    except OSError as error:
      return b'', [], f'cannot be read ({error.strerror})'

  @property
  def expected(self) -> dict[str, int]:
    """How many images each split has, once prepared."""
    return {split: len(photos) - len(self.skipped[split]) for split, photos in self.files.splits.items()}

  def tell(self) -> None:
    """One line about what was found and done, and one for each file left out."""
    skipped = [line for lines in self.skipped.values() for line in lines]
    for line in skipped:
      print(f'skipped: {line}', file=sys.stderr)
    counts = ' and '.join(f'{count} {split}' for split, count in self.expected.items())
    height, width, channels = self.files.shape
    size = f'{height}x{width}' if height else 'of their own sizes'
    done = ', '.join(f'{count} {what}' for what, count in self.done.most_common())
    print(
      f'{self.name}: {counts} images of {len(self.files.class_names)} classes, stored {size} with {channels} channels'
      f'{f"; converted: {done}" if done else ""}{f"; skipped: {len(skipped)}" if skipped else ""}',
      file=sys.stderr,
    )


def subfolders(folder: Path) -> list[str]:
  """Names of the folders in `folder`, sorted, hidden ones left out. Raises UserError if it cannot be read."""
  return sorted(entry.name for entry in scan(folder) if entry.is_dir())


def scan(folder: Path) -> list[os.DirEntry]:
  """What is in `folder` and not hidden. Raises UserError if it cannot be read."""
  try:
    with os.scandir(folder) as entries:
      return [entry for entry in entries if not entry.name.startswith('.')]
  except OSError as error:
    raise UserError(f'{folder} cannot be read ({error.strerror}). Give the folder that holds the images.') from None


def image_files(folder: Path) -> list[os.DirEntry]:
  """Images in `folder` and below it, known by their suffix, in the order of `natural`."""
  found = []
  for entry in scan(folder):
    if entry.is_dir():
      found += image_files(Path(entry.path))
    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
      found.append(entry)
  return sorted(found, key=lambda entry: natural(entry.name))


def lines(file: Path) -> list[str]:
  """Those of a text file that are not empty. Raises UserError if it cannot be read."""
  try:
    return [line for line in file.read_text().splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise UserError(f'{file} cannot be read ({reason}). Put the data set there as it was.') from None


def natural(name: str) -> list[tuple[int, int | str]]:
  """A key that sorts 2.png before 10.png."""
  return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r'(\d+)', name) if part]


def check_classes(folder: Path, names: Sequence[str], splits: dict[str, list[Photo]]) -> None:
  """Raises UserError if there is only one class, or one without training images."""
  if len(names) < 2:
    raise UserError(f'{folder} has {len(names)} class{"es" * (not names)}: one folder of images each. Use at least 2.')
  trained = {photo.label for photo in splits['train']}
  empty = [name for label, name in enumerate(names) if label not in trained]
  if empty:
    raise UserError(f"class '{empty[0]}' in {folder} has no training images. Add some, or remove its folder.")


def unique_names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
  """The first of the words for each WordNet id, with the id where two share it; the id itself where there is none."""
  first = [words.get(wnid, wnid).split(',')[0].strip() or wnid for wnid in wnids]
  count = Counter(first)
  return tuple(name if count[name] == 1 else f'{name} ({wnid})' for name, wnid in zip(first, wnids, strict=True))
