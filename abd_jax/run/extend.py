"""A run's data and where it starts: from nothing, or from the last model of a finished run, which it teaches more.

An extended run keeps the classes that its base has learnt, in their order, as its first tasks. Of them it has no
training image, and their test images only where the base's data still lie.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax.config import Config, check, default, flatten, restored
from abd_jax.data.folders import own_images
from abd_jax.data.sources import Dataset, TaskStream, extended, open_configured
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_results
from abd_jax.methods.types import Method
from abd_jax.protocol.tasks import Tasks, parse_class_order, split
from abd_jax.run.load import load_snapshot
from abd_jax.run.progress import EvalHistory
from abd_jax.run.workdir import resolve
from abd_jax.state import FrozenModel, TaskSnapshot

PyTree = Any
KEPT = ('model.', 'dgr.', 'data.mean', 'data.std', 'data.max_value')  # fields without which the model is useless
DECIDED = ('tasks', 'first_task_classes', 'class_order', 'extends')  # fields that the base and the new data decide
_NOT_INHERITED = ('max_seconds', 'devices', 'distributed', 'cluster.')  # where and when the base ran


class Base(NamedTuple):
  """A finished run that another starts from."""

  workdir: Path
  config: Config
  manifest: dict  # of its last model
  snapshot: TaskSnapshot
  results: dict

  @property
  def sizes(self) -> tuple[int, ...]:
    """Classes of each of its tasks."""
    return tuple(self.manifest['task_sizes'])

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the classes it has learnt, in learning order."""
    return tuple(self.manifest['class_order']['names'][: sum(self.sizes)])

  def stored(self, method: Method, memory_size: int) -> tuple[int, ...]:
    """The labels of the images in its memory. Raises UserError if `method` needs another one."""
    if not method.memory:
      return ()
    labels = self.snapshot.memory.get('labels', np.zeros(0, np.int32))
    if len(labels) != memory_size:
      raise UserError(f'the run in {self.workdir} keeps {len(labels)} images, not config.memory.size={memory_size}. '
                      'Extend it by its own method and memory.')  # fmt: skip
    return tuple(labels[labels >= 0].tolist())

  def history(self) -> EvalHistory:
    """What its evaluations found."""
    return EvalHistory(list(self.results['accuracy_matrix']), list(self.results['top5_accuracy_matrix']))


def read_base(workdir: str | Path) -> Base:
  """The finished run in `workdir`. Raises UserError if there is none, or its model is damaged."""
  folder = Path(os.path.expanduser(workdir)).absolute()
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run to start from. Give the workdir of a finished one.')
  if not (folder / 'results.json').is_file():
    raise UserError(f'the run in {folder} is not finished. Resume it first, with the command that began it.')
  config = restored(read_json(folder / 'config.json'))
  if not (folder / 'teachers').is_dir():
    raise UserError(f"{folder} holds no model to start from: method '{config.method}' leaves none of all classes.")
  _, manifest, snapshot = load_snapshot(folder)
  return Base(folder, config, manifest, jax.device_get(snapshot), read_results(folder / 'results.json'))


def task_sizes(config: Config, data: Dataset) -> tuple[int, ...]:
  """Classes of each task of a run that starts from nothing. Raises UserError if they do not fit the data."""
  uneven = own_images(data.name)
  return split(data.num_classes, config.tasks, config.first_task_classes, tuple(config.task_sizes), uneven)


def open_stream(config: Config, base: Base | None, prepare: bool = True) -> TaskStream:
  """A run's data, task by task.

  Args:
    base: that of `config.extends`, if it names one.
    prepare: whether a copy of them may be written: not to look back at images that may have been deleted.
  """
  data = open_configured(config.data, prepare)
  if config.data.fingerprint not in ('', data.fingerprint):
    raise UserError(
      f"the images of '{data.name}' in '{config.data.dir}' are not those that this run began with. Name the "
      'folder that has those, or choose another --workdir.'
    )
  if base is None:
    if data.num_classes < 2:
      raise UserError(
        f"'{data.class_names[0]}' is the only class of '{data.name}'. Use at least 2, or teach it to a finished run: "
        'abd-jax extend.'
      )
    order = parse_class_order(config.class_order, data.class_names, config.trial)
    return TaskStream(data, Tasks(order, task_sizes(config, data)))
  own = is_of_base(base, data)
  if own and base.config.data.fingerprint not in ('', data.fingerprint):
    raise UserError(
      f"the images of '{data.name}' in '{config.data.dir}' are not those that the run in {base.workdir} has learnt. "
      'Put those back, or give new classes names of their own.'
    )
  sizes = _grown_sizes(base, config, data)
  if own:
    return TaskStream(data, Tasks(tuple(base.manifest['class_order']['original_ids']), sizes))
  joined = extended(base.class_names, old_stream(base), data)
  return TaskStream(joined, Tasks(tuple(range(joined.num_classes)), sizes))


def old_stream(base: Base) -> TaskStream | None:
  """The base's own data, or None where they are not at hand, or are others now."""
  config = base.config
  try:
    return open_stream(resolve(config), read_base(config.extends) if config.extends else None, prepare=False)
  except UserError:  # of other images under these names some may have been trained on
    return None


def is_of_base(base: Base, data: Dataset) -> bool:
  """Whether these are the base's own data, some classes of which it may not have learnt."""
  order = base.manifest['class_order']
  ids = order['original_ids']
  return len(ids) == data.num_classes and [data.class_names[one] for one in ids] == list(order['names'])


def _grown_sizes(base: Base, config: Config, data: Dataset) -> tuple[int, ...]:
  """Classes of each task, the base's first. Raises UserError if the data do not fit the base."""
  known, asked = base.sizes, tuple(config.task_sizes)
  own = is_of_base(base, data)
  if not own and (twice := sorted(set(base.class_names) & set(data.class_names))):
    raise UserError(f"{base.workdir} has learnt a class '{twice[0]}' already. Rename or remove it in '{data.name}'.")
  if data.image_shape != (shape := tuple(base.manifest['image_shape'])):
    raise UserError(f"expected images of {shape} as in {base.workdir}, got {data.image_shape} in '{data.name}'.")
  if asked[: len(known)] != known:
    raise UserError(f'config.task_sizes={asked} must begin with those that {base.workdir} has learnt, {known}.')
  left = data.num_classes - sum(known) if own else data.num_classes
  if not left:
    raise UserError(f"{base.workdir} has learnt all {data.num_classes} classes of '{data.name}'. Name other data.")
  new = asked[len(known) :] or (left,)
  if sum(new) > left:
    raise UserError(f"config.task_sizes={asked} asks for {sum(new)} new classes, but '{data.name}' has {left}.")
  return known + new


def extended_config(workdir: str, fields: dict[str, Any], method: str | None = None) -> Config:
  """The config of a run that teaches the model in `workdir` more classes.

  Args:
    workdir: of a finished run.
    fields: of its config, dotted names, that are to be others: those of the new data first of all.
    method: by which it learns, if not its own.

  Raises:
    UserError: no finished run there, a field that must stay, or data that do not fit it.
  """
  base = read_base(workdir)
  for name in fields:
    if name.startswith(KEPT):
      raise UserError(f'config.{name} stays as the model in {base.workdir} was trained. Leave it out.')
    if name in DECIDED:
      raise UserError(f'config.{name} follows from the run that is extended and the new data. Leave it out.')
  config = base.config.copy_and_resolve_references().unlock()
  config.class_order, config.first_task_classes, config.extends = '', 0, str(base.workdir)
  config.method, config.task_sizes = method or config.method, base.sizes
  config.update_from_flattened_dict(
    {name: value for name, value in flatten(default().to_dict()).items() if name.startswith(_NOT_INHERITED)}
  )
  config.data.fingerprint = ''  # of the base's images
  if own_images(config.data.name) or own_images(fields.get('data.name', '')):
    height, _, channels = base.manifest['image_shape']
    config.data.size, config.data.channels = height, channels
  config.update_from_flattened_dict(fields)
  check(config)
  config.task_sizes = _grown_sizes(base, config, open_configured(config.data))
  return resolve(config.lock())


def grown(base: Base, fresh: FrozenModel, own_data: bool) -> FrozenModel:
  """The base's last model in the shapes of `fresh`, another run's untrained student; what is new is as in `fresh`.

  own_data: whether the run goes on with the base's own data: then classes that it has not learnt keep their rows too.
  Raises UserError if the two have other networks, or the method parameters of its own that the base has not.
  """
  model, classes = base.snapshot.model, len(base.class_names)
  rows = lambda leaf: leaf if own_data else leaf[..., :classes]
  old = {'backbone': model.params['backbone'], 'head': jax.tree.map(rows, model.params['head'])}
  new = jax.device_get(fresh)
  if jax.tree.structure(model.extra) != jax.tree.structure(new.extra):
    raise UserError(
      f"the model in {base.workdir} is of method '{base.config.method}', which keeps other parameters beside it. "
      'Extend it by the same method.'
    )
  params, stats = (jax.tree.map(_overlaid, a, b) for a, b in ((new.params, old), (new.batch_stats, model.batch_stats)))
  extra = jax.tree.map(_overlaid, new.extra, model.extra)
  return FrozenModel(params, stats, extra, {})


def _overlaid(new: np.ndarray, old: np.ndarray) -> np.ndarray:
  """`new` with `old` in its leading corner, as much of it as there is room for."""
  corner = tuple(slice(0, min(a, b)) for a, b in zip(new.shape, old.shape, strict=True))
  result = np.array(new)
  result[corner] = np.asarray(old)[corner]
  return result
