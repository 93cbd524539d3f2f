"""Folders of images: which files are images, and in which order."""

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from abd_jax.errors import UserError

SUFFIXES = {'.png', '.jpg', '.jpeg', '.jpe', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pnm', '.jfif'}


def own_images(data_name: str) -> bool:
  """Whether the data are the user's own folder of images: `data_name` then says nothing about them."""
  return data_name == 'image_folder'


def subfolders(folder: Path) -> list[str]:
  """Names of the folders in `folder` that are not hidden, sorted. Raises UserError if it cannot be read."""
  return sorted(entry.name for entry in _scan(folder) if entry.is_dir())


def _scan(folder: Path) -> list[os.DirEntry]:
  """Files and folders in `folder` that are not hidden. Raises UserError if it cannot be read."""
  try:
    with os.scandir(folder) as entries:
      return [entry for entry in entries if not entry.name.startswith('.')]
  except OSError as error:
    raise UserError(f'{folder} cannot be read ({error.strerror}). Give the folder that holds the images.') from None


def image_files(folder: Path, others: Counter[str] | None = None) -> list[Path]:
  """Images in `folder` and below it, known by their suffix, in the order of `natural`; of one name by their paths.

  others: counts the files with other suffixes. Raises UserError for a link to a folder that it lies in: its images
  would be found many times.
  """
  files, above = [], [folder, *folder.parents]
  for entry in _scan(folder):
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.is_dir():
      if entry.is_symlink() and any(os.path.samefile(entry.path, one) for one in above):
        raise UserError(f'{entry.path} is a link to a folder that it lies in. Remove it.')
      files += image_files(Path(entry.path), others)
    elif suffix in SUFFIXES:
      files.append(Path(entry.path))
    elif others is not None:
      others[suffix or 'without a suffix'] += 1
  return sorted(files, key=lambda file: (natural(file.name), str(file)))


def image_paths(paths: Collection[str | os.PathLike]) -> list[Path]:
  """These files; for a folder its images, as for training, sorted by path. Raises UserError if there are none."""
  files = []
  for path in (Path(os.path.expanduser(path)) for path in paths):
    files += sorted(image_files(path)) if path.is_dir() else [path]
  if not files:
    where = ' '.join(map(str, paths)) or 'an empty list'
    raise UserError(f'no image in {where}; expected files that end in {" ".join(sorted(SUFFIXES))}.')
  return files


def lines(file: Path) -> list[str]:
  """The lines of a text file that are not empty. Raises UserError if it cannot be read."""
  try:
    return [line for line in file.read_text().splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'not a text file'
    raise UserError(f'{file} cannot be read ({reason}). Put the data set there as it was.') from None


def natural(name: str) -> list[tuple[int, int | str]]:
  """A key that sorts 2.png before 10.png."""
  return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r'(\d+)', name) if part]
