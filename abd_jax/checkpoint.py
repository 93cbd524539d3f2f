"""Checkpoints of a run and its frozen teachers: the only file that imports orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from abd_jax.errors import UserError

PyTree = Any
KINDS = ('student', 'generator')


class Checkpoints:
  """`checkpoints/<kind>/<number>/` and `teachers/<name>/` under a work directory.

  Each trained state is written only in the phases that change it (a generator with its Adam state is 100 MB), and
  always together with the run's position: a dict of plain Python values whose 'saves' gives the number of each kind's
  newest save. Numbers count over both kinds, so the highest one says where the run stands.
  """

  def __init__(self, workdir: Path):
    root = workdir.absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    self._managers = {
      kind: ocp.CheckpointManager(root / 'checkpoints' / kind, options=options, item_names=('state', 'position'))
      for kind in KINDS
    }
    self._teachers = root / 'teachers'
    self._checkpointer = ocp.StandardCheckpointer()

  def save(self, kind: str, state: PyTree, position: dict) -> None:
    """Starts writing `state` as number position['saves'][kind]; goes on in the background, and is atomic."""
    self.wait()  # a save of the other kind must not come to disk after this one
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
    self._managers[kind].save(position['saves'][kind], args=items)

  def restore(self, abstract: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict | None]:
    """(newest state of each kind that has one, newest position or None).

    abstract: shapes, dtypes and shardings per kind. Raises UserError if a checkpoint cannot be read.
    """
    newest = {kind: manager.latest_step() for kind, manager in self._managers.items()}
    newest = {kind: number for kind, number in newest.items() if number is not None}
    if not newest:
      return {}, None
    last = max(newest, key=newest.get)
    position = self._restore(last, newest[last], position=ocp.args.JsonRestore())['position']
    states = {
      kind: self._restore(kind, number, state=ocp.args.StandardRestore(abstract[kind]))['state']
      for kind, number in position['saves'].items()
    }
    return states, position

  def _restore(self, kind: str, number: int, **items):
    manager = self._managers[kind]
    is_last = all(number >= (other.latest_step() or 0) for other in self._managers.values())
    remedy = 'Delete that folder to go on from the save before it' if is_last else 'Put it back as it was'
    path = manager.directory / str(number)
    return _read(path, lambda: manager.restore(number, args=ocp.args.Composite(**items)), remedy)

  def save_teacher(self, name: str, teacher: PyTree) -> None:
    """Writes teachers/<name>/ (over one that an interrupted run may have left) and waits for it."""
    self._checkpointer.save(self._teachers / name, teacher, force=True)
    self._checkpointer.wait_until_finished()

  def load_teacher(self, name: str, abstract: PyTree) -> PyTree:
    """What stands in teachers/<name>/. Raises UserError if it cannot be read."""
    path = self._teachers / name
    return _read(path, lambda: self._checkpointer.restore(path, abstract), 'Put it back as it was')

  def wait(self) -> None:
    """Returns once every save is on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
    self._checkpointer.close()


def _read(path, restore, remedy: str):
  try:
    return restore()
  except Exception as error:  # orbax and tensorstore raise many kinds for a damaged folder
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    raise UserError(f'checkpoint {path} cannot be read ({reason}). {remedy}, or choose another --workdir.') from error


def abstract_like(init, sharding) -> PyTree:
  """Shapes and dtypes of what `init()` would return, each placed by `sharding`."""
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return jax.tree.map(place, jax.eval_shape(init))
