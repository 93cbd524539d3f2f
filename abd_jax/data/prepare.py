"""Finds a data set on disk, or prepares it there with our builder of its name; without TensorFlow."""

import contextlib
import fcntl
import importlib
import io
import os
import pkgutil
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from abd_jax.data import builders
from abd_jax.data.in_order import kept_in_order
from abd_jax.data.options import Options
from abd_jax.errors import UserError, nearest

_JUST_BEGUN = 60.0  # seconds in which a copy that another process begins may not be locked yet
_ABANDONED = 86400.0  # seconds without a change after which one of another host is: its lock may not be seen here


def find(folder: Path) -> Path | None:
  """The newest prepared version under `folder`."""
  versions = [path.parent for path in folder.glob('*/dataset_info.json')]
  versions = [path for path in versions if _is_version(path)]
  return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))), default=None)


def _is_version(folder: Path) -> bool:
  return re.fullmatch(r'\d+\.\d+\.\d+', folder.name) is not None


def _builder_names() -> list[str]:
  names = [module.name for module in pkgutil.iter_modules(builders.__path__)]
  return [name for name in names if not name.startswith('_')]


def builder_class(name: str) -> Any | None:
  """Our builder of that name, if there is one."""
  if name not in _builder_names():
    return None
  return importlib.import_module(f'{builders.__name__}.{name}').Builder


def _takes_files(builder: Any) -> bool:
  """Whether it is a builder of files in folders, as those of builders/_files.py are."""
  return hasattr(builder, 'files')


class Place(NamedTuple):
  """Where to look for a data set, and where to prepare it.

  Attributes:
    folder: what the user named: prepared data sets, or the files to prepare one from.
    prepared: where copies are written.
    download: whether what is in neither may be fetched from the network.
    prepare: whether a copy may be written.
  """

  folder: Path
  prepared: Path
  download: bool
  prepare: bool = True


def find_or_prepare(name: str, place: Place, options: Options) -> Path:
  """The folder of a prepared copy of data set `name`.

  Raises:
    UserError: no builder of that name, nowhere to write, the original is not to be had, or it is not as it should be.
  """
  _remove_abandoned(place.prepared, name)
  builder: Any = builder_class(name)
  key = builder.key(place.folder, options) if _takes_files(builder) else name
  here = (place.folder / key, place.prepared / key)
  if found := find(here[0]) or find(here[1]):
    if _takes_files(builder):
      builder.check_copy(found, place.folder, place.prepared / 'downloads', options)
    return found
  for folder in here:
    parts = [path for path in folder.glob('*') if _is_version(path)]
    if parts and not find(folder):  # which another process may have completed just now
      raise UserError(
        f'{parts[0]} lacks dataset_info.json: it was copied in part. Copy it anew, or delete that folder.'
      )
  if not place.prepare:
    raise UserError(
      f"there is no prepared copy of '{name}' in {' or '.join(map(str, dict.fromkeys(here)))}, and none is made to "
      'look back. Name the folder that has one.'
    )
  return find(here[0]) or find(here[1]) or prepare(name, key, place, options)


def prepare(name: str, key: str, place: Place, options: Options) -> Path:
  """Writes data set `name` as place.prepared / key and returns its folder.

  It grows in a folder of its own and is renamed when complete, so a killed run leaves nothing half-done, and
  of two processes that prepare at the same moment one wins and both read its copy. Raises UserError.
  """
  root = place.prepared
  make_builder = builder_class(name)
  if make_builder is None:
    prepared = [path.name for path in root.glob('*') if find(path)]
    hint = nearest(name, {*prepared, *_builder_names()})
    raise UserError(f'no data set {name!r} under {root} and no builder of that name.{hint}')
  more, field = {}, 'data_dir'
  if _takes_files(make_builder):
    field = '--config.data.prepared'
    files = make_builder.find(place.folder, root / 'downloads', place.download, options)
    more = {'files': files, 'options': options}
  try:
    (root / key).mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=_prefix(name), dir=root))
    lock = os.open(scratch / '.lock', os.O_CREAT | os.O_WRONLY)
  except OSError as error:
    raise UserError(f'cannot write to {root}: {error.strerror}; choose another {field}.') from None
  with contextlib.suppress(OSError):  # on a file system that locks no files: what it leaves stays, too
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  logging.info('Preparing %s under %s', name, root)
  try:
    builder = make_builder(data_dir=scratch, **more)
    folder = root / key / str(builder.version)
    _build(builder, place, field)
    _rename(builder.data_path, folder)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
    os.close(lock)
  _check_prepared(folder, getattr(builder, 'expected', {}))
  if _takes_files(make_builder):
    builder.tell()
  return folder


def _prefix(name: str) -> str:
  return f'incomplete.{name}.{socket.gethostname()}.'


def _remove_abandoned(root: Path, name: str) -> None:
  """Removes what killed processes have left of their copies."""
  for folder in root.glob(f'incomplete.{name}.*'):
    patience = _JUST_BEGUN if folder.name.startswith(_prefix(name)) else _ABANDONED
    with contextlib.suppress(OSError):  # in use, or another process removes it
      if time.time() - max(path.stat().st_mtime for path in (folder, *folder.rglob('*'))) > patience:
        with open(folder / '.lock', 'w') as lock:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
          shutil.rmtree(folder, ignore_errors=True)


def _build(builder: Any, place: Place, field: str) -> None:
  """Writes all records. Raises UserError where the disk does not let it."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  builder.download = place.download  # Read by those of ours that download.
  order = kept_in_order() if builder.info.disable_shuffling else contextlib.nullcontext()
  try:
    with order, contextlib.redirect_stdout(io.StringIO()):  # tfds prints, and would name the scratch folder.
      builder.download_and_prepare(download_dir=place.prepared / 'downloads', file_format='array_record')
  except (OSError, RuntimeError) as error:  # array_record's writer raises the latter
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:120]
    raise UserError(
      f'{builder.name} cannot be prepared under {place.prepared} ({reason}). Nothing of it was kept; make room there, '
      f'or choose another {field}.'
    ) from None


def _rename(made: Any, folder: Path) -> None:
  try:
    os.rename(made, folder)
  except OSError:
    if not folder.exists():  # Otherwise another process was faster.
      raise


def _check_prepared(folder: Path, expected: dict[str, int]) -> None:
  import tensorflow_datasets as tfds

  prepared = tfds.builder_from_directory(folder)
  for split, info in prepared.info.splits.items():
    check_count(prepared, split)
    if info.num_examples != expected.get(split, info.num_examples):
      shutil.rmtree(folder)
      raise UserError(f'{folder} got {info.num_examples} {split} images of {expected[split]}. Run again.')


def check_count(builder: Any, split: str) -> None:
  """Compares what the files hold with what their description, and our builder of that name, say."""
  from array_record.python import array_record_data_source

  info = builder.info.splits[split]
  own = builder_class(builder.name)
  expected = (own.COUNTS if own else {}).get(split, info.num_examples)
  try:
    found = len(array_record_data_source.ArrayRecordDataSource([os.fspath(path) for path in info.filepaths]))
  except Exception:  # array_record raises whatever its C++ reader says of a damaged or missing file.
    found = 0
  if not found == expected == info.num_examples:
    raise UserError(
      f'{builder.data_path} is incomplete: {found} readable {split} images instead of {expected}; '
      'delete that folder and run again.'
    )
