"""The sections of a report that show a diagnosis: the dreams, the features, and the quality of the dreams."""

from collections.abc import Sequence
from html import escape

import numpy as np

from abd_jax.report import figures
from abd_jax.report import tables as h
from abd_jax.report.runs import Group, RunRecord

MOST_TASKS = 6  # shown side by side, evenly spaced
MOST_CLASSES = 100
IMAGES = 3  # of a class and task


def dreams(groups: Sequence[Group]) -> list[str]:
  """Each class as dreamed after each task, beside real images, for the first trial of each group that dreams."""
  firsts = [(group.name, group.diagnosed('dreams')[0]) for group in _with(groups, 'dreams')]
  words = (
    'One row a class: the first images of it (not the best) that the generator made after each task, with the '
    "teacher's mean confidence in all of its dreams of that class; at the right, test images of the class."
  )
  return [h.paragraph(words), *h.folded(firsts, _dream_table, opened=1)] if firsts else []


def _with(groups: Sequence[Group], key: str) -> list[Group]:
  return [group for group in groups if group.diagnosed(key)]


def _dream_table(run: RunRecord) -> str:
  entries = run.diagnosis['dreams']
  shown = np.linspace(0, len(entries) - 1, min(MOST_TASKS, len(entries))).round().astype(int)
  entries = [entries[k] for k in shown]
  head = ''.join(f'<th>after task {entry["task"] + 1}</th>' for entry in entries)
  rows = []
  for label, name in enumerate(run.diagnosis['class_names'][:MOST_CLASSES]):
    cells = ''
    for entry in entries:
      images = run.pictures.get(f'dreamed_{entry["task"]}_{label}')
      if images is None:  # the class came later
        cells += '<td></td>'
      elif not len(images):
        cells += '<td class="soft"><small>none</small></td>'
      else:
        strip = h.picture(images[:IMAGES], f'dreams of {name} after task {entry["task"] + 1}')
        cells += f'<td>{strip}<small>{100 * entry["class_confidence"][label]:.0f} %</small></td>'
    real = run.pictures[f'real_{label}'][:IMAGES]
    picture = h.picture(real, f'real {name}') if len(real) else '-'  # the class may have no test image
    rows.append(f'<tr><th>{escape(name)}</th>{cells}<td>{picture}</td></tr>')
  body = f'<thead><tr><th></th>{head}<th>real</th></tr></thead><tbody>{"".join(rows)}</tbody>'
  return f'<div class="scroll dreams"><table>{body}</table></div>'


def features(groups: Sequence[Group]) -> list[str]:
  """Distances, planes, probe and alignment: the paper's Sections 5 and 7 and Appendices B and F."""
  known, later = _with(groups, 'probe'), _with(groups, 'distances')
  if not known:
    return []
  probe = h.figure(
    figures.probe_bars(known),
    "Test accuracy after the last task: of the run's own head, and of a linear probe trained on the features of all "
    'training images. The difference is information that the features have and the head lost.',
  )
  if not later:
    return [h.side_by_side(probe)]
  mid = (
    'Mean Image Distance (Eq. 10, Figure 2) after task 2, of the features that the head sees. If dreamed old classes '
    'lie farther from real old classes than new classes do, the features separate dreamed from real images more than '
    'class from class.'
  )
  mmd = 'The same with unbiased MMD² (Figure B); Gaussian kernel, as wide as the median distance.'
  ratio = 'MID of dreamed old classes divided by MID of new classes, after each task.'
  cka = (
    'Linear CKA (unbiased) of the features of old test images before and after each task: 1 if only rotated or scaled.'
  )
  charts = (
    h.figure(figures.distance_bars(later, 'mid'), mid),
    h.figure(figures.distance_bars(later, 'mmd2'), mmd),
    h.figure(figures.ratio_curves(later), ratio),
    probe,
    h.figure(figures.alignment_curves(later), cka),
  )
  planes = [
    h.figure(figures.plane(group.diagnosed('plane')[0]), f'{group.name}: features after task 2 by t-SNE (Figure C).')
    for group in _with(groups, 'plane')
  ]
  layers = h.side_by_side(
    *(
      h.figure(figures.layer_curves(group, key), f'{group.name}: {name} layer by layer, mean over tasks.')
      for group in later
      for key, name in (('mid', 'MID'), ('mmd2', 'MMD²'))
    )
  )
  parts = [h.side_by_side(*charts), *_drifts(later)]
  if planes:
    parts += [h.heading('On a plane'), h.side_by_side(*planes)]
  if layers:
    folded = layers if len(later) == 1 else h.details('Layer by layer', layers)
    parts += [h.heading('Through the network'), folded]
  return parts


def _drifts(groups: Sequence[Group]) -> list[str]:
  """How far carried class means lie from true ones, task by task, of the first run of each group that carries some."""
  firsts = [(group.name, run.diagnosis['carried']) for group in groups for run in group.diagnosed('carried')[:1]]
  rows = [
    (f'{name}, {entry["task"] + 1}', f'{np.mean(known):.2f}', f'{max(known):.2f}')
    for name, entries in firsts
    for entry in entries
    if (known := [apart for apart in entry['by_class'] if apart is not None])
  ]
  words = (
    "Distance of each earlier class's carried mean from the mean of its training images' features, in units of the "
    "class's deviation, the root of the trace of its covariance."
  )
  header = ('run, after task', 'mean', 'largest')
  return [h.heading('Carried class means'), h.paragraph(words), h.html_table(header, rows)] if rows else []


def quality(groups: Sequence[Group]) -> list[str]:
  """Agreement, balance, variety and the privacy figures, of groups that dream."""
  known = _with(groups, 'dreams')
  if not known:
    return []
  words = (
    'Agreement: how often a support vector machine, trained on the pixels of real images of the same classes, names '
    'the same class for a dream as the teacher; its accuracy on test images shows how far to trust it. Variety: the '
    "variance of dreams' features within a class, divided by that of real images. Nearest: the median distance to the "
    'nearest training image (root mean square of pixels in [0, 1]), for dreams, and for test images as a reference. '
    'Suspicious: dreams nearer to a training image than 99 % of test images are. Leaning: dreams nearer to a training '
    'image than to any of as many test images; 50 % is expected. Both by pixels, and by features in units of their '
    'standard deviation.'
  )
  header = ('run, after task', 'agreement, %', 'chance', 'classifier on real', 'confidence', 'variety',
            'nearest: dreams', 'test images', 'suspicious, %', 'by features', 'leaning, %', 'by features',
            'dreams per class')  # fmt: skip
  firsts = [(group.name, run, run.diagnosis['dreams']) for group in known for run in group.diagnosed('dreams')[:1]]
  rows = [_quality_row(name, entry) for name, _, entries in firsts for entry in entries]
  pairs = [part for name, run, entries in firsts for part in _pairs(name, run, entries[-1])]
  return [h.paragraph(words), h.html_table(header, rows), *pairs]


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


def _pairs(name: str, run: RunRecord, entry: dict) -> tuple[str, str]:
  """The dreams after a task that are nearest to a training image, each beside it."""
  dreamed, real = (run.pictures[f'nearest_{kind}_{entry["task"]}'] for kind in ('dreamed', 'real'))
  pairs = [
    f'<span>{h.picture(a[None], "dream")}{h.picture(b[None], "training image")}<br>{distance:.3f}</span>'
    for a, b, distance in zip(dreamed, real, entry['pair_distances'], strict=True)
  ]
  heading = h.heading(f'{name}: the dreams nearest to a training image (left), and that image (right)')
  return heading, f'<div class="pairs">{"".join(pairs)}</div>'
