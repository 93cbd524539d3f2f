"""The parts of a report that a diagnosis tells: what is dreamed, where features go, and what dreams are worth."""

from collections.abc import Sequence

from abd_jax.report import figures
from abd_jax.report import html as h
from abd_jax.report.runs import Group, RunRecord
from abd_jax.report.tables import percent

MOST_TASKS = 6  # whose dreams are shown side by side
MOST_CLASSES = 100
AT_ONCE = 3  # images of a class and task


def dreams(groups: Sequence[Group]) -> list[str]:
  """For the first trial of each group that dreams: each class as dreamed after each task, beside real images."""
  shown = [(group.name, run) for group in groups for run in group.runs if run.diagnosis and run.diagnosis['dreams']]
  firsts = list({name: (name, run) for name, run in reversed(shown)}.values())[::-1]
  if not firsts:
    return []
  words = (
    'Each row a class: the first images that the generator made of it after each task, not the best, with the '
    "teacher's mean confidence in all of its dreams of that class; at the end test images of the class."
  )
  if len(firsts) == 1:
    return [h.paragraph(words), _dream_table(firsts[0][1])]
  tables = [
    h.details(f'{name}, trial {run.config["trial"]}', _dream_table(run), opened=k == 0)
    for k, (name, run) in enumerate(firsts)
  ]
  return [h.paragraph(words), *tables]


def _dream_table(run: RunRecord) -> str:
  assert run.diagnosis
  tasks = [one['task'] for one in run.diagnosis['dreams']]
  if len(tasks) > MOST_TASKS:  # evenly, the first and the last among them
    tasks = [tasks[round(k * (len(tasks) - 1) / (MOST_TASKS - 1))] for k in range(MOST_TASKS)]
  confidence = {one['task']: one['class_confidence'] for one in run.diagnosis['dreams']}
  head = ''.join(f'<th>after task {task + 1}</th>' for task in tasks)
  rows = []
  for label, name in enumerate(run.diagnosis['class_names'][:MOST_CLASSES]):
    cells = [_dream_cell(run, name, task, label, confidence[task]) for task in tasks]
    real = run.pictures[f'real_{label}'][:AT_ONCE]
    shown = h.picture(real, f'real {name}') if len(real) else '-'  # without a test image
    rows.append(f'<tr><th>{h.escape(name)}</th>{"".join(cells)}<td>{shown}</td></tr>')
  body = f'<thead><tr><th></th>{head}<th>real</th></tr></thead><tbody>{"".join(rows)}</tbody>'
  return f'<div class="scroll dreams"><table>{body}</table></div>'


def _dream_cell(run: RunRecord, name: str, task: int, label: int, confidence: list[float | None]) -> str:
  images = run.pictures.get(f'dreamed_{task}_{label}')
  if images is None or label >= len(confidence):
    return '<td></td>'
  sure = confidence[label]
  if not len(images) or sure is None:
    return '<td class="soft"><small>none</small></td>'
  strip = h.picture(images[:AT_ONCE], f'dreams of {name} after task {task + 1}')
  return f'<td>{strip}<small>{100 * sure:.0f} %</small></td>'


def features(groups: Sequence[Group]) -> list[str]:
  """Distances, planes, probe and alignment: the paper's Sections 5 and 7 and Appendices B and F."""
  known = [group for group in groups if figures.measured(group)]
  later = [group for group in known if any(one['distances'] for one in figures.measured(group))]
  if not known:
    return []
  probe = h.figure(
    figures.probe_bars(known),
    'Test accuracy after the last task of the run’s own head, and of a linear probe that was trained on the features '
    'of all training images: what lies between is in the features, and lost by the head.',
  )
  if not later:
    return [h.charts(probe)]
  ratios = lambda group: [value for row in figures.distance_ratios(group) for value in row]
  dreaming = [group for group in later if any(value is not None for value in ratios(group))]
  bars = [
    h.figure(
      figures.distance_bars(later, 'mid'),
      'Mean Image Distance (Eq. 10, Figure 2) after task 2, of the features that the head sees. If dreamed old classes '
      'lie farther from real old ones than new classes do, the features tell dreamed from real rather than class from '
      'class.',
    ),
    h.figure(figures.distance_bars(later, 'mmd2'), 'The same by unbiased MMD² (Figure B), Gaussian kernel of the '
             'median distance.'),
  ]  # fmt: skip
  if dreaming:
    bars.append(h.figure(figures.ratio_curves(dreaming), 'MID of dreamed over MID of new classes after each task.'))
  bars += [
    probe,
    h.figure(
      figures.alignment_curves(later),
      'Linear CKA (unbiased) of the features of old test images before and after each task: 1 if turned or scaled.',
    ),
  ]
  firsts = [next(run for run in group.runs if run.diagnosis and run.diagnosis['distances']) for group in later]
  planes = [
    h.figure(figures.plane(run), f'{group.name}: features after task 2 by t-SNE (Figure C).')
    for group, run in zip(later, firsts, strict=True)
    if run.diagnosis and run.diagnosis['plane']
  ]
  layers = [
    h.figure(figures.layer_curves(group, distance), f'{group.name}: {distance_name} layer by layer, mean over tasks.')
    for group in later
    for distance, distance_name in (('mid', 'MID'), ('mmd2', 'MMD²'))
  ]
  parts = [h.charts(*bars)]
  if any(planes):
    parts += [h.heading('On a plane'), h.charts(*planes)]
  if by_layer := h.charts(*layers):
    parts += [h.heading('Through the network'), by_layer if len(later) == 1 else h.details('Layer by layer', by_layer)]
  return parts


def quality(groups: Sequence[Group]) -> list[str]:
  """Agreement, balance, variety and the privacy figure, of groups that dream."""
  known = [group for group in groups if any(one['dreams'] for one in figures.measured(group))]
  if not known:
    return []
  words = (
    'Agreement: how often a support vector machine on pixels, trained on real images of the same classes, sees in a '
    'dream what the teacher sees; its accuracy on test images says how far to trust it. Variety: the variance of '
    "dreams' features within a class, as a share of real images'. Nearest: the median distance to the nearest training "
    'image (root-mean-square of pixels in [0, 1]), of dreams and of test images, which nobody copied. Suspicious: '
    'dreams that come nearer than all but 1 % of test images. Leaning: dreams nearer to a training image than to any '
    'of as many test images, of which half are to be expected; by pixels, and by features in units of their deviation.'
  )
  rows = [
    _quality_row(group.name, run, entry)
    for group in known
    for run in group.runs[:1]
    for entry in (run.diagnosis or {}).get('dreams', [])
  ]
  header = ('run, after task', 'agreement, %', 'chance', 'classifier on real', 'confidence', 'variety',
            'nearest: dreams', 'test images', 'suspicious, %', 'by features', 'leaning, %', 'by features',
            'dreams per class')  # fmt: skip
  agreement = h.figure(figures.agreement_curves(known), 'Agreement of the independent classifier with the teacher.')
  return [h.paragraph(words), h.charts(agreement), h.table(header, rows), *_pairs(known)]


def _quality_row(name: str, run: RunRecord, entry: dict) -> tuple[str, ...]:
  share = lambda key: percent(entry[key])
  variety = '-' if entry['diversity'] is None else f'{entry["diversity"]:.2f}'
  counts = entry['histogram']
  return (
    f'{name}, {entry["task"] + 1}', share('agreement'), share('chance'), share('judge_accuracy'), share('confidence'),
    variety, f'{entry["nearest_dreamed"][2]:.3f}', f'{entry["nearest_unseen"][2]:.3f}',
    *(f'{100 * near[key]:.1f}' for key in ('suspicious', 'closer') for near in (entry, entry['features'])),
    f'{min(counts)} to {max(counts)}',
  )  # fmt: skip


def _pairs(groups: Sequence[Group]) -> list[str]:
  """The dreams nearest to a training image, each beside it, of each group's last dreaming task."""
  parts = []
  for group in groups:
    run = next(run for run in group.runs if run.diagnosis and run.diagnosis['dreams'])
    assert run.diagnosis
    entry = run.diagnosis['dreams'][-1]
    ours, theirs = (run.pictures[f'nearest_{kind}_{entry["task"]}'] for kind in ('dreamed', 'real'))
    pairs = [
      f'<span>{h.picture(a[None], "dream")}{h.picture(b[None], "training image")}<br>{distance:.3f}</span>'
      for a, b, distance in zip(ours, theirs, entry['pair_distances'], strict=True)
    ]
    parts.append(h.heading(f'{group.name}: the dreams nearest to a training image (left), and that image (right)'))
    parts.append(f'<div class="pairs">{"".join(pairs)}</div>')
  return parts
