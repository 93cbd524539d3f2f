"""What stands beside a frozen model: all that is needed to use it without its data set, and a checksum of each file."""

import json
from pathlib import Path
from typing import Any

from abd_jax import __version__
from abd_jax.errors import UserError
from abd_jax.run.files import read_json, write_atomically
from abd_jax.run.integrity import checksum_of_file, is_intact, sealed
from abd_jax.run.schema import misfit
from abd_jax.run.workdir import FREE_FIELDS

SCHEMA = 1
_FORM = {
  'task': int, 'class_order': {'names': [str], 'original_ids': [int]}, 'task_sizes': [int], 'image_shape': [int],
  'config': {}, 'files': {},
}  # fmt: skip


def manifest_file(folder: Path) -> Path:
  """teachers/<name>.json of teachers/<name>/."""
  return folder.with_name(folder.name + '.json')


def checksums(folder: Path) -> dict[str, str]:
  """Path below `folder` -> checksum of the file, for every file."""
  files = sorted(file for file in folder.rglob('*') if file.is_file())
  return {file.relative_to(folder).as_posix(): checksum_of_file(file) for file in files}


def describe(
  config: dict[str, Any], task: int, class_order: dict, task_sizes: list[int], image_shape: list[int]
) -> dict:
  """A manifest but for its checksums. config: the run's, as a dict; class_order: that of results.json."""
  return {
    'schema_version': SCHEMA,
    'abd_jax': __version__,
    'task': task,
    'class_order': class_order,
    'task_sizes': task_sizes,
    'image_shape': image_shape,
    # The method, the networks and the normalisation.
    'config': _without(config, FREE_FIELDS),
  }


def _without(config: dict[str, Any], fields: tuple[str, ...], prefix: str = '') -> dict[str, Any]:
  return {
    key: _without(value, fields, f'{prefix}{key}.') if isinstance(value, dict) else value
    for key, value in config.items()
    if prefix + key not in fields
  }


def write_manifest(folder: Path, description: dict) -> None:
  """Writes the manifest of a complete `folder`."""
  write_atomically(
    manifest_file(folder), json.dumps(sealed(description | {'files': checksums(folder)}), indent=1) + '\n'
  )


def read_manifest(folder: Path, check_files: bool = True) -> dict:
  """The manifest of `folder`, whose files are as it says. Raises UserError if there is none, or they are not.

  check_files: whether they are looked at.
  """
  file = manifest_file(folder)
  if not file.exists():
    raise UserError(
      f'{folder} has no manifest {file.name} beside it: it was written by an earlier version of abd_jax, or is '
      'incomplete. Put it back as it was, or choose another --workdir.'
    )
  manifest = read_json(file)
  if manifest.get('schema_version') != SCHEMA:
    raise UserError(
      f'{file} is of schema {manifest.get("schema_version")}, this version of abd_jax reads {SCHEMA}. Use the version '
      'that wrote it.'
    )
  wrong = misfit(manifest, _FORM)
  if wrong or not is_intact(manifest) or len(manifest['image_shape']) != 3:
    raise UserError(f'{file} is damaged{wrong and f" ({wrong})"}: put it back as it was, or choose another --workdir.')
  sizes, ids = manifest['task_sizes'], manifest['class_order']['original_ids']
  in_order = sorted(ids) == list(range(len(manifest['class_order']['names'])))
  if not (0 <= manifest['task'] < len(sizes) and min(sizes) > 0 and sum(sizes) <= len(ids) and in_order):
    raise UserError(f'{file} is damaged (its tasks and classes do not agree): put it back as it was.')
  if not check_files:
    return manifest
  there = checksums(folder)
  expected = manifest.get('files', {})
  for name in sorted(expected.keys() | there.keys()):
    if expected.get(name) != there.get(name):
      what = 'is missing' if name not in there else 'is damaged' if name in expected else 'does not belong there'
      raise UserError(f'checkpoint {folder} cannot be read ({name} {what}). Put it back as it was, or choose another '
                      '--workdir.')  # fmt: skip
  return manifest
