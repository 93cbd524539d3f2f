"""Finds the prepared copy of a data set, or has our builder of its name write one; without TensorFlow."""

import fcntl
import hashlib
import importlib
import io
import os
import pkgutil
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from abd_jax.data import builders
from abd_jax.data.images import Reading, View
from abd_jax.errors import UserError, nearest, reason

_INCOMPLETE = 'incomplete.'  # begins the name of what is being written
_TIMEOUT = 30.0  # seconds without an answer of a server


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
  """The newest prepared version in `folder`."""
  versions = [path for path in folder.glob('*') if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]
  return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))), default=None)


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
  builder: Any = builder_class(name)
  of_files = hasattr(builder, 'find')
  key = builder.key(place.folder, options) if of_files else name
  folders = tuple(dict.fromkeys((place.folder / key, place.prepared / key)))
  if found := next(filter(None, map(find, folders)), None):
    if of_files and key == name:  # any other key depends on the files and the options
      builder.check_copy(found, place, options)
    return found
  if not place.prepare:
    where = ' or '.join(map(str, folders))
    raise UserError(f"expected a prepared copy of '{name}' in {where}, got none; name the folder that has one.")
  if builder is None:
    there = {path.name for path in place.prepared.glob('*') if find(path)}
    hint = nearest(name, there | _builder_names())
    raise UserError(f'no data set {name!r} under {place.prepared} and no builder of that name.{hint}')
  try:
    more = {'files': builder.find(place, options), 'options': options} if of_files else {}
    return _prepare(name, place, place.prepared / key / str(builder.VERSION), partial(builder, **more))
  except (OSError, RuntimeError) as error:  # array_record's writer raises the latter
    why = getattr(error, 'strerror', None) or reason(error, 120)
    raise UserError(
      f'{name} cannot be prepared under {place.prepared} ({why}). No part of it was kept; make room there, or choose '
      'another --config.data.prepared.'
    ) from None


def _prepare(name: str, place: Place, folder: Path, make_builder: Callable[..., Any]) -> Path:
  """Writes data set `name` to `folder` and returns `folder`. A second process waits, then reads that copy."""
  import tensorflow_datasets as tfds

  folder.parent.mkdir(parents=True, exist_ok=True)
  with open(place.prepared / f'.{name}.lock', 'w') as lock:
    with suppress(OSError):  # a file system without locks
      fcntl.flock(lock, fcntl.LOCK_EX)
      for left in place.prepared.glob(f'{_INCOMPLETE}{name}.*'):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists():
      return folder
    logging.info('Preparing %s under %s', name, place.prepared)
    tfds.disable_progress_bar()
    with arriving(folder, place.prepared, f'{name}.') as scratch:
      builder = make_builder(data_dir=scratch.parent)
      builder.download = place.download
      with redirect_stdout(io.StringIO()):  # tfds prints, and would name the scratch folder
        builder.download_and_prepare(download_dir=place.downloads, file_format='array_record')
      os.rename(builder.data_path, scratch)
  if hasattr(builder, 'print_summary'):
    builder.print_summary()
  return folder


@contextmanager
def arriving(path: Path, root: Path | None = None, name: str = '') -> Iterator[Path]:
  """A path that the block writes to, a file or a folder, which then becomes `path`, unless another process was faster.

  So a process that is killed leaves no partial `path`. root: where the new one grows, on the same disk; by default
  beside `path`. name: begins the name of that place.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory('', _INCOMPLETE + name, root or path.parent, ignore_cleanup_errors=True) as scratch:
    yield Path(scratch, path.name)
    try:
      os.rename(Path(scratch, path.name), path)
    except OSError:
      if not path.exists():
        raise


def fetch(url: str, md5: str, folder: Path, download: bool) -> Path:
  """The archive of `url` in `folder`, downloaded unless it is there; its checksum is right.

  Raises:
    UserError: it is not there and cannot or, without `download`, may not be downloaded; or its checksum is wrong.
  """
  path = folder / url.rpartition('/')[-1]
  if not path.exists():
    if not download:
      raise UserError(f'{path} is missing and may not be downloaded here; get it from {url} and place it there.')
    logging.info('Downloading %s', url)
    try:  # not by tfds, which without a network retries for minutes
      with arriving(path) as part, urllib.request.urlopen(url, timeout=_TIMEOUT) as response, part.open('wb') as file:
        shutil.copyfileobj(response, file)
    except (OSError, HTTPException) as error:
      why = getattr(error, 'reason', None) or error
      raise UserError(f'cannot download {url} ({why}); place that file at {path} by hand.') from None
  with path.open('rb') as file:
    actual = hashlib.file_digest(file, 'md5').hexdigest()
  if actual != md5:
    raise UserError(f'{path} is damaged: expected MD5 {md5}, got {actual}. Delete it, and run again.')
  return path


def check_count(builder: Any, split: str) -> None:
  """Raises UserError unless the files hold what their description, and our builder of that name, say."""
  from array_record.python import array_record_data_source

  described, own = builder.info.splits[split], builder_class(builder.name)
  expected = getattr(own, 'COUNTS', {}).get(split, described.num_examples)
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
