"""One run as its files describe it, and the trials of one config as a group."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OF_A_TRIAL = ('trial', 'seed', 'data.mean', 'data.std')  # mean and std may be measured on a trial's first task


class RunRecord(NamedTuple):
  """One workdir."""

  name: str  # of the folder
  config: dict[str, Any]  # flat, with dotted names
  results: Mapping[str, Any] = {}  # results.json, or what it would hold so far: accuracies and seconds
  confusion: tuple[list[str], np.ndarray] | None = None  # (class names, counts i[c, c]) of the newest evaluation
  phases: Sequence[dict[str, Any]] = ()  # the lines of phases.jsonl
  changed: Mapping[str, tuple[Any, Any]] = {}  # field that changes results -> (value, default), where they differ
  command: str = ''  # the line that runs it again
  diagnosis: Mapping[str, Any] = {}  # diagnosis.json
  pictures: Mapping[str, np.ndarray] = {}  # the arrays of diagnosis/images.npz
  note: str = ''  # why something is missing

  @property
  def is_complete(self) -> bool:
    return 'final_accuracy' in self.results


class Group(NamedTuple):
  """The trials of one method and config; look: their place in the palette."""

  name: str
  runs: list[RunRecord]
  look: int

  @property
  def diagnoses(self) -> list[Mapping[str, Any]]:
    return [run.diagnosis for run in self.runs if run.diagnosis]


def firsts(groups: Sequence[Group], has: Callable[[RunRecord], Any] = bool) -> list[tuple[str, RunRecord]]:
  """For each group with a run of which `has` is true: (name of the group, the first such run)."""
  found = [(group.name, next(filter(has, group.runs), None)) for group in groups]
  return [(name, run) for name, run in found if run]


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
  """Runs whose configs differ only in the trial, or in what changes no results, together.

  The name of a group is its method, and the fields that distinguish it from other groups of that method.
  """
  kinds: dict[str, list[RunRecord]] = {}
  for run in runs:
    kinds.setdefault(repr(sorted(_settings(run).items())), []).append(run)
  leading = [alike[0] for alike in kinds.values()]
  return [Group(_name(alike[0], leading), alike, k) for k, alike in enumerate(kinds.values())]


def _settings(run: RunRecord) -> dict[str, Any]:
  return {name: value for name, (value, _) in run.changed.items() if name not in OF_A_TRIAL}


def _name(run: RunRecord, runs: Sequence[RunRecord]) -> str:
  """The method, then as few fields as distinguish all of these runs of the same method."""
  settings = [_settings(one) for one in runs if one.config['method'] == run.config['method']]
  kinds = lambda names: len({tuple(repr(one.get(name)) for name in names) for one in settings})
  left = [name for name in dict.fromkeys(name for one in settings for name in one) if kinds([name]) > 1]
  chosen = [name for name in left if name == 'data.name']
  while kinds(chosen) < kinds(left):
    chosen.append(max(left, key=lambda name: kinds([*chosen, name])))
  count = Counter(name.rpartition('.')[2] for name in run.config)
  words = [run.config['method']]
  for name in chosen:
    value, last = run.config.get(name), name.rpartition('.')[2]
    words.append(str(value) if name == 'data.name' else f'{last if count[last] == 1 else name}={value}')
  return ', '.join(words)
