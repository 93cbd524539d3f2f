"""The report: one HTML file that needs nothing else. Every word of a run is escaped."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from abd_jax.report import charts, figures
from abd_jax.report import tables as h
from abd_jax.report.diagnosis import dreams, features, quality
from abd_jax.report.runs import Group, RunRecord, grouped


def report(runs: Sequence[RunRecord]) -> str:
  """The page of one or more runs."""
  groups = grouped(runs)
  firsts = [(group.name, group.runs[0]) for group in groups]
  style = files('abd_jax.report').joinpath('style.css').read_text()
  notes = [f'{run.name}: {run.note}' if len(runs) > 1 else run.note for run in runs if run.note]
  body = [
    f'<h1>{escape(_title(groups))}</h1>',
    f'<p class="soft">{escape(_subtitle(runs))}</p>',
    *(f'<p class="note">{escape(note)}</p>' for note in notes),
    headline(groups),
    h.section('Accuracy', *accuracy(groups)),
    h.section('Dreams', *dreams(groups)),
    h.section('Where the features go', *features(groups)),
    h.section('What the dreams are worth', *quality(groups)),
    h.section('Time, memory, and what is kept', *costs(groups)),
    h.section('How it was run', *h.folded(firsts, origin, opened=0)),
  ]
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    f'<title>{escape(_title(groups))}</title><style>\n{style}</style></head><body><main>\n'
    + '\n'.join(body)
    + '\n</main></body></html>\n'
  )


def _title(groups: Sequence[Group]) -> str:
  configs = [run.config for group in groups for run in group.runs]
  data = sorted({config['data.name'] for config in configs})
  tasks = sorted({len(config['task_sizes']) or config['tasks'] for config in configs})
  methods = ', '.join(group.name for group in groups[:6]) + (f' and {len(groups) - 6} more' if len(groups) > 6 else '')
  many = ' or '.join(map(str, tasks))
  return f'{methods} on {" and ".join(data)}, {many} task{"s" if tasks != [1] else ""}'


def _subtitle(runs: Sequence[RunRecord]) -> str:
  words = f'{len(runs)} runs.'
  if len(runs) == 1:
    commit = runs[0].results.get('commit')
    words = f'Trial {runs[0].config["trial"]}.' + (f' Commit {commit[:10]}.' if commit else '')
  for run in runs:
    if not run.is_complete:
      seen = run.results['seen_accuracy']
      so_far = f': accuracy so far, after task {len(seen)}: {h.percent(seen[-1])} %' if seen else ''
      words += f' {run.name} is not complete{so_far}.'
  return words


def headline(groups: Sequence[Group]) -> str:
  """Accuracy over all tasks, time and memory of each group."""
  names = (*(f'{key.replace("_", " ")}, %' for key in h.METRICS), 'time', 'real images kept, at most')
  rows = []
  for group in groups:
    complete = [run.results for run in group.runs if run.is_complete]
    count = f'{len(complete)} of {len(group.runs)}' if len(complete) < len(group.runs) else f'{len(complete)}'
    accuracies = [h.mean_std([results[key] for results in complete]) for key in h.METRICS]
    seconds = float(np.mean([sum(run.results['seconds'].values()) for run in group.runs]))
    kept = str(group.diagnoses[0]['kept_images']) if group.diagnoses else 'not known'
    rows.append((group.name, count, *accuracies, h.duration(seconds), kept))
  return h.html_table(('method', 'runs', *names), rows)


def accuracy(groups: Sequence[Group]) -> list[str]:
  """The curves of all runs; for the first trial of each group, the accuracy matrix and the confusion matrix."""
  groups = [group for group in groups if any(run.results['accuracy_matrix'] for run in group.runs)]
  if not groups:
    return [h.paragraph('No task is complete yet.')]
  words = 'Accuracy on the test images of all classes seen, after each task.'
  words += ' Bands: one standard deviation over trials.' if any(len(group.runs) > 1 for group in groups) else ''
  curves = h.figure(figures.accuracy_curves(groups), words)
  firsts = [(group.name, next(run for run in group.runs if run.results['accuracy_matrix'])) for group in groups]
  return [curves, *h.folded(firsts, _matrices, opened=2)]


def _matrices(run: RunRecord) -> str:
  rows = run.results['accuracy_matrix']
  tasks = [str(k + 1) for k in range(len(rows))]
  matrix = charts.heat(rows, tasks, tasks, 'Accuracy matrix', ('learnt', 'tested on the classes of task'))
  shown = [h.figure(matrix, 'Accuracy in percent on each task (column) after learning each task (row).')]
  if run.confusion:
    names, counts = run.confusion
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist()
    confusion = charts.heat(shares, names, names, 'Confusion matrix', ('true', 'predicted'))
    words = f'Confusion after task {len(rows)}: share in percent of each class (row), in learning order.'
    shown.append(h.figure(confusion, words, wide=len(counts) > 20))
  return h.side_by_side(*shown)


def costs(groups: Sequence[Group]) -> list[str]:
  """Seconds by kind of work, what is carried from task to task, and time and memory by phase."""
  kinds = list(dict.fromkeys(kind for group in groups for run in group.runs for kind in run.results['seconds']))
  rows = []
  for group in groups:
    known = [[run.results['seconds'][kind] for run in group.runs if kind in run.results['seconds']] for kind in kinds]
    rows.append((group.name, *(f'{np.mean(values):.1f}' if values else '-' for values in known)))
  parts = [h.html_table(('seconds', *kinds), rows)]
  firsts = [(group.name, group.runs[0]) for group in groups]
  if kept := [(name, run.diagnosis['kept_bytes']) for name, run in firsts if run.diagnosis]:
    names = {'student': 'frozen student', 'generator': 'generator'}
    names |= {'statistics': 'class statistics', 'images': 'real images'}
    rows = [(name, *(h.size(of.get(key, 0)) for key in names), h.size(sum(of.values()))) for name, of in kept]
    parts += [h.heading('Kept between tasks'), h.html_table(('', *names.values(), 'in all'), rows)]
  if phases := [(name, run) for name, run in firsts if run.phases]:
    parts += [h.heading('By task and phase'), *h.folded(phases, _phase_table, opened=0)]
  return parts


def _phase_table(run: RunRecord) -> str:
  """A row for each stretch of a phase: a phase that was resumed has several."""
  rows = []
  for one in run.phases:
    peak = one.get('peak_bytes', {})
    memory = [h.size(peak[where]) if where in peak else '-' for where in ('host', 'device')]
    rows.append((f'{one["task"] + 1} {one["phase"]}', str(one['steps']), f'{one["seconds"]:.1f}', *memory))
  return h.html_table(('task and phase', 'steps', 'seconds', 'peak memory so far, host', 'device'), rows)


def origin(run: RunRecord) -> str:
  """Command, differences from the default config, machine and config."""
  commit = run.results.get('commit')
  command = (f'git checkout {commit.rstrip("+")}\n' if commit else '') + run.command
  parts = [h.heading('Run again'), f'<pre>{escape(command)}</pre>']
  if run.changed:
    rows = [(name, _short(value), _short(usual)) for name, (value, usual) in sorted(run.changed.items())]
    parts += [h.heading('Differences from the default config'), h.html_table(('field', 'here', 'default'), rows, False)]
  else:
    parts.append(h.paragraph('Every field of the config is at its default.'))
  if run.is_complete:
    commit, device = commit or 'not known', run.results['device']
    where = f'{device["count"]} × {device["kind"]} ({device["platform"]})'
    rows = [
      ('commit', commit.rstrip('+') + (', with changes' if commit.endswith('+') else '')),
      ('device', f'{where}, {device["cpu_cores"]} cores of {device["cpu_model"]}'),
      ('versions', ', '.join(f'{name} {version}' for name, version in run.results['versions'].items())),
    ]
    parts += [h.heading('Where it ran'), h.html_table(('', ''), rows, numbers=False)]
  fields = '\n'.join(f'{field} = {value!r}' for field, value in sorted(run.config.items()))
  return '\n'.join([*parts, h.details('The whole config', f'<pre>{escape(fields)}</pre>')])


def _short(value: Any) -> str:
  if isinstance(value, (list, tuple)):
    return ', '.join(map(_short, value))
  return f'{value:.6g}' if isinstance(value, float) else str(value) if value != '' else "''"
