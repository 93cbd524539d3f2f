"""What a report is made of: one run as its files tell it, and runs that differ only in their trial together."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

SAME_RUN = ('trial', 'seed')  # fields in which the trials of one thing may differ
_LAST = ('data.fingerprint', 'data.mean', 'data.std')  # what says least to a reader
Row = list[float | None]  # None where there are no test images


class RunRecord(NamedTuple):
  """One workdir.

  Attributes:
    name: the folder's.
    config: flat, dotted names.
    results: results.json, or None where the run is not complete.
    rows: of the accuracy matrix, fractions; as far as the run has come.
    seen: f, accuracy over all classes seen, after each task.
    class_names: in learning order, of the classes learnt so far; () where no file says.
    confusion: i[c, c] of the newest evaluation, or None.
    phases: the lines of phases.jsonl.
    changed: fields that differ from the default config: name -> (value, default).
    command: the line that runs it again.
    diagnosis: diagnosis.json, or None.
    pictures: the arrays of diagnosis/images.npz, or {}.
    note: why something is missing, or ''.
    free: fields of the config that change where and when it runs, not what it computes, and those of other methods.
  """

  name: str
  config: dict[str, Any]
  results: dict[str, Any] | None
  rows: list[Row]
  seen: Row
  class_names: tuple[str, ...]
  confusion: np.ndarray | None
  phases: list[dict[str, Any]]
  changed: dict[str, tuple[Any, Any]]
  command: str
  diagnosis: dict[str, Any] | None
  pictures: dict[str, np.ndarray]
  note: str = ''
  free: tuple[str, ...] = ()

  @property
  def num_tasks(self) -> int:
    """Of the whole run."""
    return len(self.config['task_sizes']) or self.config['tasks']

  @property
  def seconds(self) -> dict[str, float]:
    """Phase -> seconds of the student, the generator and so on; of a run under way, what phases.jsonl adds up to."""
    if self.results:
      return self.results['seconds']
    total: dict[str, float] = {}
    for one in self.phases:
      total[one['phase']] = total.get(one['phase'], 0.0) + one['seconds']
    return total


class Group(NamedTuple):
  """Trials of one method and config; look: its place in the palette."""

  name: str
  runs: list[RunRecord]
  look: int


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
  """Runs by method and config but for the trial and what is free.

  Groups of one method are told apart by the fields in which they differ, as few as do.
  """
  groups = []
  for alike in _by(runs, lambda run: {**_fixed(run), **dict.fromkeys(_measured(run))}):
    trials = [run.config['trial'] for run in alike]
    # Trials of a folder measure its normalisation on other classes; two runs of one trial have been given it.
    groups += [alike] if len(set(trials)) == len(trials) else _by(alike, _fixed)
  firsts = [group[0] for group in groups]
  told = {method: _telling([run for run in firsts if run.config['method'] == method]) for method in _methods(firsts)}
  return [Group(_name(group[0], told), group, k) for k, group in enumerate(groups)]


def _methods(runs: Sequence[RunRecord]) -> set[str]:
  return {run.config['method'] for run in runs}


def _fixed(run: RunRecord) -> dict[str, Any]:
  return {name: value for name, value in run.config.items() if name not in (*SAME_RUN, *run.free)}


def _measured(run: RunRecord) -> tuple[str, ...]:
  """Fields that may have been found out from the first task's images."""
  return ('data.mean', 'data.std') if run.config['data.name'] == 'image_folder' else ()


def _by(runs: Sequence[RunRecord], fields: Callable[[RunRecord], dict[str, Any]]) -> list[list[RunRecord]]:
  """Runs with the same `fields` together."""
  kinds: dict[str, list[RunRecord]] = {}
  for run in runs:
    kinds.setdefault(repr(sorted(fields(run).items())), []).append(run)
  return list(kinds.values())


def _telling(runs: Sequence[RunRecord]) -> list[str]:
  """Fields that tell all of these apart, as few as do: the data set's name, then whatever parts most of them."""
  fields = [_fixed(run) for run in runs]
  kinds = lambda names: len({tuple(repr(one.get(name)) for name in names) for one in fields})
  known = dict.fromkeys(name for one in fields for name in one)
  left = sorted((name for name in known if kinds([name]) > 1), key=lambda name: name in _LAST)
  told = [name for name in left if name == 'data.name']
  while kinds(told) < kinds(left):
    told.append(max(left, key=lambda name: kinds([*told, name])))
  return told


def _name(run: RunRecord, told: dict[str, list[str]]) -> str:
  """The method and the fields that tell it from others of it; told: method -> those."""
  last = lambda name: name.rpartition('.')[2]
  alone = {name for name, count in Counter(map(last, run.config)).items() if count == 1}
  words = [run.config['method']]
  for name in told[run.config['method']]:
    value = run.config.get(name)
    words.append(str(value) if name == 'data.name' else f'{last(name) if last(name) in alone else name}={value}')
  return ', '.join(words)
