"""The data of a run, and the model it starts from: an untrained one, or the last model of a finished run, its base.

A run that extends a base keeps the base's classes, in their order, as its first tasks. It has no training images of
them, and test images only if the base's data still exist.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax.config import Config, changed, check, default, flatten, restored
from abd_jax.data.folders import own_images
from abd_jax.data.sources import Dataset, TaskStream, extended, open_configured
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_results
from abd_jax.methods.types import Method
from abd_jax.protocol.tasks import Tasks, parse_class_order, split
from abd_jax.run.load import load_snapshot
from abd_jax.run.workdir import resolve
from abd_jax.state import FrozenModel, TaskSnapshot

PyTree = Any
# Fields without which the model is useless, and those that the base and the new data decide.
DECIDED = (
  'model.init', 'model.blocks', 'model.widths', 'model.variant', 'dgr.', 'data.mean', 'data.std', 'data.max_value',
  'tasks', 'first_task_classes', 'class_order', 'extends',
)  # fmt: skip
_NOT_INHERITED = ('max_seconds', 'devices', 'distributed', 'cluster.')  # where and when the base ran


class Base(NamedTuple):
  """A finished run that another starts from."""

  workdir: Path
  config: Config
  manifest: dict  # of its last model
  snapshot: TaskSnapshot
  results: dict
  sizes: tuple[int, ...]  # classes of each of its tasks
  class_names: tuple[str, ...]  # of the classes it has learnt, in learning order

  def stored(self, method: Method, memory: Any) -> tuple[int, ...]:
    """The labels of the images in its memory. Raises UserError if `method` needs a memory of another size.

    memory: config.memory of the run that extends it.
    """
    if not method.memory:
      return ()
    labels = self.snapshot.memory.get('labels', np.zeros(0, np.int32))
    size = lambda of: {'per_class': of.per_class} if of.per_class else {'size': of.size}
    if not len(labels) or size(memory) != size(self.config.memory):
      raise UserError(
        f'{self.workdir} keeps {len(labels)} images, not those of config.memory={size(memory)}. Extend it with its own '
        'method and memory.'
      )
    return tuple(labels[labels >= 0].tolist())


def read_base(workdir: str | Path) -> Base:
  """The finished run in `workdir`. Raises UserError if there is none, or its model is damaged."""
  folder = Path(os.path.expanduser(workdir)).absolute()
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run. Give the workdir of a finished run.')
  if not (folder / 'results.json').is_file():
    raise UserError(f'the run in {folder} is not finished. Resume it first, with the command that began it.')
  config, (_, manifest, snapshot) = restored(read_json(folder / 'config.json')), load_snapshot(folder)
  sizes, results = tuple(manifest['task_sizes']), read_results(folder / 'results.json')
  names = tuple(manifest['class_order']['names'][: sum(sizes)])
  return Base(folder, config, manifest, jax.device_get(snapshot), results, sizes, names)


def open_stream(config: Config, base: Base | None, prepare: bool = True) -> TaskStream:
  """A run's data, task by task.

  Args:
    base: the run in `config.extends`, if that is set.
    prepare: whether a copy of the data may be written. Not for a base's images, which may have been deleted.
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
        f"'{data.class_names[0]}' is the only class of '{data.name}'. Use at least 2, or add it to a finished run with "
        'abd-jax extend.'
      )
    order = parse_class_order(config.class_order, data.class_names, config.trial)
    sizes = split(data.num_classes, config.tasks, config.first_task_classes, config.task_sizes, own_images(data.name))
    return TaskStream(data, Tasks(order, sizes))
  own = is_of_base(base, data)
  if own and base.config.data.fingerprint not in ('', data.fingerprint):
    raise UserError(
      f"the images of '{data.name}' in '{config.data.dir}' are not those that the run in {base.workdir} has learnt. "
      'Put those back, or give new classes names of their own.'
    )
  sizes = _grown_sizes(base, config.task_sizes, data)
  if own:
    return TaskStream(data, Tasks(tuple(base.manifest['class_order']['original_ids']), sizes))
  joined = extended(base.class_names, old_stream(base), data)
  return TaskStream(joined, Tasks(tuple(range(joined.num_classes)), sizes))


def stream_of_run(workdir: Path, data_dir: str = '') -> TaskStream:
  """The data of the run in `workdir`. Nothing is downloaded or prepared.

  data_dir: where the prepared data are now; '' for where the run found them. Raises UserError if they are not there.
  """
  config = restored(read_json(workdir / 'config.json'))
  config = resolve(changed(config, {'data.dir': data_dir or config.data.dir}))
  return open_stream(config, read_base(config.extends) if config.extends else None, prepare=False)


def old_stream(base: Base) -> TaskStream | None:
  """The base's own data, or None if they are missing or have changed."""
  try:
    return stream_of_run(base.workdir)
  except UserError:  # the model may have been trained on some of the changed images
    return None


def is_of_base(base: Base, data: Dataset) -> bool:
  """Whether `data` is the data set of the base, which may not have learnt all of its classes."""
  order = base.manifest['class_order']
  ids = order['original_ids']
  return len(ids) == data.num_classes and [data.class_names[one] for one in ids] == list(order['names'])


def _grown_sizes(base: Base, asked: tuple[int, ...], data: Dataset) -> tuple[int, ...]:
  """Classes of each task, the base's first. Raises UserError if the data do not fit the base."""
  known, asked = base.sizes, tuple(asked)
  own = is_of_base(base, data)
  if not own and (twice := sorted(set(base.class_names) & set(data.class_names))):
    raise UserError(f"{base.workdir} has learnt a class '{twice[0]}' already. Rename or remove it in '{data.name}'.")
  if data.image_shape != (shape := tuple(base.manifest['image_shape'])):
    raise UserError(f"expected images of {shape} as in {base.workdir}, got {data.image_shape} in '{data.name}'.")
  if asked[: len(known)] != known:
    raise UserError(f'config.task_sizes: expected {known} first, as in {base.workdir}, got {asked}.')
  left = data.num_classes - sum(known) if own else data.num_classes
  if not left:
    raise UserError(f"{base.workdir} has learnt all classes of '{data.name}'. Choose others with --config.data.name.")
  new = asked[len(known) :] or (left,)
  if sum(new) > left:
    raise UserError(f"config.task_sizes={asked} needs {sum(new)} new classes, but '{data.name}' has {left}.")
  return known + new


def extended_config(workdir: str, fields: dict[str, Any], method: str | None = None) -> Config:
  """The config of a run that teaches the model in `workdir` more classes.

  Args:
    workdir: the workdir of a finished run.
    fields: dotted name -> new value of fields of its config, such as data.name and data.dir.
    method: the method that learns the new classes; None for that of the finished run.

  Raises:
    UserError: there is no finished run, a field must stay as it is, or the new data do not fit.
  """
  base = read_base(workdir)
  for name in fields:
    if name.startswith(DECIDED):
      raise UserError(f'config.{name} follows from {base.workdir} and the new data. Leave it out.')
  values = {name: value for name, value in flatten(default().to_dict()).items() if name.startswith(_NOT_INHERITED)}
  values |= {'class_order': '', 'first_task_classes': 0, 'task_sizes': base.sizes, 'extends': str(base.workdir)}
  values |= {'method': method or base.config.method, 'data.fingerprint': ''}  # which is of the base's images
  if own_images(base.config.data.name) or own_images(fields.get('data.name', '')):
    height, _, channels = base.manifest['image_shape']
    value_range = tuple(base.manifest.get('value_range', ()))
    values |= {'data.size': height, 'data.channels': channels, 'data.value_range': value_range}
  config = changed(base.config, values | fields)
  check(config)
  sizes = _grown_sizes(base, config.task_sizes, _open_new(config.data, fields))
  return resolve(changed(config, {'task_sizes': sizes}))


def _open_new(data: Config, fields: dict[str, Any]) -> Dataset:
  """The data set of new classes. If only its folder was given, the base's name must be right: nothing is prepared."""
  named = 'data.name' in fields or 'data.dir' not in fields or own_images(data.name)
  try:
    return open_configured(data, prepare=named)
  except UserError:
    if named:
      raise
    raise UserError(
      f"{data.dir} holds no prepared copy of '{data.name}', which the finished run learnt. Name the data set of the "
      'new classes, as in --config.data.name=image_folder for photographs.'
    ) from None


def grown(base: Base, fresh: FrozenModel, own_data: bool) -> FrozenModel:
  """The base's last model with the head of `fresh`, an untrained student: new classes have the weights of `fresh`.

  own_data: whether the new classes belong to the base's data set; then their weights in the base are kept.
  Raises UserError if the two methods keep different parameters beside the network.
  """
  model, classes = base.snapshot.model, len(base.class_names)
  rows = lambda leaf: leaf if own_data else leaf[..., :classes]
  old = {'backbone': model.params['backbone'], 'head': jax.tree.map(rows, model.params['head'])}
  new = jax.device_get(fresh)
  if new.statistics and not model.statistics:
    raise UserError(
      f'the model in {base.workdir} has no statistics of its classes, and no images to measure them. Extend it with '
      'its own method and --config.head=trained.'
    )
  if jax.tree.structure(model.extra) != jax.tree.structure(new.extra):
    raise UserError(
      f"the model in {base.workdir} has other parameters of its method, '{base.config.method}'. Extend it with the "
      'same method.'
    )
  params, stats = (jax.tree.map(_overlaid, a, b) for a, b in ((new.params, old), (new.batch_stats, model.batch_stats)))
  extra = jax.tree.map(_overlaid, new.extra, model.extra)
  statistics = jax.tree.map(_overlaid, new.statistics, model.statistics) if new.statistics else {}
  return FrozenModel(params, stats, extra, {}, statistics)


def _overlaid(new: np.ndarray, old: np.ndarray) -> np.ndarray:
  """A copy of `new` whose leading corner is overwritten by as much of `old` as fits."""
  corner = tuple(slice(0, min(a, b)) for a, b in zip(new.shape, old.shape, strict=True))
  result = np.array(new)
  result[corner] = np.asarray(old)[corner]
  return result
