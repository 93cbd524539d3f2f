"""Finds the prepared copy of a data set, or has our builder of its name write one; without TensorFlow."""

import contextlib
import fcntl
import importlib
import io
import os
import pkgutil
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from abd_jax.data import builders
from abd_jax.data.images import Reading, View
from abd_jax.errors import UserError, nearest, reason

_JUST_BEGUN = 60.0  # seconds in which another process may not have locked the copy that it begins


class Options(NamedTuple):
  """How images are stored and cropped: the fields of config.data of these names."""

  size: int = 0
  channels: int = 0
  layout: str = ''
  crop: str = 'padded'
  test_fraction: float = 0.2
  split_seed: int = 0
  damaged: str = 'refuse'
  value_range: tuple[float, ...] = ()


class Place(NamedTuple):
  """Where to look for a data set, and where to prepare it."""

  folder: Path  # of prepared data sets, or of the files to prepare one from
  prepared: Path  # where copies are written
  download: bool  # whether the network may be used for what is in neither
  prepare: bool = True  # whether a copy may be written

  @property
  def downloads(self) -> Path:
    """Where archives lie."""
    return self.prepared / 'downloads'


def find(folder: Path) -> Path | None:
  """The newest prepared version under `folder`."""
  versions = [path for path in _versions(folder) if (path / 'dataset_info.json').exists()]
  return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))), default=None)


def _versions(folder: Path) -> list[Path]:
  return [path for path in folder.glob('*') if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]


def _builder_names() -> set[str]:
  return {module.name for module in pkgutil.iter_modules(builders.__path__) if not module.name.startswith('_')}


def builder_class(name: str) -> Any | None:
  """Our builder of that name, or None."""
  return importlib.import_module(f'{builders.__name__}.{name}').Builder if name in _builder_names() else None


def reading(data: Any, shape: tuple[int, int, int], value_range: tuple[float, ...] = ()) -> Reading:
  """How files are read for a model of a run. data: its config.data. shape: (h, w, c). value_range: the data set's."""
  builder: Any = builder_class(data.name)
  of_files = hasattr(builder, 'find')
  height, width = (builder.stored_size(shape[:2], data.crop) if of_files else None) or (None, None)
  view = View((height, width, shape[2]), shape, data.crop)
  return Reading(view, data.max_value, of_files, value_range)


def find_or_prepare(name: str, place: Place, options: Options) -> Path:
  """The folder of a prepared copy of data set `name`.

  Raises UserError for no builder of that name, nowhere to write, or an original that is missing or damaged.
  """
  _remove_abandoned(place.prepared, name)
  builder: Any = builder_class(name)
  of_files = hasattr(builder, 'find')
  key = builder.key(place.folder, options) if of_files else name
  folders = tuple(dict.fromkeys((place.folder / key, place.prepared / key)))
  for folder in folders:
    versions = _versions(folder)  # before `find`: another process may complete one meanwhile
    if found := find(folder):
      if of_files and key == name:  # any other key depends on the files and the options
        builder.check_copy(found, place, options)
      return found
    if versions:
      raise UserError(f'{versions[0]} lacks dataset_info.json: it was copied in part. Copy it anew, or delete it.')
  if not place.prepare:
    where = ' or '.join(map(str, folders))
    raise UserError(f"expected a prepared copy of '{name}' in {where}, got none; name the folder that has one.")
  if builder is None:
    there = {path.name for path in place.prepared.glob('*') if find(path)}
    hint = nearest(name, there | _builder_names())
    raise UserError(f'no data set {name!r} under {place.prepared} and no builder of that name.{hint}')
  more = {'files': builder.find(place, options), 'options': options} if of_files else {}
  return _prepare(name, place, key, lambda folder: builder(data_dir=folder, **more))


def _prepare(name: str, place: Place, key: str, make_builder: Any) -> Path:
  """Writes data set `name` as place.prepared / key and returns its folder. Raises UserError.

  The copy grows in a folder of its own and is renamed when it is complete, so a killed run leaves no partial copy, and
  of two processes that prepare at the same moment one wins and both read its copy.
  """
  root = place.prepared
  try:
    (root / key).mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'incomplete.{name}.', dir=root))
    lock = os.open(scratch / '.lock', os.O_CREAT | os.O_WRONLY)
  except OSError as error:
    raise UserError(f'cannot write to {root}: {error.strerror}; choose another --config.data.prepared.') from None
  with contextlib.suppress(OSError):  # a file system without locks
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  logging.info('Preparing %s under %s', name, root)
  try:
    builder = make_builder(scratch)
    builder.download = place.download
    _build(builder, place)
    folder = root / key / str(builder.version)
    try:
      os.rename(builder.data_path, folder)
    except OSError:
      if not folder.exists():  # otherwise another process was faster
        raise
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
    os.close(lock)
  if hasattr(builder, 'print_summary'):
    builder.print_summary()
  return folder


def _remove_abandoned(root: Path, name: str) -> None:
  """Removes what killed processes left of their copies: nobody holds their locks."""
  for folder in root.glob(f'incomplete.{name}.*'):
    with contextlib.suppress(OSError):  # in use, or another process removes it
      if time.time() - folder.stat().st_mtime > _JUST_BEGUN:
        with open(folder / '.lock', 'w') as lock:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
          shutil.rmtree(folder, ignore_errors=True)


def _build(builder: Any, place: Place) -> None:
  """Writes all records and counts them. Raises UserError if the disk refuses, or records are missing."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # tfds prints, and would name the scratch folder
      builder.download_and_prepare(download_dir=place.downloads, file_format='array_record')
  except (OSError, RuntimeError) as error:  # array_record's writer raises the latter
    why = getattr(error, 'strerror', None) or reason(error, 120)
    raise UserError(
      f'{builder.name} cannot be prepared under {place.prepared} ({why}). No part of it was kept; make room there, '
      'or choose another --config.data.prepared.'
    ) from None
  for split in builder.info.splits:
    check_count(builder, split)


def check_count(builder: Any, split: str) -> None:
  """Raises UserError unless the files hold what their description, and our builder of that name, say."""
  from array_record.python import array_record_data_source

  described, own = builder.info.splits[split], builder_class(builder.name)
  expected = getattr(builder, 'expected', own.COUNTS if own else {}).get(split, described.num_examples)
  try:
    paths = [os.fspath(path) for path in described.filepaths]
    found = len(array_record_data_source.ArrayRecordDataSource(paths))
  except Exception:  # array_record raises whatever its C++ reader says of a damaged or missing file
    found = 0
  if not found == expected == described.num_examples:
    raise UserError(
      f"the copy of '{builder.name}' in {builder.data_path} is incomplete: expected {expected} {split} images, got "
      f'{found}. Delete it, and run again.'
    )
