"""The audit of a run: which arrays it keeps between tasks, whether they can hold images, and what it read when.

docs/audit.md says what follows from the answers, and what does not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax import methods
from abd_jax.config import Config, restored
from abd_jax.data.folders import own_images
from abd_jax.data.memory import capacity
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_lines
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import KINDS, read_manifest, stored_arrays
from abd_jax.run.load import load_teacher
from abd_jax.run.schedule import TeacherId
from abd_jax.run.workdir import at_rest


def audit(workdir: str | Path) -> dict[str, Any]:
  """What the run in `workdir`, finished or paused, keeps and has read, as JSON has it.

  Returns a dict of
    method: its name.
    capacity: how many real images the method may keep.
    images: how many are beside the newest frozen model; None if that cannot be read.
    statistics: bytes of class statistics in the newest frozen model.
    memories: folder of each frozen model that can be read -> real images beside it.
    arrays: each array in teachers/ and checkpoints/: its store, the folder below the workdir; name in the store; shape;
      dtype; bytes; can_hold_images, whether its shape is [n, h, w, c] with the run's image shape.
    reads: each read of images, in order: its purpose, 'training' or 'testing'; split; tasks, 0-based, of the classes
      that were read; images, how many; wrong, why a data-free run may not read them, or ''.
    unreadable: a line for each store of arrays that cannot be read, so that it may hold anything.
    findings: a line for each place of images that the method should not have, and for each wrong read.
    notes: a line for each place of images outside the run.

  Raises UserError if there is no run or no frozen model, if the run is going on, or if a log is damaged.
  """
  folder = Path(workdir).absolute()
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run: it has no config.json. Give the --workdir of a run.')
  config = restored(read_json(folder / 'config.json'))
  if methods.get(config).offline:
    raise UserError(f'{folder} holds an upper bound: a new model learns each task from all images.')
  with at_rest(folder):
    return _audit(folder, config)


def _audit(folder: Path, config: Config) -> dict[str, Any]:
  has_memory = bool(methods.get(config).memory)
  states = [path / 'state' for kind in KINDS for path in sorted((folder / 'checkpoints' / kind).glob('*/'))]
  models, manifest = _models(folder)
  arrays, memories, unreadable = [], {}, []
  for path in (*states, *models):
    store = path.relative_to(folder).as_posix()
    try:
      for name, array in stored_arrays(path).items():
        kept = {'store': store, 'name': name, 'shape': list(array.shape), 'dtype': str(array.dtype)}
        kept['bytes'] = array.size * array.dtype.itemsize
        kept['can_hold_images'] = kept['shape'][1:] == list(manifest['image_shape'])
        arrays.append(kept)
      if path in models:
        read_manifest(path)  # compares the checksums of all files
      if path in models and has_memory and (one := TeacherId.of_folder(path.name)):
        labels = load_teacher(folder, one)[2].memory['labels']
        memories[store] = int(np.sum(np.asarray(labels) >= 0))
    except UserError as error:
      unreadable.append(str(error))
  tasks = Tasks(tuple(manifest['class_order']['original_ids']), tuple(manifest['task_sizes']))
  reads = read_log(folder, tasks, config.data.folds, bool(config.extends))
  photos = config.data.dir if own_images(config.data.name) else ''
  copies = config.data.prepared or f'{photos.rstrip("/")}.prepared'
  newest = f'teachers/{models[-1].name}'
  return {
    'method': config.method,
    'capacity': capacity(config.memory, sum(tasks.sizes)) if has_memory else 0,
    'images': memories.get(newest) if has_memory else 0,
    'statistics': sum(
      one['bytes'] for one in arrays if one['store'] == newest and one['name'].startswith('model.statistics.')
    ),
    'memories': memories,
    'arrays': arrays,
    'reads': reads,
    'unreadable': unreadable,
    'findings': list(_findings(folder, arrays, reads, has_memory, config.inversion.what == 'pixels')),
    'notes': [f'{photos} holds the photographs, {copies} holds copies, also of earlier ones'] if photos else [],
  }


def _models(folder: Path) -> tuple[list[Path], dict]:
  """(paths of all models in teachers/, newest last, also if only the manifest is left; the newest manifest).

  Raises UserError if no model is frozen, or if the manifest is damaged.
  """

  def age(path: Path) -> tuple[int, bool]:  # a save that was cut off, such as '1.new', comes first
    one = TeacherId.of_folder(path.name)
    return (one.task, one.phase is None) if one else (-1, False)

  manifests = sorted((file.with_suffix('') for file in (folder / 'teachers').glob('*.json')), key=age)
  if not manifests:
    raise UserError(f'{folder} keeps nothing yet: no task of a run there is complete.')
  models = sorted({*manifests, *(folder / 'teachers').glob('*/')}, key=age)
  return models, read_manifest(manifests[-1], check_files=False)


def _findings(folder: Path, arrays: list[dict], reads: list[dict], has_memory: bool, pixels: bool) -> Iterator[str]:
  """A line for each place of images that the method should not have, and for each wrong or missing read.

  The method's memory may hold images and, with `pixels`, so may its dreams. `report` writes real images into its files.
  """
  for one in arrays:
    store, name, shape = one['store'], one['name'], one['shape']
    in_memory = has_memory and name.startswith('memory.')
    dreamed = pixels and ('generator.' in name or store.startswith('checkpoints/generator/'))
    if one['can_hold_images'] and not in_memory and not dreamed:
      yield f'{store}: array {name}, {one["dtype"]}{shape}, can hold {shape[0]} images'
  yield from (f'reads.jsonl, line {number}: {read["wrong"]}' for number, read in enumerate(reads, 1) if read['wrong'])
  if not (folder / 'reads.jsonl').exists():
    yield 'reads.jsonl is missing: nothing says which images the run read'
  if (folder / 'diagnosis' / 'images.npz').exists():
    yield 'diagnosis/images.npz holds real images, which `report` read from the data set: delete diagnosis/'
  page = folder / 'report.html'
  if page.exists() and 'data:image' in page.read_text(errors='replace'):
    yield 'report.html shows real images, which `report` read from the data set: delete it, or make it --no-diagnosis'


def read_log(folder: Path, tasks: Tasks, folds: int, extends: bool) -> list[dict[str, Any]]:
  """The `reads` of an audit, by reads.jsonl. Raises UserError if it is damaged."""
  file = folder / 'reads.jsonl'
  records = read_lines(file)
  # A run that extends another may number the classes of new data from 0. The log does not say which numbers it has.
  known = np.cumsum(tasks.sizes)[:-1].tolist() if extends else []
  firsts = [0, *(one for one in known if tasks.order[:one] == tuple(range(one)))]
  try:
    judged = [_judged(records, tasks, folds, first) for first in firsts]
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'{file} is damaged ({error!r}): put it back as it was.') from error
  return min(judged, key=lambda reads: sum(read['wrong'] != '' for read in reads))


def _judged(records: list[dict], tasks: Tasks, folds: int, first: int) -> list[dict[str, Any]]:
  """first: what is added to the class ids of the log."""
  classes = [set(tasks.original_ids(task)) for task in range(tasks.num_tasks)]
  reads, latest = [], 0
  for record in records:
    purpose, split, ids = record['for'], record['split'], {one + first for one in record['classes']}
    read, wrong = [task for task, own in enumerate(classes) if own & ids], ''
    if purpose == 'testing':
      held_out = record.get('folds') == folds > 0
      wrong = 'training images were read for testing' if split == 'train' and not held_out else ''
    elif purpose != 'training' or split != 'train' or ids not in classes:
      wrong = f"{purpose} read images of the {split} split that are not one task's"
    elif read[0] < latest:
      wrong = f'images of task {read[0] + 1} were read after task {latest + 1} had begun'
    else:
      latest = read[0]
    count = int(record['images'])
    reads.append({'purpose': purpose, 'split': split, 'tasks': read, 'images': count, 'wrong': wrong})
  return reads
