"""The promise of a data-free run, looked into: what it keeps, what it read, and where an old image could hide.

What the arrays are is read off the stores themselves, and compared with what the networks of config.json have by name,
shape and type: shapes that no number of images enters. docs/audit.md says what this proves, and what it cannot.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax import methods
from abd_jax.analysis import audit_files, audit_metadata, audit_reads, audit_texts
from abd_jax.config import Config, restored
from abd_jax.data.memory import unpad
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import KINDS, named_leaves, read_manifest
from abd_jax.run.load import abstract_states, load_frozen
from abd_jax.run.stored import Array, read_store
from abd_jax.run.workdir import at_rest

CORESET = 2000  # images: the memory of the paper's replay methods


class Audit(NamedTuple):
  """What was found in a workdir.

  Attributes:
    method: its name.
    image_shape: (h, w, c).
    capacity: real images that the method may keep.
    images: how many it keeps now, after its newest task.
    distinct: how many of them differ.
    past: different ones that other frozen models have besides.
    kept: the arrays of its newest frozen model that has a successor to teach: dotted name -> array.
    bytes: of everything in each part of the workdir, folders too; the sum is what `du -b` says.
    findings: where an old image is, or could be, that the method does not own up to; a line each.
    notes: what is not looked into; a line each.
  """

  method: str
  image_shape: tuple[int, int, int]
  capacity: int
  images: int
  distinct: int
  past: int
  kept: dict[str, Array]
  bytes: dict[str, int]
  findings: list[str]
  notes: list[str]

  def group(self, prefix: str) -> tuple[int, int]:
    """(numbers, bytes) of the kept arrays whose names begin so."""
    arrays = [array for name, array in self.kept.items() if name.startswith(prefix)]
    return sum(array.size for array in arrays), sum(array.nbytes for array in arrays)


class Subject(NamedTuple):
  """The run that is looked at."""

  folder: Path
  config: Config
  manifest: dict  # of its newest model
  tasks: Tasks
  image_shape: tuple[int, int, int]

  @property
  def teachers(self) -> list[str]:
    """Names of the frozen models, the newest last."""
    age = lambda name: (int(name.partition('_')[0]), '_' not in name)  # a task's own comes last
    folders = [path.name for path in (self.folder / 'teachers').iterdir() if path.is_dir()]
    return sorted((name for name in folders if re.fullmatch(audit_files.FROZEN, name)), key=age)


def audit(workdir: str | Path) -> Audit:
  """Looks into the run in `workdir`, finished or paused.

  Raises UserError if none keeps a model, or it is going on, or a log is damaged.
  """
  folder = Path(workdir).absolute()
  with at_rest(folder):
    return _audited(_subject(folder))


def _audited(subject: Subject) -> Audit:
  method = methods.get(subject.config)
  findings, stored, arrays = [], set(), {}
  states = {name: abstract_states(subject.manifest, name) for name in {*subject.teachers, ''}}
  stores = list(_stores(subject))
  for store, kind, name in stores:
    try:
      found = read_store(store)
    except UserError as error:
      findings.append(str(error))
      continue
    stored |= {(store / file).relative_to(subject.folder).as_posix() for file in found.files}
    arrays[store] = found.arrays.keys()
    where = store.relative_to(subject.folder).as_posix()
    expected = _arrays_of(states[name][kind])
    findings += _unexpected(where, found.arrays, expected, subject.image_shape)
    findings += [f'{where}: {key} belongs to no array' for key in found.others]
  findings += audit_files.unknown(subject.folder, stored, {store.relative_to(subject.folder) for store, _, _ in stores})
  findings += audit_files.contents(subject.folder, subject.tasks, method.inverts)
  findings += audit_texts.tables(subject.folder, subject.tasks, subject.manifest['class_order']['names'])
  findings += audit_metadata.metadata(subject.folder, subject.tasks, arrays)
  findings += audit_reads.read_out_of_turn(subject.folder, subject.tasks, subject.config)
  findings += _unsealed(subject)
  findings += audit_files.of_the_report(subject.folder)
  memories = list(_memories(subject)) if method.memory else []
  behind = sum(rows for _, rows in memories)
  findings += [f'the memory holds pixels in {behind} rows that have no label'] if behind else []
  stored_images = [{image.tobytes() for image in images} for images, _ in memories]
  now: set[bytes] = stored_images[-1] if memories else set()
  return Audit(
    method=subject.config.method,
    image_shape=subject.image_shape,
    capacity=subject.config.memory.size if method.memory else 0,
    images=len(memories[-1][0]) if memories else 0,
    distinct=len(now),
    past=len(set().union(*stored_images) - now),
    kept=_kept(subject),
    bytes=apparent_bytes(subject.folder),
    findings=list(dict.fromkeys(findings)),  # damage may be met twice
    notes=audit_files.notes(subject.folder, restored(read_json(subject.folder / 'config.json'))),
  )


def _subject(folder: Path) -> Subject:
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run: it has no config.json. Name the --workdir of one.')
  method = methods.get(restored(read_json(folder / 'config.json')))
  if method.offline:
    raise UserError(f'{folder} holds an upper bound: a model of its own learns each task from all images.')
  names = sorted((int(path.name) for path in (folder / 'teachers').glob('*') if path.name.isdigit()), reverse=True)
  if not names:
    raise UserError(f'{folder} keeps nothing yet: no task of a run there is complete.')
  manifest = read_manifest(folder / 'teachers' / str(names[0]), check_files=False)
  tasks = Tasks(tuple(manifest['class_order']['original_ids']), tuple(manifest['task_sizes']))
  return Subject(folder, restored(manifest['config']), manifest, tasks, tuple(manifest['image_shape']))


def _stores(subject: Subject) -> Iterator[tuple[Path, str, str]]:
  """(folder of arrays, what of `abstract_states` is in it, name of the frozen model or '')."""
  for name in subject.teachers:
    yield subject.folder / 'teachers' / name, 'teacher', name
  for kind in KINDS:
    for store in sorted((subject.folder / 'checkpoints' / kind).glob('*/state')):
      yield store, kind, ''


def _arrays_of(abstract: Any) -> dict[str, Array]:
  return {name: Array(tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(abstract).items()}


def _unexpected(
  where: str, found: dict[str, Array], expected: dict[str, Array], image_shape: tuple[int, int, int]
) -> Iterator[str]:
  """A line for each array that is not one of the expected."""
  for name, array in found.items():
    if array == expected.get(name):
      continue
    what = f'{where}: array {name} is {array.dtype}{list(array.shape)}'
    usual = expected.get(name)
    if usual is not None:
      yield f'{what}, not {usual.dtype}{list(usual.shape)} as the networks of config.json have it'
    else:
      yield f'{what}, and none of this run: it can hold {array.size // int(np.prod(image_shape))} images'
  for name in expected.keys() - found.keys():
    yield f'{where}: array {name} is missing'


def _unsealed(subject: Subject) -> Iterator[str]:
  """A line for each frozen model whose files are not those that its manifest names."""
  for name in subject.teachers:
    try:
      read_manifest(subject.folder / 'teachers' / name)
    except UserError as error:
      yield str(error)


def _memories(subject: Subject) -> Iterator[tuple[np.ndarray, int]]:
  """Of each frozen model (u8[m, h, w, c] the real images beside it, rows of padding that are not empty)."""
  for name in subject.teachers:
    try:
      memory: Any = jax.device_get(load_frozen(subject.folder, name)[2].memory)
    except UserError:  # told among the findings
      continue
    padding = memory['images'][memory['labels'] < 0]
    yield unpad(memory).images, int(np.sum(padding.any((1, 2, 3))))


def _kept(subject: Subject) -> dict[str, Array]:
  """Of the newest frozen model but the last task's, which has no successor; of that where it is alone."""
  last = str(len(subject.tasks.sizes) - 1)
  names = [name for name in subject.teachers if name.isdigit() and name != last] or subject.teachers
  try:
    arrays = read_store(subject.folder / 'teachers' / names[-1]).arrays
  except UserError:  # told among the findings
    return {}
  return {name.removeprefix('model.'): array for name, array in arrays.items()}


def apparent_bytes(folder: Path) -> dict[str, int]:
  """Part of `folder` -> bytes of its files and folders, as `du -b` counts them; '.' for the folder itself."""
  found, seen = {'.': folder.stat().st_size}, set()
  for root, folders, files in os.walk(folder):
    for name in (*folders, *files):
      facts = os.lstat(os.path.join(root, name))
      part = Path(root, name).relative_to(folder).parts[0]
      if (facts.st_dev, facts.st_ino) not in seen:  # one file of two names is counted once
        found[part] = found.get(part, 0) + facts.st_size
      seen.add((facts.st_dev, facts.st_ino))
  return found
