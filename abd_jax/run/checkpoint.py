"""Checkpoints of a run, and its frozen models with their manifests. The only file that imports orbax."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from abd_jax import __version__
from abd_jax.data import memory as memory_lib
from abd_jax.devices import hosts
from abd_jax.errors import UserError
from abd_jax.files import checksum_of_arrays, checksum_of_file, is_intact, read_json, sealed, write_atomically
from abd_jax.run.progress import Progress, progress_from
from abd_jax.run.workdir import FREE_FIELDS
from abd_jax.state import TaskSnapshot, freeze

SCHEMA = 1


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
    raise UserError(f'{folder} has no manifest {file.name} beside it. Put it back, or choose another --workdir.')
  manifest = read_json(file)
  if manifest.get('schema_version') != SCHEMA:
    raise UserError(
      f'{file} is of schema {manifest.get("schema_version")}, this version of abd_jax reads {SCHEMA}. Use the version '
      'that wrote it.'
    )
  if not is_intact(manifest):
    raise UserError(f'{file} is damaged: put it back as it was, or choose another --workdir.')
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


PyTree = Any
KINDS = ('student', 'generator')


class Checkpoints:
  """`checkpoints/<kind>/<number>/` under a work directory, for the one process that trains there.

  Merely to make one removes what looks like a save that was cut off: nobody else may, who reads while a run goes on.

  Each trained state is written only in the phases that change it (a generator with its Adam state is 100 MB), and
  always together with the run's progress: a dict of plain Python values whose 'saves' gives the number of each kind's
  newest save. Numbers count over both kinds, so the highest one says where the run stands.
  """

  def __init__(self, workdir: Path):
    root = workdir.absolute() / 'checkpoints'
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    self._managers = {
      kind: ocp.CheckpointManager(root / kind, options=options, item_names=('state', 'progress')) for kind in KINDS
    }

  def save(self, kind: str, state: PyTree, progress: dict) -> None:
    """Starts writing `state` as number progress['saves'][kind]; ends in the background, and is atomic."""
    self.wait()  # a save of the other kind must not come to disk after this one
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(sealed(progress)))
    self._managers[kind].save(progress['saves'][kind], args=items)

  def restore(self, abstract: dict[str, PyTree]) -> tuple[dict[str, PyTree], Progress | None]:
    """(newest state of each kind that has one, newest progress or None).

    abstract: shapes, dtypes and shardings per kind. Raises UserError if a checkpoint cannot be read.
    """
    newest = {kind: manager.latest_step() for kind, manager in self._managers.items()}
    newest = {kind: number for kind, number in newest.items() if number is not None}
    if not newest:
      return {}, None
    last = max(newest, key=lambda kind: newest[kind])
    folder = self._managers[last].directory / str(newest[last])
    saved = self._restore(last, newest[last], 'progress', ocp.args.JsonRestore())
    if not is_intact(saved):
      raise self._damaged(last, newest[last], 'its progress is not as it was saved')
    del saved['checksum']
    progress, states = progress_from(saved, f'checkpoint {folder}'), {}
    for kind, number in progress.saves.items():
      if kind not in abstract:
        raise self._damaged(last, newest[last], f"it tells of '{kind}'")
      args = ocp.args.StandardRestore(abstract[kind])
      states[kind] = self._restore(kind, number, 'state', args, abstract[kind])
      if checksum_of_arrays(states[kind]) != progress.checksums.get(kind):
        raise self._damaged(kind, number, 'its arrays are not as they were saved')
    return states, progress

  def _restore(self, kind: str, number: int, item: str, args: Any, abstract: PyTree = None) -> Any:
    path = Path(self._managers[kind].directory) / str(number)
    restore = lambda: self._managers[kind].restore(number, args=ocp.args.Composite(**{item: args}))[item]
    return _read(path, restore, self._remedy(number), path / item, abstract)

  def _remedy(self, number: int) -> str:
    is_last = all(number >= (manager.latest_step() or 0) for manager in self._managers.values())
    return 'Delete that folder to resume from the save before it' if is_last else 'Put it back as it was'

  def _damaged(self, kind: str, number: int, what: str) -> UserError:
    path = Path(self._managers[kind].directory) / str(number)
    return UserError(f'checkpoint {path} cannot be read ({what}). {self._remedy(number)}, or choose another --workdir.')

  def wait(self) -> None:
    """Returns once every save is on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()


class TeacherStore:
  """`teachers/<name>/` under a work directory: frozen models. Reading them changes nothing there."""

  def __init__(self, workdir: Path, alone: bool = False):
    """alone: of several hosts this one reads for itself, and waits for no other."""
    self._folder = workdir.absolute() / 'teachers'
    options, me = ocp.options.MultiprocessingOptions(), jax.process_index()
    if alone:
      options = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    self._checkpointer = ocp.StandardCheckpointer(multiprocessing_options=options)

  def save(self, name: str, snapshot: PyTree, description: dict) -> None:
    """Writes teachers/<name>/ and its manifest, and waits for both; one of that name stays until they are complete."""
    target, fresh = self._folder / name, self._folder / f'{name}.new'
    self._checkpointer.save(fresh, snapshot, force=True)
    self._checkpointer.wait_until_finished()
    if hosts.is_main():
      shutil.rmtree(target, ignore_errors=True)
      fresh.rename(target)
      write_manifest(target, description)
    hosts.barrier(f'teacher {name}')

  def exists(self, name: str) -> bool:
    """Whether teachers/<name>/ is there, in whatever state."""
    return (self._folder / name).exists() or manifest_file(self._folder / name).exists()

  def verify(self, name: str) -> None:
    """Raises UserError if teachers/<name>/ is not as its manifest says."""
    path = self._folder / name
    if not path.exists():
      raise UserError(f'checkpoint {path} is missing. Put it back as it was, or choose another --workdir.')
    read_manifest(path)

  def load(self, name: str, abstract: PyTree) -> PyTree:
    """What stands in teachers/<name>/, verified before. Raises UserError if it cannot be read."""
    path = self._folder / name
    restore = lambda: self._checkpointer.restore(path, abstract)
    return _read(path, restore, 'Put it back as it was', path, abstract)

  def close(self) -> None:
    self._checkpointer.close()


def _read(path: Path, restore: Callable[[], Any], remedy: str, arrays: Path, abstract: PyTree) -> Any:
  """restore(), or a UserError that tells a damaged folder from a sound one of other arrays."""
  if abstract is not None and (difference := _difference(arrays, abstract)):
    raise UserError(
      f'checkpoint {path} is sound, but not of these networks or these data: {difference}. Choose another '
      '--workdir, or the config, data and version it was written with.'
    )
  try:
    return restore()
  except Exception as error:  # orbax and tensorstore raise many kinds for a damaged folder
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    raise UserError(f'checkpoint {path} cannot be read ({reason}). {remedy}, or choose another --workdir.') from error


def stored_arrays(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Dotted name -> shape and type of each array in `folder`, from orbax's metadata. Raises UserError on damage."""
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      metadata: Any = checkpointer.metadata(folder).item_metadata
    arrays = named_leaves(metadata.tree)
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
  except Exception as error:  # orbax raises many kinds; a missing index gives it no metadata
    raise UserError(f'cannot read the arrays in {folder}. Put the folder back as it was, or delete it.') from error


def _difference(folder: Path, abstract: PyTree) -> str:
  """The first array whose shape is another on disk than in `abstract`; '' if there is none, or nothing to read."""
  try:
    there = _shapes(stored_arrays(folder))
  except UserError:  # damaged: reading it will say so
    return ''
  here = _shapes(named_leaves(abstract))
  for name in sorted(there.keys() | here.keys(), reverse=True):  # parameters before statistics
    if there.get(name) != here.get(name):
      return f'{name} is {_words(there.get(name))} there and {_words(here.get(name))} here'
  return ''


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """Dotted path -> leaf, by the names that a checkpoint gives them."""
  word = lambda key: str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key))))
  return {'.'.join(map(word, path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _shapes(arrays: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  return {name: tuple(array.shape) for name, array in arrays.items()}


def _words(shape: tuple[int, ...] | None) -> str:
  return 'absent' if shape is None else f'[{", ".join(map(str, shape))}]'


def abstract_like(init, sharding) -> PyTree:
  """Shapes and dtypes of what `init()` would return, each placed by `sharding`."""
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return jax.tree.map(place, jax.eval_shape(init))


def abstract_snapshot(abstract: dict[str, PyTree], dreamed: bool, memory_size: int, image_shape, sharding):
  """A TaskSnapshot of shapes; abstract: those of 'student' and 'generator'. dreamed: whether it holds a generator."""
  memory = {}
  if memory_size:
    nothing = memory_lib.pad(memory_lib.empty(image_shape), memory_size)
    memory = abstract_like(lambda: nothing, sharding)
  return TaskSnapshot(freeze(abstract['student'], abstract['generator'] if dreamed else None), memory)
