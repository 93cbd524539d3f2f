"""Figures A and D of the paper: python -m experiments.figures --figure=A [--data=digits]

A: Omega up to each task. D: seconds of a training step, without compiling. Both are of the runs of the table of all
methods: those without a result are run first, as `experiments.tables` does. Writes an SVG and a CSV, and prints the
numbers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from abd_jax.errors import UserError
from abd_jax.protocol import metrics
from abd_jax.report.tables import table as markdown
from abd_jax.run.workdir import write_atomically
from experiments import runs
from experiments.common import cli
from experiments.paper import TABLES
from experiments.runs import Planned

COLOURS = ('#4e79a7', '#f28e2b', '#e15759', '#76b7b2', '#59a14f', '#edc948', '#b07aa1', '#ff9da7', '#9c755f', '#79706e')
TABLE = 'methods'  # whose runs the figures show


def omega_curves(planned: list[Planned], found: dict[str, dict]) -> dict[str, list[float]]:
  """Method -> mean over trials of Omega up to each task, percent; for methods whose upper bound has run too."""
  curves = {}
  for one in planned:
    upper = runs.upper_bound(one, planned, found)
    if one.name in found and upper:
      curve = metrics.omega_curve(found[one.name]['seen_accuracy'], upper['seen_accuracy'])
      curves.setdefault(one.row.name, []).append(curve)
  mean = lambda trials: [100 * sum(values) / len(values) for values in zip(*trials, strict=True)]
  return {name: mean(trials) for name, trials in curves.items()}


def step_seconds(planned: list[Planned], found: dict[str, dict]) -> dict[str, list[float]]:
  """Method -> [seconds of one training step of the student], mean over trials."""
  seconds = {}
  for one in planned:
    if result := found.get(one.name):
      seconds.setdefault(one.row.name, []).append(result['seconds']['train'] / result['steps']['student'])
  return {name: [sum(values) / len(values)] for name, values in seconds.items()}


def svg(lines: dict[str, Sequence[float]], x_label: str, y_label: str) -> str:
  """Curves over 1, 2, ...; of single values, bars."""
  width, height, left, top = 460, 300, 60, 20
  most, length = max(max(values) for values in lines.values()), max(map(len, lines.values()))
  x = lambda k: left + width * (k / max(length - 1, 1))
  y = lambda value: top + height * (1 - value / most)
  text = lambda at_x, at_y, words, more='': f'<text x="{at_x:.1f}" y="{at_y:.1f}" {more}>{words}</text>'
  parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
  parts += [text(left - 6, y(most * k / 4) + 4, f'{most * k / 4:.3g}', 'text-anchor="end"') for k in range(5)]
  parts += [text(left, top - 6, y_label), text(left + width, top + height + 32, x_label, 'text-anchor="end"')]
  if length > 1:
    parts += [text(x(k), top + height + 16, k + 1, 'text-anchor="middle"') for k in range(length)]
  for k, (name, values) in enumerate(lines.items()):
    colour = f'stroke="{COLOURS[k % len(COLOURS)]}"' + (' stroke-dasharray="5 3"' if k >= len(COLOURS) else '')
    points = [(x(i), y(value)) for i, value in enumerate(values)]
    if length == 1:
      at = left + width * (k + 0.5) / len(lines)
      points = [(at, y(0)), (at, y(values[0]))]
    path = ' '.join(f'{a:.1f},{b:.1f}' for a, b in points)
    parts.append(f'<polyline points="{path}" fill="none" {colour} stroke-width="{2 if length > 1 else 16}"/>')
    row = top + 12 + 17 * k
    parts.append(f'<path d="M{left + width + 12} {row}h22" {colour} stroke-width="3"/>')
    parts.append(text(left + width + 40, row + 4, f'{name}: {values[-1]:.3g}'))
  body = '\n'.join(parts)
  size = f'viewBox="0 0 {left + width + 260} {top + height + 50}"'
  return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n{body}\n</svg>\n'


FIGURES = {
  'A': (omega_curves, 'task', 'Omega up to the task, %'),
  'D': (step_seconds, '', 'seconds of a training step'),
}


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--figure', default='A', choices=list(FIGURES))
  parser.add_argument('--tasks', type=int, default=0, help="default: the first of the table's splits")
  parser.add_argument('--output', type=Path, default=Path('runs/figures'), help='where .svg and .csv are written')
  runs.add_arguments(parser)
  arguments = parser.parse_args(argv)
  measure, x_label, y_label = FIGURES[arguments.figure]
  planned = runs.plan_of(TABLE, arguments)
  splits = runs.splits_on(TABLES[TABLE], arguments.data)
  tasks = arguments.tasks or splits[0]
  if tasks not in splits:
    raise UserError(f'--tasks={tasks} is not a split of {arguments.data}. Known: {", ".join(map(str, splits))}.')
  planned = [one for one in planned if one.tasks == tasks]
  if arguments.print_commands:
    return runs.print_commands(TABLE, planned, arguments)
  runs.run_missing(planned, arguments)
  found, complaints = runs.gather(planned, arguments.results)
  lines = measure(planned, found)
  if not lines:
    raise UserError(f'no finished run of {arguments.data} in {tasks} tasks lies in {arguments.results}.')
  header = ('method', *(str(k + 1) for k in range(len(next(iter(lines.values()))))))
  rows = [(name, *(f'{value:.4g}' for value in values)) for name, values in lines.items()]
  arguments.output.mkdir(parents=True, exist_ok=True)
  stem = arguments.output / f'figure_{arguments.figure}_{arguments.data}_{tasks}_tasks'
  write_atomically(stem.with_suffix('.csv'), '\n'.join(','.join(row) for row in (header, *rows)) + '\n')
  write_atomically(stem.with_suffix('.svg'), svg(lines, x_label, y_label))
  absent = [row.name for row in TABLES[TABLE].rows if row.name not in lines]
  notes = [f'- {complaint}' for complaint in complaints] + [f'- not run: {name}' for name in absent]
  print('\n'.join([y_label, markdown(header, rows), *notes, str(stem.with_suffix('.svg'))]))


if __name__ == '__main__':
  cli(main)
