"""The drill's faults that are tried in this process: damage, full disks, broken data, odd records, odd clocks."""

import errno
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from abd_jax import train
from abd_jax.commands import report
from abd_jax.files import sealed
from abd_jax.run import checkpoint as manifest
from abd_jax.run import workdir as workdir_lib
from abd_jax.run.checkpoint import Checkpoints, TeacherStore
from abd_jax.run.load import load_model
from abd_jax.run.logs import MetricWriters
from abd_jax.run.workdir import Workdir
from experiments.lab import Case, Lab, Verdict, judge_reading, newest_save

Damage = Callable[[Path], None]  # done to a workdir


def flip(file: Path, rng: random.Random) -> None:
  """One bit of it, anywhere."""
  content = bytearray(file.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  file.write_bytes(content)


WAYS: dict[str, Callable[[Path], Any]] = {
  'cut in half': lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
  'empty': lambda file: file.write_bytes(b''),
  'missing': lambda file: file.unlink(),
}


def files_in(folder: Path) -> list[Path]:
  return sorted(file for file in folder.rglob('*') if file.is_file() and file.stat().st_size)


def resumed(lab: Lab, kind: str, name: str, damage: Damage, variant: str = 'abd') -> Case:
  """A run under way is damaged and resumed."""

  def try_it(folder: Path) -> Verdict:
    workdir = lab.copy_interrupted(folder, variant)
    damage(workdir)
    return lab.judge(workdir, variant, lambda: lab.run(workdir, variant))

  return Case(kind, name, try_it)


def read_again(lab: Lab, kind: str, name: str, damage: Damage, how: str) -> Case:
  """A complete run is damaged, and read by one of READERS."""

  def try_it(folder: Path) -> Verdict:
    sound = _sound(lab, how, folder)
    workdir = lab.copy_finished(folder)
    damage(workdir)
    return judge_reading(workdir, lambda: READERS[how](lab, workdir), sound)

  return Case(kind, f'{name}, {how}', try_it)


_read: dict[tuple[Path, str], Any] = {}


def _sound(lab: Lab, how: str, folder: Path) -> Any:
  """What the reader gives of the sound run, asked once."""
  if (lab.root, how) not in _read:
    workdir = lab.copy_finished(folder)  # of the name that damaged ones have
    _read[lab.root, how] = READERS[how](lab, workdir)
    shutil.rmtree(workdir)
  return _read[lab.root, how]


def _predict(lab: Lab, workdir: Path) -> list:
  images = np.random.default_rng(0).integers(0, 17, (8, 8, 8, 1), dtype=np.uint8)
  names, probabilities = load_model(workdir).predict(images, batch_size=8)
  return [names.tolist(), probabilities.tolist()]


def read_report(lab: Lab, workdir: Path) -> str:
  with redirect_stdout(StringIO()):
    return report.main([str(workdir), '--no-diagnosis']).read_text()


READERS: dict[str, Callable[[Lab, Path], Any]] = {
  'run again': lambda lab, workdir: lab.run(workdir),
  'predict': _predict,
  'report': read_report,
}

# What a flipped bit may hit in a run under way: the files, and the variant of the run.
PLACES: dict[str, tuple[Callable[[Path], list[Path]], str]] = {
  'student': (lambda workdir: files_in(newest_save(workdir, 'student') / 'state'), 'abd'),
  'generator': (lambda workdir: files_in(newest_save(workdir, 'generator') / 'state'), 'abd'),
  'teacher': (lambda workdir: files_in(workdir / 'teachers/0'), 'abd'),
  'memory images': (lambda workdir: files_in(workdir / 'teachers/1_phase_0'), 'e2e'),
  'progress': (lambda workdir: [newest_save(workdir) / 'progress/metadata'], 'abd'),
  'log': (lambda workdir: [workdir / 'metrics.jsonl'], 'abd'),
  'manifest': (lambda workdir: [workdir / 'teachers/0.json'], 'abd'),
  'config.json': (lambda workdir: [workdir / 'config.json'], 'abd'),
  'picture': (lambda workdir: files_in(workdir / 'dreams'), 'abd'),
}


def flips(lab: Lab, few: bool) -> Iterator[Case]:
  """A dozen for each place, and half of that for each file that a complete run is read from."""
  count = 1 if few else 12
  for place, (files, variant) in PLACES.items():
    for k in range(count if variant == 'abd' or not few else 0):
      rng = random.Random(f'{place} {k}')

      def damage(workdir: Path, rng=rng, files=files) -> None:
        there = files(workdir)
        flip(rng.choices(there, [file.stat().st_size for file in there])[0], rng)

      yield resumed(lab, f'a bit flipped: {place}', f'{k}', damage, variant)
  for name, how in (('results.json', 'run again'), ('results.json', 'report'), ('teachers/2.json', 'predict')):
    for k in range(count // 2 or 1):
      rng = random.Random(f'{name} {how} {k}')
      kind = f'a bit flipped: {"results.json" if name == "results.json" else "manifest"}'
      yield read_again(lab, kind, f'{k}', lambda workdir, rng=rng, name=name: flip(workdir / name, rng), how)


def broken_files(lab: Lab, few: bool) -> Iterator[Case]:
  """Files of every kind cut, emptied and removed: eight of each way, and those that have a name of their own."""
  named = ('metrics.jsonl', 'config.json', 'teachers/0.json', 'dreams/task_1.png', 'reads.jsonl', 'phases.jsonl')
  count = 1 if few else 8
  for way, spoil in list(WAYS.items())[: 1 if few else None]:
    for k in range(count):
      rng = random.Random(f'{way} {k}')

      def damage(workdir: Path, rng=rng, spoil=spoil) -> None:
        spoil(rng.choice([*files_in(workdir / 'checkpoints'), *files_in(workdir / 'teachers')]))

      yield resumed(lab, f'a file {way}', f'{k}', damage)
    for name in named[: 1 if few else None]:
      yield resumed(lab, f'a file {way}', name, lambda workdir, name=name, spoil=spoil: spoil(workdir / name))
    for name, how in (('results.json', 'report'), ('teachers/2.json', 'predict'), ('metrics.jsonl', 'report'))[:count]:
      if (way, name) != ('missing', 'results.json'):  # a run that is not complete
        yield read_again(lab, f'a file {way}', name, lambda workdir, name=name, spoil=spoil: spoil(workdir / name), how)


# Every function that writes, and at which of its calls the disk is full.
WRITERS: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
  (Checkpoints, 'save', (1, 3, 6)),
  (TeacherStore, 'save', (1, 2, 3)),
  (manifest, 'write_atomically', (1, 3)),
  (workdir_lib, 'write_atomically', (1, 2)),
  (train, 'save_grid', (1, 2)),
  (Workdir, 'log', (1, 4, 9)),
  (Workdir, 'log_phase', (1, 3)),
  (Workdir, 'log_read', (1,)),
  (Workdir, 'write_confusion', (1, 3)),
  (Workdir, 'write_results', (1,)),
  (MetricWriters, 'write', (2,)),
)
SAID = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def full_disks(lab: Lab, few: bool) -> Iterator[Case]:
  """Before or after a function has written: then the file is whole and the caller does not know."""
  for owner, name, calls in WRITERS[:: 4 if few else 1]:
    for k in calls[:1] if few else calls:
      for after in (False, True)[: 1 if few else 2]:
        of = getattr(owner, '__name__', '').rpartition('.')[2]
        words = f'{of}.{name}, {"after" if after else "before"} call {k}'
        yield Case('a full disk', words, _failing(lab, owner, name, k, after))
  for size in (2000,) if few else (200, 1000, 2000, 4000, 8000, 16000, 30000):
    yield Case('a limit to the size of files', f'{size} bytes', _limited(lab, size))


def _failing(lab: Lab, owner: Any, name: str, call: int, after: bool) -> Callable[[Path], Verdict]:
  real, number = getattr(owner, name), SAID[call % len(SAID)]

  def try_it(folder: Path) -> Verdict:
    calls = []

    def writes(*args, **kwargs):
      calls.append(1)
      fails = len(calls) == call
      if fails and not after:
        raise OSError(number, os.strerror(number))
      result = real(*args, **kwargs)
      if fails:
        raise OSError(number, os.strerror(number))
      return result

    def act() -> None:
      with mock.patch.object(owner, name, writes):
        lab.run(folder / 'run')

    return lab.judge_passing(folder / 'run', 'abd', act)

  return try_it


def _limited(lab: Lab, size: int) -> Callable[[Path], Verdict]:
  def act(workdir: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
      lab.run(workdir)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  return lambda folder: lab.judge_passing(folder / 'run', 'abd', lambda: act(folder / 'run'))


def broken_data(lab: Lab, few: bool) -> Iterator[Case]:
  """A run begins on a copy of its data set that is damaged, or was copied in part."""

  def case(name: str, damage: Damage) -> Case:
    def try_it(folder: Path) -> Verdict:
      data = folder / 'data'
      shutil.copytree(lab.data, data)
      damage(data / 'digits/1.0.0')
      fields = {'data__dir': str(data), 'data__download': False}
      return lab.judge_passing(folder / 'run', 'abd', lambda: lab.run(folder / 'run', **fields))

    return Case('a data set', name, try_it)

  lab.finished('abd')
  files = [file.name for file in files_in(lab.data / 'digits/1.0.0')]
  for name in files[:1] if few else files:
    for way, spoil in list(WAYS.items())[2 if few else 0 :]:
      yield case(f'{name} {way}', lambda folder, name=name, spoil=spoil: spoil(folder / name))
  for k in range(1 if few else 8):
    rng = random.Random(f'record {k}')
    for part in ('train',) if few else ('train', 'test'):
      record = f'digits-{part}.array_record-00000-of-00001'
      yield case(f'a bit of {part} {k}', lambda folder, record=record, rng=rng: flip(folder / record, rng))
  for k in range(0 if few else 4):
    labels, rng = f'abd_jax_labels_{("train", "test")[k % 2]}.npz', random.Random(f'labels {k}')
    yield case(f'a bit of the labels {k}', lambda folder, labels=labels, rng=rng: flip(folder / labels, rng))
  for count in () if few else (0, 2, 4):
    keep = files[:count]

    def copied_in_part(folder: Path, keep=keep) -> None:
      for file in files_in(folder):
        if file.name not in keep:
          file.unlink()

    yield case(f'{count} of {len(files)} files copied', copied_in_part)


# Content of another shape under a good checksum, as another program would write it.
PROGRESS: dict[str, Callable[[dict], Any]] = {
  'a list': lambda one: [one],
  'of version 99': lambda one: one | {'schema_version': 99},
  'without history': lambda one: {name: value for name, value in one.items() if name != 'history'},
  'history is a list': lambda one: one | {'history': []},
  'history lacks a part': lambda one: one | {'history': {'accuracy': []}},
  'task is a word': lambda one: one | {'task': 'one'},
  'task of no run': lambda one: one | {'task': 99},
  'step is below zero': lambda one: one | {'step': -5},
  'step is nothing': lambda one: one | {'step': None},
  'an unknown phase': lambda one: one | {'phase': 'sleeping'},
  'saves are a list': lambda one: one | {'saves': [1, 2]},
  'saves of another kind': lambda one: one | {'saves': one['saves'] | {'critic': 1}},
  'saves that are not there': lambda one: one | {'saves': {'student': 999, 'generator': 999}},
  'no checksums': lambda one: one | {'checksums': {}},
  'seconds of another kind': lambda one: one | {'seconds': {'sleep': 1.0}},
}
RESULTS: dict[str, Callable[[dict], Any]] = {
  'a list': lambda one: [one],
  'of version 99': lambda one: one | {'schema_version': 99},
  'without version': lambda one: {name: value for name, value in one.items() if name != 'schema_version'},
  'without accuracies': lambda one: {name: value for name, value in one.items() if 'accuracy' not in name},
  'accuracy is a word': lambda one: one | {'final_accuracy': 'good'},
  'seconds are a number': lambda one: one | {'seconds': 3.0},
  'matrix is nothing': lambda one: one | {'accuracy_matrix': None},
  'classes are a list': lambda one: one | {'class_order': ['0', '1']},
}
MANIFEST: dict[str, Callable[[dict], Any]] = {
  'a list': lambda one: [one],
  'files are a list': lambda one: one | {'files': []},
  'without config': lambda one: {name: value for name, value in one.items() if name != 'config'},
  'classes are a list': lambda one: one | {'class_order': ['0', '1']},
  'task is a word': lambda one: one | {'task': 'one'},
  'sizes are nothing': lambda one: one | {'task_sizes': None},
  'another image shape': lambda one: one | {'image_shape': [8, 8]},
}


def odd_shapes(lab: Lab, few: bool) -> Iterator[Case]:
  """JSON that is whole but not of the shape that it should have."""
  first = lambda shapes: list(shapes.items())[: 1 if few else None]
  for name, change in first(PROGRESS):
    edit = lambda workdir, change=change: _rewrite(newest_save(workdir) / 'progress/metadata', change)
    yield resumed(lab, 'a record of another shape', f'progress: {name}', edit)
  for name, change in first(RESULTS):
    edit = lambda workdir, change=change: _rewrite(workdir / 'results.json', change, seal=False)
    for how in ('run again', 'report'):
      yield read_again(lab, 'a record of another shape', f'results.json: {name}', edit, how)
  for name, change in first(MANIFEST):
    edit = lambda workdir, change=change: _rewrite(workdir / 'teachers/2.json', change)
    yield read_again(lab, 'a record of another shape', f'manifest: {name}', edit, 'predict')


def _rewrite(file: Path, change: Callable[[dict], Any], seal: bool = True) -> None:
  content = json.loads(file.read_text())
  del content['checksum']
  content = change(content)
  file.write_text(json.dumps(sealed(content) if seal and isinstance(content, dict) else content))


def odd_clocks(lab: Lab, few: bool) -> Iterator[Case]:
  """The clock of the machine runs backwards, or jumps; files are of the future, or of long ago."""

  def backwards(by: float) -> Callable[[], float]:
    began = time.time()
    ticks = iter(range(10**9))
    return lambda: began - by * next(ticks)

  for by in (3600.0,) if few else (0.01, 3600.0, 1e6):

    def try_it(folder: Path, by=by) -> Verdict:
      workdir = lab.copy_interrupted(folder)
      with mock.patch('time.time', backwards(by)):
        return lab.judge(workdir, 'abd', lambda: lab.run(workdir))

    yield Case('a clock that runs backwards', f'{by:g} s at each look', try_it)
  for years in () if few else (-20, 10):

    def date(workdir: Path, years=years) -> None:
      when = time.time() + years * 365 * 86400
      for path in workdir.rglob('*'):
        os.utime(path, (when, when))

    yield resumed(lab, 'a clock that runs backwards', f'files of {years} years', date)


def in_process(lab: Lab, few: bool) -> Iterator[Case]:
  """All of this file; few: one or two of each kind."""
  yield from flips(lab, few)
  yield from broken_files(lab, few)
  yield from full_disks(lab, few)
  yield from broken_data(lab, few)
  yield from odd_shapes(lab, few)
  yield from odd_clocks(lab, few)
