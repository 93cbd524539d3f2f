"""Checkpoints of a run, and its frozen models with their manifests. The only file that imports orbax."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict

from abd_jax.devices import hosts
from abd_jax.errors import Damaged, reason
from abd_jax.files import checksum_of_arrays, checksum_of_file, is_intact, read_sealed, sealed, write_sealed
from abd_jax.run.progress import Progress, progress_from
from abd_jax.state import FrozenModel, TaskSnapshot

SCHEMA = 1


@contextmanager
def without_name(folder: Path) -> Iterator[Path]:
  """A path of `folder` that does not contain its name, for orbax.

  Orbax takes names with [, * or ? for patterns, a backslash for a slash, and /s3/, /gs/ or /hf/ for the network.
  """
  number = os.open(folder, os.O_RDONLY)
  try:
    path = Path(f'/proc/self/fd/{number}')
    yield path if path.exists() else folder  # only Linux has such paths
  finally:
    os.close(number)


def manifest_file(folder: Path) -> Path:
  """The manifest teachers/<name>.json of the folder teachers/<name>/."""
  return folder.with_name(folder.name + '.json')


def checksums(folder: Path) -> dict[str, str]:
  """Path below `folder` -> checksum of each file."""
  files = sorted(file for file in folder.rglob('*') if file.is_file())
  return {file.relative_to(folder).as_posix(): checksum_of_file(file) for file in files}


def read_manifest(folder: Path, check_files: bool = True) -> dict:
  """The manifest of `folder`. Raises Damaged if it is missing or damaged, or if the files differ from it.

  check_files: whether to compare the files.
  """
  file = manifest_file(folder)
  if not file.exists():
    raise Damaged(f'{folder} has no manifest {file.name} beside it. Put it back, or choose another --workdir.')
  manifest = read_sealed(file, SCHEMA)
  if not check_files:
    return manifest
  there = checksums(folder)
  expected = manifest.get('files', {})
  for name in sorted(expected.keys() | there.keys()):
    if expected.get(name) != there.get(name):
      what = 'is missing' if name not in there else 'is damaged' if name in expected else 'does not belong there'
      raise _unreadable(folder, f'{name} {what}')
  return manifest


PyTree = Any
KINDS = ('student', 'generator')


class Checkpoints:
  """`checkpoints/<kind>/<number>/` in a workdir, for the one process that trains there.

  The constructor removes saves that were cut off, so only the training process may call it.

  A state is saved only in the phases that change it (a generator with its Adam state is 100 MB), always together with
  the run's progress: a dict of plain Python values whose 'saves' has the number of each kind's newest save. Both kinds
  are numbered together, so the highest number says where the run stands.
  """

  def __init__(self, workdir: Path):
    self._root, self._stack = workdir.absolute() / 'checkpoints', ExitStack()
    root = self._stack.enter_context(without_name(workdir)) / 'checkpoints'
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    self._managers = {
      kind: ocp.CheckpointManager(root / kind, options=options, item_names=('state', 'progress')) for kind in KINDS
    }

  def save(self, kind: str, state: PyTree, progress: dict) -> None:
    """Starts to write `state` as number progress['saves'][kind]. Ends in the background, and is atomic."""
    self.wait()  # so that no earlier save of the other kind ends after this one
    arrays = ocp.args.StandardSave(to_state_dict(state))
    items = ocp.args.Composite(state=arrays, progress=ocp.args.JsonSave(sealed(progress)))
    self._managers[kind].save(progress['saves'][kind], args=items)

  def restore(self, abstract: Callable[[str], PyTree]) -> tuple[dict[str, PyTree], Progress | None]:
    """(newest state of each kind that was saved, newest progress or None).

    abstract: a kind -> shapes, dtypes and shardings of its state. Raises Damaged if a checkpoint cannot be read.
    """
    newest = {kind: manager.latest_step() for kind, manager in self._managers.items()}
    newest = {kind: number for kind, number in newest.items() if number is not None}
    if not newest:
      return {}, None
    last = max(newest, key=lambda kind: newest[kind])
    folder = self._root / last / str(newest[last])
    saved = self._restore(last, newest[last], 'progress', ocp.args.JsonRestore())
    if not is_intact(saved):
      raise self._damaged(last, newest[last], 'its progress has changed since it was saved')
    del saved['checksum']
    progress, states = progress_from(saved, f'checkpoint {folder}'), {}
    for kind, number in progress.saves.items():
      like = abstract(kind)
      stored = self._restore(kind, number, 'state', ocp.args.StandardRestore(to_state_dict(like)))
      states[kind] = from_state_dict(like, stored)
      if checksum_of_arrays(states[kind]) != progress.checksums.get(kind):
        raise self._damaged(kind, number, 'its arrays have changed since they were saved')
    return states, progress

  def _restore(self, kind: str, number: int, item: str, args: Any) -> Any:
    try:
      return self._managers[kind].restore(number, args=ocp.args.Composite(**{item: args}))[item]
    except Exception as error:  # orbax and tensorstore raise many kinds of errors for a damaged folder
      raise self._damaged(kind, number, _reason(error)) from error

  def _damaged(self, kind: str, number: int, what: str) -> Damaged:
    is_last = all(number >= (manager.latest_step() or 0) for manager in self._managers.values())
    remedy = {'remedy': 'Delete that folder to resume from the save before it'} if is_last else {}
    return _unreadable(self._root / kind / str(number), what, **remedy)

  def wait(self) -> None:
    """Returns once every save is on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
    self._stack.close()


def write_model(folder: Path, snapshot: TaskSnapshot, description: dict) -> None:
  """Writes a frozen model to teachers/<name>/ and its manifest, and waits for both.

  Replaces an old one only when it is complete. description: the manifest without checksums.
  """
  fresh = f'{folder.name}.new'
  with without_name(folder.parent.parent) as workdir, ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(workdir / 'teachers' / fresh, to_state_dict(snapshot), force=True)
    checkpointer.wait_until_finished()
  if hosts.is_main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(fresh).rename(folder)
    write_sealed(manifest_file(folder), description | {'files': checksums(folder)})
  hosts.barrier(f'teacher {folder.name}')


def read_model(folder: Path, sharding: Any) -> TaskSnapshot:
  """The arrays in teachers/<name>/, placed by `sharding`; this host does not wait for others.

  Call `read_manifest` first. Raises Damaged if the arrays cannot be read.
  """
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
  place = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
  try:
    with (
      without_name(folder) as nameless,
      ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer,
    ):
      metadata: Any = checkpointer.metadata(nameless).item_metadata
      stored = checkpointer.restore(nameless, jax.tree.map(place, metadata.tree))
      return TaskSnapshot(FrozenModel(**stored['model']), stored['memory'])
  except Exception as error:  # as in Checkpoints._restore
    raise _unreadable(folder, _reason(error)) from error


def _unreadable(folder: Path, why: str, remedy: str = 'Put it back as it was') -> Damaged:
  return Damaged(f'checkpoint {folder} cannot be read ({why}). {remedy}, or choose another --workdir.')


def _reason(error: Exception) -> str:
  """A library's message, with paths below the workdir."""
  return reason(Exception(re.sub(r'/proc/self/fd/\d+/', '', str(error) or type(error).__name__)))


def stored_arrays(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Dotted name -> shape and type of each array in `folder`, from orbax's metadata. Raises Damaged on damage."""
  try:
    with without_name(folder) as nameless, ocp.StandardCheckpointer() as checkpointer:
      metadata: Any = checkpointer.metadata(nameless).item_metadata
    arrays = jax.tree.leaves_with_path(metadata.tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator='.')
    return {name(path): jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in arrays}
  except Exception as error:  # of many kinds; if the index is missing, orbax returns no metadata
    raise Damaged(f'cannot read the arrays in {folder}. Put the folder back as it was, or delete it.') from error
