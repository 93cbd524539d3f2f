"""The sections of a report that show a diagnosis: the dreams, the features, and the quality of the dreams."""

from collections.abc import Sequence
from html import escape

from abd_jax.report import figures
from abd_jax.report import tables as h
from abd_jax.report.runs import Group, RunRecord

MOST_TASKS = 6  # shown side by side
MOST_CLASSES = 100
IMAGES = 3  # of a class and task


def dreams(groups: Sequence[Group]) -> list[str]:
  """Each class as dreamed after each task, beside real images, for the first trial of each group that dreams."""
  firsts = [(group.name, _first(group, 'dreams')) for group in _with(groups, 'dreams')]
  words = (
    'One row a class: the first images of it (not the best) that the generator made after each task, with the '
    "teacher's mean confidence in all of its dreams of that class; at the right, test images of the class."
  )
  return [h.paragraph(words), *h.folded(firsts, _dream_table, opened=1)] if firsts else []


def _with(groups: Sequence[Group], key: str) -> list[Group]:
  """The groups with a run whose diagnosis has `key`."""
  return [group for group in groups if any(one[key] for one in group.diagnoses)]


def _first(group: Group, key: str) -> RunRecord:
  return next(run for run in group.runs if run.diagnosis and run.diagnosis[key])


def _dream_table(run: RunRecord) -> str:
  assert run.diagnosis
  tasks = [one['task'] for one in run.diagnosis['dreams']]
  if len(tasks) > MOST_TASKS:  # evenly spaced, with the first and the last
    tasks = [tasks[round(k * (len(tasks) - 1) / (MOST_TASKS - 1))] for k in range(MOST_TASKS)]
  confidence = {one['task']: one['class_confidence'] for one in run.diagnosis['dreams']}
  head = ''.join(f'<th>after task {task + 1}</th>' for task in tasks)
  rows = []
  for label, name in enumerate(run.diagnosis['class_names'][:MOST_CLASSES]):
    cells = [_dream_cell(run, name, task, label, confidence[task]) for task in tasks]
    real = run.pictures[f'real_{label}'][:IMAGES]
    shown = h.picture(real, f'real {name}') if len(real) else '-'  # the class may have no test image
    rows.append(f'<tr><th>{escape(name)}</th>{"".join(cells)}<td>{shown}</td></tr>')
  body = f'<thead><tr><th></th>{head}<th>real</th></tr></thead><tbody>{"".join(rows)}</tbody>'
  return f'<div class="scroll dreams"><table>{body}</table></div>'


def _dream_cell(run: RunRecord, name: str, task: int, label: int, confidence: list[float | None]) -> str:
  images = run.pictures.get(f'dreamed_{task}_{label}')
  if images is None:
    return '<td></td>'
  sure = confidence[label]
  if not len(images) or sure is None:
    return '<td class="soft"><small>none</small></td>'
  strip = h.picture(images[:IMAGES], f'dreams of {name} after task {task + 1}')
  return f'<td>{strip}<small>{100 * sure:.0f} %</small></td>'


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
  return [h.side_by_side(*charts), *_planes(later), *_layers(later)]


def _planes(groups: Sequence[Group]) -> list[str]:
  planes = [
    h.figure(figures.plane(run), f'{group.name}: features after task 2 by t-SNE (Figure C).')
    for group in groups
    if (run := _first(group, 'distances')).diagnosis and run.diagnosis['plane']
  ]
  return [h.heading('On a plane'), h.side_by_side(*planes)] if planes else []


def _layers(groups: Sequence[Group]) -> list[str]:
  curves = [
    h.figure(figures.layer_curves(group, key), f'{group.name}: {name} layer by layer, mean over tasks.')
    for group in groups
    for key, name in (('mid', 'MID'), ('mmd2', 'MMD²'))
  ]
  shown = h.side_by_side(*curves)
  if not shown:
    return []
  return [h.heading('Through the network'), shown if len(groups) == 1 else h.details('Layer by layer', shown)]


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
  rows = [_quality_row(group.name, entry) for group in known for entry in group.diagnoses[0]['dreams']]
  agreement = h.figure(figures.agreement_curves(known), 'How often an independent classifier agrees with the teacher.')
  return [h.paragraph(words), h.side_by_side(agreement), h.html_table(header, rows), *_pairs(known)]


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


def _pairs(groups: Sequence[Group]) -> list[str]:
  """The dreams nearest to a training image, each beside it, of each group's last dreaming task."""
  parts = []
  for group in groups:
    run = _first(group, 'dreams')
    assert run.diagnosis
    entry = run.diagnosis['dreams'][-1]
    dreamed, real = (run.pictures[f'nearest_{kind}_{entry["task"]}'] for kind in ('dreamed', 'real'))
    pairs = [
      f'<span>{h.picture(a[None], "dream")}{h.picture(b[None], "training image")}<br>{distance:.3f}</span>'
      for a, b, distance in zip(dreamed, real, entry['pair_distances'], strict=True)
    ]
    parts.append(h.heading(f'{group.name}: the dreams nearest to a training image (left), and that image (right)'))
    parts.append(f'<div class="pairs">{"".join(pairs)}</div>')
  return parts
