"""The picture of class Gaussians in docs/methods.md, from a run on digits: python -m experiments gaussians

Shows two old classes in the last task: the first class of the task before, which was carried once, and the first class
of all, which was carried after every later task. Training images of old classes give their true Gaussians, no more.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from abd_jax.analysis.diagnose import read_images
from abd_jax.config import changed, load_config
from abd_jax.methods import class_gaussians
from abd_jax.report import charts
from abd_jax.run import queue
from abd_jax.run.load import load_snapshot
from abd_jax.run.plan import build
from abd_jax.steps.student import in_batches
from experiments import options
from experiments.replay import by_both
from experiments.runs import job, tell
from experiments.store import write

GAUSSIANS = {'before the task': charts.GREY, 'carried': 0, 'true': 1}  # name -> look
DOT = 'M{x:.1f} {y:.1f}m-1.4 0a1.4 1.4 0 1 0 2.8 0a1.4 1.4 0 1 0-2.8 0z'
CROSS = 'M{x:.1f} {y:.1f}m-3-.5h2.5v-2.5h1v2.5h2.5v1h-2.5v2.5h-1v-2.5h-2.5z'
POINTS = {  # name -> mark, look, opacity; in the order of drawing
  'dreams of other classes': (CROSS, charts.GREY, 0.2),
  'new images': (DOT, 2, 0.7),
  'dreams of the class': (CROSS, 0, 0.9),
}
CORNER, SIZE = np.array([charts.RIGHT, charts.TOP]), np.array([charts.WIDTH - 2 * charts.RIGHT, 240])  # of a panel
CIRCLE = np.exp(2j * np.pi * np.arange(60) / 60)[:, None].view(float)  # f[60, 2]


class Carried(NamedTuple):
  """What the last task of a run did to the old classes. Features f[.., d] are the newest model's."""

  names: tuple[str, ...]
  times: np.ndarray  # i[c]: how often each was carried
  statistics: tuple[dict, ...]  # in the order of GAUSSIANS: 'means' f[c, d], 'covariances' f[c, d, d]
  by_old: np.ndarray  # f[n, 4, d], by the model before: of each new image, its copy and two dreams
  by_new: np.ndarray

  def nearer(self, *labels: int) -> str:
    """How much nearer to the true means of these classes the carried ones are than those before, on average."""
    before, carried, true = (one['means'][list(labels)] for one in self.statistics)
    share = 1 - np.linalg.norm(carried - true, axis=1).sum() / np.linalg.norm(before - true, axis=1).sum()
    return f'{100 * abs(share):.0f} % {"nearer" if share >= 0 else "farther"}'


def last_task(workdir: Path) -> Carried:
  """Of a finished run that dreams. The images, copies and dreams are those that carried its statistics."""
  config, manifest, last = load_snapshot(workdir)
  plan, task = build(changed(config, {'devices': 1})), manifest['task']
  old, new = load_snapshot(workdir, task - 1)[2].model, last.model
  by_old, by_new = by_both(plan, task, old, new, plan.stream.task(task).decode()[0])
  real, count = read_images(workdir.absolute(), task), sum(plan.schedule.tasks.sizes[:task])
  features = in_batches(lambda images: plan.steps.embed(new, images), real.train, config.eval_batch_size)
  mine = [features[real.train_labels == label] for label in range(count)]
  true = {'means': [rows.mean(0) for rows in mine], 'covariances': [np.cov(rows.T, bias=True) for rows in mine]}
  statistics = tuple({key: np.asarray(of) for key, of in one.items()} for one in (old.statistics, new.statistics, true))
  times = task - plan.schedule.tasks.task_of_class[:count]
  return Carried(plan.stream.class_names[:count], times, statistics, by_old, by_new)


def plane(ends: np.ndarray, covariance: np.ndarray) -> np.ndarray:
  """f[d, 2]: maps features to the plane through zero and two `ends` f[2, d].

  It is stretched so that `covariance` f[d, d] becomes the identity. The first end lies to the right, the other below.
  """
  basis = np.linalg.qr(ends.T)[0]
  stretched = basis @ np.linalg.inv(np.linalg.cholesky(basis.T @ covariance @ basis)).T
  turn, placed = np.linalg.qr((ends @ stretched).T)
  return stretched @ turn * np.sign([placed[0, 0], -placed[1, 1]])


def projected(found: Carried, label: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
  """An old class on the plane through its mean before, its true mean and that of the new images.

  Returns (f[n, 2] of each of POINTS, the GAUSSIANS' means f[3, 2], their ellipses of two deviations f[3, 60, 2]).
  """
  means, covariances = (np.stack([one[key][label] for one in found.statistics]) for key in ('means', 'covariances'))
  by_old, dreams = (one[:, 2:].reshape(-1, one.shape[-1]) for one in (found.by_old, found.by_new))
  images, before, true = found.by_new[:, 0], found.statistics[0], means[2]
  scores = np.asarray(class_gaussians.scores(jnp.asarray(by_old), before))
  named = scores[:, : len(found.names)].argmax(1)  # as the model before predicts
  across = plane(np.stack([images.mean(0), means[0]]) - true, covariances[2])
  points = [(rows - true) @ across for rows in (dreams[named != label], images, dreams[named == label])]
  means, roots = (means - true) @ across, np.linalg.cholesky(across.T @ covariances @ across)
  return points, means, means[:, None] + 2 * CIRCLE @ np.swapaxes(roots, 1, 2)


def panel(found: Carried, label: int) -> list[str]:
  """The SVG of an old class: all of the ellipses and, along each axis, at least 98 % of the points; equal scales."""
  points, means, rings = projected(found, label)
  held = np.concatenate([*rings, np.percentile(np.concatenate(points), [1, 99], axis=0)])
  middle, scale = (held.min(0) + held.max(0)) / 2, np.min((SIZE - 12) / np.ptp(held, axis=0))
  place = lambda rows: CORNER + SIZE / 2 + scale * (rows - middle) * [1, -1]
  times = 'once' if found.times[label] == 1 else f'{found.times[label]} times'
  words = f'Digit {found.names[label]}, carried {times}: mean {found.nearer(label)} to the true one'
  (left, top), (width, height) = CORNER, SIZE
  frame = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="{charts.FAINT}"/>'
  parts = [charts.text(left, 16, words), frame]
  for (mark, look, opacity), rows in zip(POINTS.values(), points, strict=True):
    inside = rows[(scale * np.abs(rows - middle) < SIZE / 2 - 3).all(1)]
    path = ''.join(mark.format(x=x, y=y) for x, y in place(inside))
    parts.append(f'<path d="{path}" fill="{charts.colour(look)}" fill-opacity="{opacity}"/>')
  for look, ring, mean in zip(GAUSSIANS.values(), rings, means, strict=True):
    corners, style = ' '.join(f'{x:.1f},{y:.1f}' for x, y in place(ring)), f'stroke-width="2"{charts.dash(look)}'
    parts.append(f'<polygon points="{corners}" fill="none" stroke="{charts.colour(look)}" {style}/>')
    x, y = place(mean)
    parts.append(charts.circle(x, y, 4, f'fill="{charts.colour(look)}" stroke="#ffffff"'))
  return parts


def picture(found: Carried, title: str) -> str:
  """The SVG of the first class that was carried once and the first class of all, side by side."""
  below, count = float((CORNER + SIZE)[1] + 6), len(found.names)
  right = lambda parts: [f'<g transform="translate({charts.WIDTH})">', *parts, '</g>']
  lines, _ = charts.legend(list(GAUSSIANS.items()), below)
  names = [(name, look) for name, (_, look, _) in POINTS.items()]
  marks, height = charts.legend(names, below, [mark for mark, _, _ in POINTS.values()])
  average = f'On average over the {count} old classes, carrying brings means {found.nearer(*range(count))}.'
  foot = charts.text(charts.RIGHT, below + height + 14, f'Ellipses: two deviations; dots in them: means. {average}')
  body = [*panel(found, int(np.argmax(found.times == 1))), *lines, *right([*panel(found, 0), *marks]), foot]
  return charts.svg(below + height + 22, body, title, 2 * charts.WIDTH)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--trial', type=options.at_least(0), default=30, metavar='N', help='default: %(default)s')
  options.add(parser, 'runs', 'output', runs=Path('runs/gaussians'), output=Path('runs/gaussians/class_gaussians.svg'))


def main(arguments: argparse.Namespace) -> None:
  name = f'trial_{arguments.trial}'
  config = load_config(f'digits:method=class_gaussians,trial={arguments.trial}')
  queue.execute([job(config, arguments.runs / name)], tell=tell).complete()
  title = f'Class Gaussians in the last task of digits, trial {arguments.trial}: before it, carried, and true'
  write(arguments.output, charts.standalone(picture(last_task(arguments.runs / name), title)))
  print(arguments.output)
