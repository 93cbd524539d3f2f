"""One run as its files describe it, and the trials of one config as a group."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

MEASURED = ('data.fingerprint', 'data.mean', 'data.std')  # a run may take these from its data
Row = list[float | None]  # None where there are no test images


class RunRecord(NamedTuple):
  """One workdir."""

  name: str  # of the folder
  config: dict[str, Any]  # flat, with dotted names
  results: dict[str, Any] | None  # results.json; None if the run is not complete
  rows: list[Row]  # of the accuracy matrix, fractions, one for each complete task
  seen: Row  # accuracy over all classes seen, after each task
  class_names: tuple[str, ...]  # of the rows of `confusion`
  confusion: np.ndarray | None  # i[c, c] of the newest evaluation
  phases: list[dict[str, Any]]  # the lines of phases.jsonl
  changed: dict[str, tuple[Any, Any]]  # fields that differ from the default config: name -> (value, default)
  command: str  # the line that runs it again
  diagnosis: dict[str, Any] | None  # diagnosis.json
  pictures: dict[str, np.ndarray]  # the arrays of diagnosis/images.npz, or {}
  note: str = ''  # why something is missing
  free: tuple[str, ...] = ()  # fields of the config that do not change the results

  @property
  def num_tasks(self) -> int:
    """Of the whole run."""
    return len(self.config['task_sizes']) or self.config['tasks']

  @property
  def seconds(self) -> dict[str, float]:
    """Seconds by kind of work; by phase while the run is not complete."""
    total: Counter[str] = Counter()
    for one in self.phases:
      total[one['phase']] += one['seconds']
    return self.results['seconds'] if self.results else dict(total)


class Group(NamedTuple):
  """The trials of one method and config; look: their place in the palette."""

  name: str
  runs: list[RunRecord]
  look: int

  @property
  def diagnoses(self) -> list[dict[str, Any]]:
    return [run.diagnosis for run in self.runs if run.diagnosis]


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
  """Runs that differ only in trial, seed and free fields, together.

  The name of a group is its method, and the fields that distinguish it from other groups of that method.
  """
  groups = []
  for alike in _by(runs, lambda run: {name: run.config[name] for name in _fixed(run) if name not in MEASURED}):
    trials = {run.config['trial'] for run in alike}
    # Trials of a folder measure different first tasks; two runs of one trial were given different values.
    groups += [alike] if len(trials) == len(alike) else _by(alike, _fixed)
  firsts = [group[0] for group in groups]
  return [Group(_name(group[0], firsts), group, k) for k, group in enumerate(groups)]


def _fixed(run: RunRecord) -> dict[str, Any]:
  return {name: value for name, value in run.config.items() if name not in ('trial', 'seed', *run.free)}


def _by(runs: Sequence[RunRecord], fields: Callable[[RunRecord], dict[str, Any]]) -> list[list[RunRecord]]:
  """Runs with the same `fields` together."""
  kinds: dict[str, list[RunRecord]] = {}
  for run in runs:
    kinds.setdefault(repr(sorted(fields(run).items())), []).append(run)
  return list(kinds.values())


def _name(run: RunRecord, runs: Sequence[RunRecord]) -> str:
  """The method, then as few fields as distinguish all of these runs of the same method."""
  fields = [_fixed(one) for one in runs if one.config['method'] == run.config['method']]
  kinds = lambda names: len({tuple(repr(one.get(name)) for name in names) for one in fields})
  left = [name for name in dict.fromkeys(name for one in fields for name in one) if kinds([name]) > 1]
  left.sort(key=lambda name: name in MEASURED)
  chosen = [name for name in left if name == 'data.name']
  while kinds(chosen) < kinds(left):
    chosen.append(max(left, key=lambda name: kinds([*chosen, name])))
  count = Counter(name.rpartition('.')[2] for name in run.config)
  words = [run.config['method']]
  for name in chosen:
    value, last = run.config.get(name), name.rpartition('.')[2]
    words.append(str(value) if name == 'data.name' else f'{last if count[last] == 1 else name}={value}')
  return ', '.join(words)
