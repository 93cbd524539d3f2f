"""The report: one HTML file that needs nothing else. page.html has its words. Every word of a run is escaped."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from xml.etree import ElementTree

import numpy as np

from abd_jax.report import charts, figures
from abd_jax.report import tables as h
from abd_jax.report.runs import Group, RunRecord, firsts, grouped

MOST_TASKS = 6  # whose dreams are shown side by side, evenly spaced
MOST_CLASSES = 100
IMAGES = 3  # of a class and task


def report(runs: Sequence[RunRecord]) -> str:
  """The page of one or more runs."""
  groups = grouped(runs)
  fields = {
    'title': escape(_title(groups)),
    'subtitle': escape(_subtitle(runs)),
    'notes': ''.join(f'<p class="note">{escape(f"{run.name}: {run.note}")}</p>' for run in runs if run.note),
    'headline': headline(groups),
    **accuracy(groups),
    'dreams': h.folded(_diagnosed(groups, 'dreams'), dreams, opened=1),
    **features(groups),
    **quality(groups),
    **costs(groups),
    'origin': h.folded(firsts(groups), origin, opened=0),
  }
  page = ElementTree.fromstring(files('abd_jax.report').joinpath('page.html').read_bytes())
  _prune(page, fields)
  return f'<!DOCTYPE html>\n{Template(ElementTree.tostring(page, "unicode", "html")).substitute(fields)}\n'


def _prune(element: ElementTree.Element, fields: dict[str, str]) -> None:
  """Removes what is inside of `element` and has $names of fields that are all empty."""
  for child in list(element):
    names = Template(' '.join(child.itertext())).get_identifiers()
    if names and not any(fields[name] for name in names):
      element.remove(child)
    else:
      _prune(child, fields)


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


def accuracy(groups: Sequence[Group]) -> dict[str, str]:
  """The curves of all runs; for the first trial of each group, the accuracy matrix and the confusion matrix."""
  evaluated = firsts(groups, lambda run: run.results['accuracy_matrix'])
  return {
    'untrained': '' if evaluated else 'No task is complete yet.',
    'accuracy': figures.accuracy_curves(groups),
    'matrices': h.folded(evaluated, _matrices, opened=2),
  }


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
  return h.side_by_side(shown)


def _diagnosed(groups: Sequence[Group], key: str) -> list[tuple[str, RunRecord]]:
  """The first run of each group whose diagnosis has something under `key`, with the group's name."""
  return firsts(groups, lambda run: run.diagnosis.get(key))


def dreams(run: RunRecord) -> str:
  """Each class as dreamed after each task, beside real images."""
  entries = run.diagnosis['dreams']
  shown = np.linspace(0, len(entries) - 1, min(MOST_TASKS, len(entries))).round().astype(int)
  entries = [entries[k] for k in shown]

  def cell(entry: dict, label: int, name: str) -> str:
    images = run.pictures.get(f'dreamed_{entry["task"]}_{label}')
    if images is None:  # the class came later
      return ''
    if not len(images):
      return 'none'
    strip = h.picture(images[:IMAGES], f'dreams of {name} after task {entry["task"] + 1}')
    return h.Part(f'{strip}<small>{100 * entry["class_confidence"][label]:.0f} %</small>')

  rows = []
  for label, name in enumerate(run.diagnosis['class_names'][:MOST_CLASSES]):
    real = run.pictures[f'real_{label}'][:IMAGES]
    picture = h.picture(real, f'real {name}') if len(real) else '-'  # the class may have no test image
    rows.append((name, *(cell(entry, label, name) for entry in entries), picture))
  return h.html_table(('', *(f'after task {entry["task"] + 1}' for entry in entries), 'real'), rows, numbers=False)


def features(groups: Sequence[Group]) -> dict[str, str]:
  """Distances, planes, probe and alignment: the paper's Sections 5 and 7 and Appendices B and F."""
  layers = (
    h.figure(figures.layer_curves(group, key), f'{group.name}: {name} layer by layer, mean over tasks.')
    for group in groups
    for key, name in (('mid', 'MID'), ('mmd2', 'MMD²'))
  )
  return {
    'mid': figures.distance_bars(groups, 'mid'),
    'mmd2': figures.distance_bars(groups, 'mmd2'),
    'ratio': figures.ratio_curves(groups),
    'probe': figures.probe_bars(groups),
    'alignment': figures.alignment_curves(groups),
    'carried': _drifts(groups),
    'planes': ''.join(
      h.figure(figures.plane(run), f'{name}: features after task 2 by t-SNE (Figure C).')
      for name, run in _diagnosed(groups, 'plane')
    ),
    'layers': h.details('Layer by layer', h.side_by_side(layers), opened=len(groups) == 1),
  }


def _drifts(groups: Sequence[Group]) -> str:
  """How far carried class means lie from true ones, task by task, of the first run of each group that carries some."""
  rows = [
    (f'{name}, {entry["task"] + 1}', f'{np.mean(known):.2f}', f'{max(known):.2f}')
    for name, run in _diagnosed(groups, 'carried')
    for entry in run.diagnosis['carried']
    if (known := [apart for apart in entry['by_class'] if apart is not None])
  ]
  return h.html_table(('run, after task', 'mean', 'largest'), rows)


def quality(groups: Sequence[Group]) -> dict[str, str]:
  """Agreement, balance, variety and the privacy figures, of groups that dream."""
  header = ('run, after task', 'agreement, %', 'chance', 'classifier on real', 'confidence', 'variety',
            'nearest: dreams', 'test images', 'suspicious, %', 'by features', 'leaning, %', 'by features',
            'dreams per class')  # fmt: skip
  dreaming = _diagnosed(groups, 'dreams')
  rows = [_quality_row(name, entry) for name, run in dreaming for entry in run.diagnosis['dreams']]
  return {
    'quality': h.html_table(header, rows),
    'pairs': ''.join(_pairs(name, run) for name, run in dreaming),
  }


def _quality_row(name: str, entry: dict) -> tuple[str, ...]:
  variety, counts = entry['diversity'], entry['histogram']
  return (
    f'{name}, {entry["task"] + 1}',
    *(h.percent(entry[key]) for key in ('agreement', 'chance', 'judge_accuracy', 'confidence')),
    '-' if variety is None else f'{variety:.2f}',
    *(f'{entry[key][2]:.3f}' for key in ('nearest_dreamed', 'nearest_unseen')),
    *(h.percent(by[key]) for key in ('suspicious', 'closer') for by in (entry, entry['features'])),
    f'{min(counts)} to {max(counts)}',
  )


def _pairs(name: str, run: RunRecord) -> str:
  """The dreams after the last dreaming task that are nearest to a training image, each beside it."""
  entry = run.diagnosis['dreams'][-1]
  dreamed, real = (run.pictures[f'nearest_{kind}_{entry["task"]}'] for kind in ('dreamed', 'real'))
  pairs = ''.join(
    f'<span>{h.picture(a[None], "dream")}{h.picture(b[None], "training image")}<br>{distance:.3f}</span>'
    for a, b, distance in zip(dreamed, real, entry['pair_distances'], strict=True)
  )
  words = escape(f'{name}: the dreams nearest to a training image (left), and that image (right)')
  return f'<h3>{words}</h3><div class="pairs">{pairs}</div>'


def costs(groups: Sequence[Group]) -> dict[str, str]:
  """Seconds by kind of work, what is carried from task to task, and time and memory by phase."""
  spent = [(group.name, [run.results['seconds'] for run in group.runs]) for group in groups]
  kinds = list(dict.fromkeys(kind for _, runs in spent for seconds in runs for kind in seconds))
  known = lambda runs, kind: [seconds[kind] for seconds in runs if kind in seconds]
  mean = lambda values: f'{np.mean(values):.1f}' if values else '-'
  kept = {'student': 'frozen student', 'generator': 'generator', 'statistics': 'class statistics'}
  kept |= {'images': 'real images'}
  examined = [(name, run.diagnosis['kept_bytes']) for name, run in firsts(groups, lambda run: run.diagnosis)]
  sizes = [(name, *(h.size(of.get(key, 0)) for key in kept), h.size(sum(of.values()))) for name, of in examined]
  return {
    'seconds': h.html_table(
      ('seconds', *kinds), [(name, *(mean(known(runs, kind)) for kind in kinds)) for name, runs in spent]
    ),
    'kept': h.html_table(('', *kept.values(), 'in all'), sizes),
    'phases': h.folded(firsts(groups, lambda run: run.phases), _phase_table, opened=0),
  }


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
  parts = ['<h3>Run again</h3>', f'<pre>{escape(command)}</pre>']
  if run.changed:
    rows = [(name, _short(value), _short(usual)) for name, (value, usual) in sorted(run.changed.items())]
    parts += ['<h3>Differences from the default config</h3>', h.html_table(('field', 'here', 'default'), rows, False)]
  else:
    parts.append('<p>Every field of the config is at its default.</p>')
  if run.is_complete:
    commit, device = commit or 'not known', run.results['device']
    where = f'{device["count"]} × {device["kind"]} ({device["platform"]})'
    rows = [
      ('commit', commit.rstrip('+') + (', with changes' if commit.endswith('+') else '')),
      ('device', f'{where}, {device["cpu_cores"]} cores of {device["cpu_model"]}'),
      ('versions', ', '.join(f'{name} {version}' for name, version in run.results['versions'].items())),
    ]
    parts += ['<h3>Where it ran</h3>', h.html_table(('', ''), rows, numbers=False)]
  fields = '\n'.join(f'{field} = {value!r}' for field, value in sorted(run.config.items()))
  return '\n'.join([*parts, h.details('The whole config', f'<pre>{escape(fields)}</pre>')])


def _short(value: Any) -> str:
  if isinstance(value, (list, tuple)):
    return ', '.join(map(_short, value))
  return f'{value:.6g}' if isinstance(value, float) else str(value) if value != '' else "''"
