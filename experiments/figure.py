"""Figures A and D of the paper: python -m experiments figure --figure=A --config=digits

A: Omega up to each task. D: seconds of a training step, without compiling. Both are of the runs of the table of all
methods: those without a result are run first, as `table` does. Writes an SVG and a CSV, and prints the numbers.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from abd_jax.errors import UserError
from abd_jax.protocol import metrics
from abd_jax.report.tables import table as markdown
from experiments import options, runs, table
from experiments.files import write
from experiments.plan import Cell, by_cell, upper_bound

COLOURS = ('#4e79a7', '#f28e2b', '#e15759', '#76b7b2', '#59a14f', '#edc948', '#b07aa1', '#ff9da7', '#9c755f', '#79706e')
TABLE = 'methods'  # whose runs the figures show
Cells = dict[Cell, dict[int, dict]]  # row and tasks -> trial -> what its run found


def omega_curves(cells: Cells) -> dict[str, list[float]]:
  """Method -> mean over trials of Omega up to each task, percent; for methods whose upper bound has run too."""
  curves = {}
  for cell, trials in cells.items():
    upper = upper_bound(cells, cell.tasks)
    pairs = [(trials[trial], upper[trial]) for trial in trials if trial in upper]
    if of_trials := [metrics.omega_curve(one['seen_accuracy'], most['seen_accuracy']) for one, most in pairs]:
      curves[cell.row.name] = [100 * sum(values) / len(values) for values in zip(*of_trials, strict=True)]
  return curves


def step_seconds(cells: Cells) -> dict[str, list[float]]:
  """Method -> [seconds of one training step of the student], mean over trials."""
  seconds = {}
  for cell, trials in cells.items():
    if steps := [result['seconds']['train'] / result['steps']['student'] for result in trials.values()]:
      seconds[cell.row.name] = [sum(steps) / len(steps)]
  return seconds


def svg(lines: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> str:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--figure', default='A', choices=list(FIGURES))
  parser.add_argument('--tasks', type=options.whole(1), default=0, metavar='N', help="default: the table's first split")
  runs.add_arguments(parser)
  table.add_choice(parser)
  parser.set_defaults(output=Path('runs/figures'))


def main(arguments: argparse.Namespace) -> None:
  measure, x_label, y_label = FIGURES[arguments.figure]
  asked = _in_tasks(table.ask(TABLE, arguments), arguments.tasks)
  if arguments.print_commands:
    return table.print_commands(asked, arguments)
  runs.execute(table.chosen(asked, arguments), arguments)
  found, complaints = runs.gather(asked.planned, arguments.results)
  cells = by_cell(asked.planned, found)
  lines, tasks = measure(cells), asked.planned[0].tasks
  if not lines:
    raise UserError(f'no finished run of {asked.config} in {tasks} tasks lies in {arguments.results}.')
  header = ('method', *(str(k + 1) for k in range(len(next(iter(lines.values()))))))
  rows = [(name, *(f'{value:.4g}' for value in values)) for name, values in lines.items()]
  stem = arguments.output / f'figure_{arguments.figure}_{asked.config}_{tasks}_tasks'
  write(stem.with_suffix('.csv'), '\n'.join(','.join(row) for row in (header, *rows)) + '\n')
  write(stem.with_suffix('.svg'), svg(lines, x_label, y_label))
  absent = [cell.row.name for cell in cells if cell.row.name not in lines]
  notes = [f'- {complaint}' for complaint in complaints] + [f'- not run: {name}' for name in absent]
  print('\n'.join([y_label, markdown(header, rows), *notes, str(stem.with_suffix('.svg'))]))


def _in_tasks(asked: table.Asked, tasks: int) -> table.Asked:
  """The runs of one split, 0 for the first. Raises UserError if there is no such split."""
  splits = list(dict.fromkeys(one.tasks for one in asked.planned))
  tasks = tasks or splits[0]
  if tasks not in splits:
    raise UserError(f'--tasks={tasks} is not a split of {asked.config}. Known: {", ".join(map(str, splits))}.')
  return asked._replace(planned=[one for one in asked.planned if one.tasks == tasks])
