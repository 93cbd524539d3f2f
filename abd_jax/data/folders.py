"""Folders of images: which files are images, and in which order."""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from abd_jax.errors import UserError

# Formats of photographs, as Pillow calls them.
_FORMATS = {
  'AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'QOI', 'TGA', 'TIFF', 'WEBP'
}  # fmt: skip
# What network drives and systems put into folders, in small letters; so is whatever begins with a dot.
_SYSTEM = {
  '@eadir', '#recycle', '#snapshot', '@recycle', '@recently-snapshot', '__macosx', '$recycle.bin', 'recycler',
  'system volume information', 'lost+found',
}  # fmt: skip


def own_images(data_name: str) -> bool:
  """Whether the data are the user's own folder of images: `data_name` then says nothing about them."""
  return data_name == 'image_folder'


@functools.cache
def suffixes() -> frozenset[str]:
  """Those of the formats of photographs that the installed Pillow can open, in small letters."""
  from PIL import Image

  return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in _FORMATS)


def subfolders(folder: Path) -> dict[str, list[Path]]:
  """Name, in Unicode's form NFC, -> the folders in `folder` of that name, `in_order`.

  Raises UserError if it cannot be read.
  """
  found: dict[str, list[Path]] = {}
  for entry in sorted(_scan(folder), key=lambda entry: entry.name):
    if entry.is_dir():
      found.setdefault(unicodedata.normalize('NFC', entry.name), []).append(Path(entry.path))
  return {name: found[name] for name in in_order(found)}


def _scan(folder: Path, passed_over: Counter[str] | None = None) -> list[os.DirEntry]:
  """What is in `folder`, but for what is hidden or the system's; that is counted. Raises UserError."""
  try:
    with os.scandir(folder) as entries:
      there = list(entries)
  except OSError as error:
    raise UserError(f'{folder} cannot be read ({error.strerror}). Give the folder that holds the images.') from None
  hidden = lambda entry: entry.name.startswith('.') or entry.name.casefold() in _SYSTEM
  if passed_over is not None:
    passed_over.update(f'{entry.name}/' if entry.is_dir() else 'hidden' for entry in there if hidden(entry))
  return [entry for entry in there if not hidden(entry)]


def image_files(folder: Path, passed_over: Counter[str] | None = None, below: bool = True) -> list[Path]:
  """Images in `folder` and below it, known by their suffix, in the order of `natural`; of one name by their paths.

  passed_over: counts the files with other suffixes, and what is hidden or the system's. below: whether folders in it
  count. Raises UserError for a link to a folder that it lies in: its images would be found many times.
  """
  files, above = [], [folder, *folder.parents]
  for entry in _scan(folder, passed_over):
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.is_dir():
      if entry.is_symlink() and any(os.path.samefile(entry.path, one) for one in above):
        raise UserError(f'{entry.path} is a link to a folder that it lies in. Remove it.')
      files += image_files(Path(entry.path), passed_over) if below else []
    elif suffix in suffixes():
      files.append(Path(entry.path))
    elif passed_over is not None:
      passed_over[suffix or 'without a suffix'] += 1
  return sorted(files, key=lambda file: (natural(file.name), str(file)))


def image_paths(paths: Collection[str | os.PathLike]) -> list[Path]:
  """These files; for a folder its images, as for training, sorted by path. Raises UserError if there are none."""
  files = []
  for path in (Path(os.path.expanduser(path)) for path in paths):
    files += sorted(image_files(path)) if path.is_dir() else [path]
  if not files:
    where = ' '.join(map(str, paths)) or 'an empty list'
    raise UserError(f'no image in {where}; expected files that end in {" ".join(sorted(suffixes()))}.')
  return files


def lines(file: Path) -> list[str]:
  """The lines of a text file that are not empty. Raises UserError if it cannot be read."""
  try:
    return [line for line in file.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise UserError(f'{file} cannot be read ({reason}). Put the data set there as it was.') from None


def natural(name: str) -> list[tuple[int, int | str]]:
  """A key that sorts 2.png before 10.png."""
  return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r'(\d+)', name) if part]


def in_order(names: Iterable[str]) -> list[str]:
  """Sorted by `natural`: class 2 before class 10."""
  return sorted(names, key=lambda name: (natural(name), name))
