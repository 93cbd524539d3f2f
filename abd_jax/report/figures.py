"""The figures of a report: those of the paper (2, B, C, D) and others, and the picture of a task's dreams."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.report import charts
from abd_jax.report.charts import Series
from abd_jax.report.runs import Group, RunRecord

KINDS = {'dreamed': ('dreamed old classes', 0), 'new': ('real new classes', 1)}
LABELS = {'mid': 'MID to real old classes', 'mmd2': 'MMD² to real old classes'}


def _over_tasks(
  groups: Sequence[Group], trials: Callable[[Group], list], first: int, label: str, title: str, **more: Any
) -> str:
  """A curve for each group, of the rows of its trials over the tasks from `first` on. more: for charts.curves."""
  series = [Series(group.name, trials(group), group.look) for group in groups]
  ticks = [str(first + k) for k in range(max((len(row) for one in series for row in one.trials), default=0))]
  return charts.curves(series, ticks, 'tasks learnt', label, title, **more)


def accuracy_curves(groups: Sequence[Group]) -> str:
  """Accuracy over all classes seen, after each task."""
  trials = lambda group: [list(map(_percent, run.results['seen_accuracy'])) for run in group.runs]
  return _over_tasks(groups, trials, 1, 'accuracy, all classes seen', 'Accuracy', unit='%', top=100)


def _percent(value: float | None) -> float | None:
  return None if value is None else 100 * value


def final_layer(entry: dict[str, Any]) -> Any:
  """The value, in a task's entry of `distances` or `cka`, of the features that the head sees."""
  return list(entry['layers'].values())[-1]


def _bars(
  groups: Sequence[Group], kinds: dict, value: Callable[[Any, str], Any], label: str, title: str, unit: str = ''
) -> str:
  """Bars for each group with values: one for each kind (key -> name, look), the mean of value(diagnosis, key)."""
  rows = {group.name: {key: [value(one, key) for one in group.diagnoses] for key in kinds} for group in groups}
  known = {name: row for name, row in rows.items() if any(one is not None for key in kinds for one in row[key])}
  trials = lambda key: list(itertools.zip_longest(*(row[key] for row in known.values())))
  series = [Series(name, trials(key), look) for key, (name, look) in kinds.items()]
  return charts.bars(series, list(known), label, title, unit)


def distance_bars(groups: Sequence[Group], distance: str) -> str:
  """Figures 2 ('mid') and B ('mmd2'): distance of dreamed old and real new classes from real old ones, after task 2."""
  first = lambda diagnosis: (final_layer(one)[distance] for one in diagnosis['distances'])  # that of task 2 is first
  value = lambda diagnosis, kind: next(first(diagnosis), {kind: None})[kind]
  return _bars(groups, KINDS, value, LABELS[distance], f'{LABELS[distance]}, after task 2')


def distance_ratios(group: Group, distance: str = 'mid') -> list[list[float | None]]:
  """For each trial, after each task from the second on: distance(old, dreamed) / distance(old, new)."""
  ratio = lambda one: one['dreamed'] / one['new'] if one['dreamed'] is not None and one['new'] else None
  return [[ratio(final_layer(entry)[distance]) for entry in one['distances']] for one in group.diagnoses]


def ratio_curves(groups: Sequence[Group]) -> str:
  """The ratios of MID over the tasks, with a line at 1, of groups that dream; '' if none does."""
  level = ('equally far', 1.0)
  return _over_tasks(groups, distance_ratios, 2, 'MID dreamed / MID new', 'MID ratio', level=level)


def layer_curves(group: Group, distance: str) -> str:
  """A distance layer by layer, mean over tasks; '' without a diagnosis of two tasks."""
  known = [one['distances'] for one in group.diagnoses if one['distances']]
  layers = list(known[0][0]['layers']) if known else []
  rows = lambda of, kind: [[one['layers'][layer][distance][kind] for layer in layers] for one in of]
  mean = lambda of, kind: Series('', rows(of, kind), 0).mean_std()[0].tolist()
  series = [Series(name, [mean(of, kind) for of in known], look) for kind, (name, look) in KINDS.items()]
  return charts.curves(series, layers, '', LABELS[distance], f'{group.name}: {LABELS[distance]} by layer')


def alignment_curves(groups: Sequence[Group]) -> str:
  """CKA of old classes' features before and after each task."""
  trials = lambda group: [list(map(final_layer, one['cka'])) for one in group.diagnoses]
  title = 'CKA of old classes before and after the task'
  return _over_tasks(groups, trials, 2, title, title, top=1.0)


def probe_bars(groups: Sequence[Group]) -> str:
  """Accuracy of each method's own head, and of a probe trained on all the data."""
  kinds = {'head': ("the run's own head", 0), 'probe': ('a linear probe on its features', 4)}
  value = lambda diagnosis, kind: _percent(diagnosis['probe'][kind]['all'])
  return _bars(groups, kinds, value, 'accuracy, all classes', 'Probe and head', '%')


def plane(run: RunRecord) -> str:
  """Figure C: t-SNE of the features after the second task."""
  points, kinds = run.diagnosis['plane'], {'old': ('real old classes', 2), **KINDS}
  sets = [(name, points[kind], look) for kind, (name, look) in kinds.items() if kind in points]
  return charts.scatter(sets, f'{run.config["method"]}: features after task {points["task"] + 1}, t-SNE')


def save_grid(images: np.ndarray, labels: Sequence[str], file: Path) -> None:
  """Writes a PNG of images f[n, h, w, c] in [0, 1], c 1 or 3: eight to a row, small ones enlarged, with their labels.

  The file appears whole or not at all.
  """
  from PIL import Image, ImageDraw

  n, height, width, channels = images.shape
  scale = max(1, 64 // height)
  columns, caption, gap = min(8, n), 12, 2
  cell_w, cell_h = width * scale + gap, height * scale + caption + gap
  sheet = Image.new('RGB', (columns * cell_w, -(-n // columns) * cell_h), 'white')
  draw = ImageDraw.Draw(sheet)
  pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
  for k in range(n):
    left, top = k % columns * cell_w, k // columns * cell_h
    tile = Image.fromarray(pixels[k, :, :, 0] if channels == 1 else pixels[k])
    tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    sheet.paste(tile.convert('RGB'), (left, top + caption))
    draw.text((left + 1, top), labels[k][: width * scale // 6], fill='black')
  temporary = file.with_name(file.name + '.tmp')
  sheet.save(temporary, 'PNG')
  temporary.replace(file)
