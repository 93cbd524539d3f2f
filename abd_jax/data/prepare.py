"""Finds a data set on disk, or prepares it there with our builder of its name; without TensorFlow."""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from absl import logging

from abd_jax.data import builders
from abd_jax.errors import UserError, nearest


def find(folder: Path) -> Path | None:
  """The newest prepared version under `folder`."""
  versions = [path.parent for path in folder.glob('*/dataset_info.json')]
  versions = [path for path in versions if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]
  return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))), default=None)


def _builder_names() -> list[str]:
  return [module.name for module in pkgutil.iter_modules(builders.__path__)]


def builder_class(name: str) -> Any | None:
  """Our builder of that name, if there is one."""
  if name not in _builder_names():
    return None
  return importlib.import_module(f'{builders.__name__}.{name}').Builder


def prepare(name: str, root: Path, download: bool = True) -> Path:
  """Writes data set `name` under `root` and returns its folder; without `download`, never touches the network.

  It grows in a folder of its own and is renamed when complete, so a killed run leaves nothing half-done, and
  of two processes that prepare at the same moment one wins and both read its copy.

  Raises:
    UserError: no builder of that name, `root` is not writable, the original is not to be had, or fewer images
      arrived than there should be.
  """
  make_builder = builder_class(name)
  if make_builder is None:
    prepared = [path.name for path in root.glob('*') if find(path)]
    hint = nearest(name, {*prepared, *_builder_names()})
    raise UserError(f'no data set {name!r} under {root} and no builder of that name.{hint}')
  import tensorflow_datasets as tfds

  try:
    (root / name).mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'incomplete.{name}.', dir=root))
  except OSError as error:
    raise UserError(f'cannot write to data_dir {root}: {error.strerror}; choose another data_dir.') from None
  logging.info('Preparing %s under %s', name, root)
  tfds.disable_progress_bar()
  try:
    builder = make_builder(data_dir=scratch)
    builder.download = download  # Read by those of ours that download.
    with contextlib.redirect_stdout(io.StringIO()):  # tfds prints, and would name the scratch folder.
      builder.download_and_prepare(download_dir=root / 'downloads', file_format='array_record')
    folder = root / name / str(builder.version)
    try:
      os.rename(builder.data_path, folder)
    except OSError:
      if not folder.exists():  # Otherwise another process was faster.
        raise
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  prepared = tfds.builder_from_directory(folder)
  for split in prepared.info.splits:
    check_count(prepared, split)
  return folder


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
