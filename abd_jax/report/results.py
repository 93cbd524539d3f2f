"""The parts of a report that results.json, the config and the logs tell."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from abd_jax.report import charts, figures
from abd_jax.report import html as h
from abd_jax.report.runs import Group, RunRecord

SUMMARY = (
  ('final accuracy', 'final_accuracy'), ('average accuracy', 'average_accuracy'), ('forgetting', 'forgetting'),
  ('backward transfer', 'backward_transfer'),
)  # fmt: skip


def headline(groups: Sequence[Group]) -> str:
  """Tiles for one group; a table for several."""
  finished = lambda group: [run.results for run in group.runs if run.results]
  number = lambda group, key: h.mean_std([one.get(key) for one in finished(group)])
  if len(groups) > 1:
    rows = [
      (group.name, _count(group), *(number(group, key) for _, key in SUMMARY), _time(group), _kept_images(group))
      for group in groups
    ]
    return h.table(
      ('method', 'runs', *(f'{name}, %' for name, _ in SUMMARY), 'time', 'real images kept, at most'), rows
    )
  group = groups[0]
  if not finished(group):
    last = min(len(run.seen) for run in group.runs)  # that all of them have learnt
    seen = [run.seen[last - 1] if last else None for run in group.runs]
    words = f'accuracy so far, after task {last}'
    tiles = [h.tile(_percent(h.mean_std(seen)), words)]
  else:
    tiles = [h.tile(_percent(number(group, key)), name) for name, key in SUMMARY[:3]]
  tiles += [h.tile(_time(group), 'time'), h.tile(_kept_images(group), 'real images kept, at most')]
  return f'<div class="tiles">{"".join(tiles)}</div>'


def _count(group: Group) -> str:
  """'3', or '2 of 3' where one is not complete: the numbers are of those that are."""
  finished, runs = sum(run.results is not None for run in group.runs), len(group.runs)
  return str(runs) if finished == runs else f'{finished} of {runs}'


def _percent(number: str) -> str:
  return number if number == '-' else f'{number} %'


def _time(group: Group) -> str:
  seconds = float(np.mean([sum(run.seconds.values()) for run in group.runs]))
  return (
    f'{seconds:.0f} s' if seconds < 600 else f'{seconds / 60:.0f} min' if seconds < 36000 else f'{seconds / 3600:.1f} h'
  )


def _kept_images(group: Group) -> str:
  kept = [run.diagnosis['kept_images'] for run in group.runs if run.diagnosis]
  return str(kept[0]) if kept else 'not known'


def accuracy(groups: Sequence[Group]) -> list[str]:
  """The curves of all runs; for the first trial of each group the matrix and the confusions."""
  groups = [group for group in groups if any(run.seen for run in group.runs)]
  if not groups:
    return [h.paragraph('No task is complete yet.')]
  several = max(len(group.runs) for group in groups) > 1
  words = 'Accuracy on the test images of all classes seen, after each task.'
  words += ' Bands: one standard deviation over trials.' if several else ''
  curves = h.figure(figures.accuracy_curves(groups), words)
  firsts = [(group.name, next(run for run in group.runs if run.rows)) for group in groups]
  if len(firsts) == 1:
    return [h.charts(curves, *_matrices(firsts[0][1]))]
  more = [
    h.details(f'{name}, trial {run.config["trial"]}', h.charts(*_matrices(run)), opened=len(firsts) <= 2)
    for name, run in firsts
  ]
  return [h.charts(curves, h.figure(figures.seconds_bars(groups), 'Seconds of each kind of work.')), *more]


def _matrices(run: RunRecord) -> list[str]:
  tasks = [str(k + 1) for k in range(len(run.rows))]
  matrix = charts.heat(run.rows, tasks, tasks, 'Accuracy matrix', ('learnt', 'tested on the classes of task'))
  shown = [h.figure(matrix, 'Accuracy in percent on each task (column) after learning each task (row).')]
  counts = run.confusion if run.confusion is not None else (run.diagnosis or {}).get('confusion')
  if counts is not None:
    counts = np.asarray(counts)
    names = run.class_names[: len(counts)] or tuple(str(k + 1) for k in range(len(counts)))
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist()
    confusion = charts.heat(shares, names, names, 'Confusion matrix', ('true', 'predicted'))
    words = f'Confusion after task {len(run.rows)}: share in percent of each class (row), in learning order.'
    shown.append(h.figure(confusion, words, wide=len(counts) > 20))
  return shown


def costs(groups: Sequence[Group]) -> list[str]:
  """Seconds by kind of work, time and memory by phase, and what is carried from task to task."""
  kinds = list(dict.fromkeys(kind for group in groups for run in group.runs for kind in run.seconds))
  known = lambda group, kind: [run.seconds[kind] for run in group.runs if kind in run.seconds]
  mean = lambda group, kind: f'{np.mean(those):.1f}' if (those := known(group, kind)) else '-'
  parts = [h.table(('seconds', *kinds), [(group.name, *(mean(group, kind) for kind in kinds))
                                        for group in groups])]  # fmt: skip
  kept = [(group.name, run.diagnosis['kept_bytes']) for group in groups for run in group.runs[:1] if run.diagnosis]
  if kept:
    names = {'student': 'frozen student', 'generator': 'generator', 'images': 'real images'}
    rows = [(name, *(h.size(of.get(key, 0)) for key in names), h.size(sum(of.values()))) for name, of in kept]
    parts += [h.heading('Kept between tasks'), h.table(('', *names.values(), 'in all'), rows)]
  phases = [(group.name, run) for group in groups for run in group.runs[:1] if run.phases]
  if phases:
    parts += [h.heading('By task and phase')]
    parts += [
      h.details(f'{name}, trial {run.config["trial"]}', _phase_table(run), opened=len(phases) == 1)
      for name, run in phases
    ]
  return parts


def _phase_table(run: RunRecord) -> str:
  """A stretch of a phase a row: a phase that was resumed has several."""
  rows = []
  for one in run.phases:
    peak = one.get('peak_bytes', {})
    memory = [h.size(peak[where]) if where in peak else '-' for where in ('host', 'device')]
    rows.append((f'{one["task"] + 1} {one["phase"]}', str(one['steps']), f'{one["seconds"]:.1f}', *memory))
  return h.table(('task and phase', 'steps', 'seconds', 'peak memory so far, host', 'device'), rows)


def origin(groups: Sequence[Group]) -> list[str]:
  """Config, versions and commands, of the first trial of each group."""
  runs = [(group.name, run) for group in groups for run in group.runs[:1]]
  parts = []
  for name, run in runs:
    inside = [h.heading('Run again'), f'<pre>{h.escape(_commands(run))}</pre>', *_differences(run)]
    if run.results:
      facts = _facts(run.results)
      inside += [h.heading('Where it ran'), h.table(('', ''), facts, numbers=False)]
    every = '\n'.join(f'{field} = {value!r}' for field, value in sorted(run.config.items()))
    inside.append(h.details('The whole config', f'<pre>{h.escape(every)}</pre>'))
    parts += inside if len(runs) == 1 else [h.details(f'{name}, trial {run.config["trial"]}', *inside)]
  return parts


def _commands(run: RunRecord) -> str:
  commit = (run.results or {}).get('commit')
  return (f'git checkout {commit.rstrip("+")}\n' if commit else '') + run.command


def _differences(run: RunRecord) -> list[str]:
  if not run.changed:
    return [h.paragraph('Every field of the config is at its default.')]
  rows = [(name, _short(value), _short(usual)) for name, (value, usual) in sorted(run.changed.items())]
  return [h.heading('Differences from the default config'), h.table(('field', 'here', 'default'), rows, numbers=False)]


def _short(value: Any) -> str:
  if isinstance(value, (list, tuple)):
    return ', '.join(map(_short, value))
  return f'{value:.6g}' if isinstance(value, float) else str(value) if value != '' else "''"


def _facts(results: dict[str, Any]) -> list[tuple[str, str]]:
  device, versions = results['device'], results['versions']
  commit = results['commit'] or 'not known'
  named = 'cpu_model' in device  # earlier versions named none
  cores = f', {device["cpu_cores"]} cores of {device["cpu_model"]}' if named else ''
  return [
    ('commit', commit.rstrip('+') + (', with changes' if commit.endswith('+') else '')),
    ('device', f'{device["count"]} × {device["kind"]} ({device["platform"]}){cores}'),
    ('versions', ', '.join(f'{name} {version}' for name, version in versions.items())),
  ]  # fmt: skip
