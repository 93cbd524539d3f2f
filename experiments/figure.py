"""Figures 2, A, B, C and D of the paper, and the linear probe: python -m experiments figure --figure=2 --config=digits

  2, B    how far dreams and new classes lie from old ones, by Mean Image Distance and by MMD^2, after the second task
  C       features on a plane by t-SNE, after the second task of trial 0
  probe   accuracy of a linear probe on the features beside that of the method's own head
  A, D    Omega up to each task; seconds of a training step, without compiling

A and D show the runs of the table of all methods. The others measure the frozen models of DeepInversion, ABD, R-DFCIL,
LwF and Base, and keep the numbers in --results, so that a picture can be drawn again without workdirs. Missing runs
are run first, as `table` does. Writes SVG and CSV, and prints the numbers.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from abd_jax.errors import UserError
from abd_jax.protocol import metrics
from abd_jax.report import charts, figures
from abd_jax.report.charts import Series
from abd_jax.report.tables import table as markdown
from experiments import diagnosis, options, runs, table
from experiments.plan import Cell, by_cell, upper_bound
from experiments.store import write
from experiments.summary import summarise

OF_RESULTS, OF_MODELS = ('A', 'D'), ('2', 'B', 'C', 'probe')
SECONDS = 'seconds of a training step'
Cells = dict[Cell, dict[int, dict]]  # row and tasks -> trial -> results of its run
Lines = dict[str, list[list[float]]]  # method -> for each trial, values


class Drawn(NamedTuple):
  """A figure: its pictures by the end of their file names, its numbers as a table, and what is missing."""

  pictures: dict[str, str]
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: list[str]


def omega_curves(cells: Cells) -> Lines:
  """Omega up to each task, percent, of the methods whose upper bound has run too."""
  curves = {}
  for cell, trials in cells.items():
    upper = upper_bound(cells, cell.tasks)
    pairs = [(trials[trial], upper[trial]) for trial in trials if trial in upper]
    if pairs:
      of_trials = [metrics.omega_curve(one['seen_accuracy'], most['seen_accuracy']) for one, most in pairs]
      curves[cell.row.name] = [[100 * value for value in values] for values in of_trials]
  return curves


def step_seconds(cells: Cells) -> Lines:
  """[seconds of one training step of the student] for each trial."""
  return {
    cell.row.name: [[result['seconds']['train'] / result['steps']['student']] for result in trials.values()]
    for cell, trials in cells.items()
    if trials
  }


def _of_results(asked: table.Asked, arguments: argparse.Namespace) -> Drawn:
  """Figure A or D."""
  found, complaints = runs.gather(asked.planned, arguments.results)
  cells = by_cell(asked.planned, found)
  lines = omega_curves(cells) if arguments.figure == 'A' else step_seconds(cells)
  _check(lines, asked, arguments.results)
  series = [Series(name, trials, k) for k, (name, trials) in enumerate(lines.items())]
  rows = [[one.name, *(f'{value:.4g}' for value in one.mean_std()[0])] for one in series]
  notes = complaints + [f'not run: {cell.row.name}' for cell in cells if cell.row.name not in lines]
  if arguments.figure == 'D':
    most = max(map(len, lines.values()))
    by_trial = [[values[k][0] if k < len(values) else None for values in lines.values()] for k in range(most)]
    picture = charts.bars([Series(SECONDS, by_trial, 0)], list(lines), '', 'seconds', 'Figure D')
    return Drawn({'': picture}, ('method', SECONDS), rows, notes)
  ticks = [str(k + 1) for k in range(len(rows[0]) - 1)]
  top = max(100, *(max(one.mean_std()[0]) for one in series))
  picture = charts.curves(series, ticks, 'tasks learnt', 'Ω up to the task', 'Figure A', '%', top)
  header = ['method', *ticks]
  papers = {line['method']: line['paper_omega'] for line in summarise(asked.table, asked.config, asked.planned, found)}
  if any(papers.values()):
    header.append("paper's, all tasks")
    rows = [[*row, '-' if papers[row[0]] is None else f'{papers[row[0]]:.1f}'] for row in rows]
  return Drawn({'': picture}, header, rows, notes)


def _of_models(asked: table.Asked, arguments: argparse.Namespace) -> Drawn:
  """Figure 2, B or C, or the probe."""
  file = diagnosis.file_of(asked.config, arguments.results)
  found = diagnosis.gather(asked.planned, file)
  groups = diagnosis.groups(asked.planned, found)
  shown = groups if arguments.figure == 'probe' else diagnosis.dreaming(groups)
  _check(shown, asked, file)
  notes = [f'not measured: {one.name}' for one in asked.planned if one.name not in found]
  if arguments.figure == 'probe':
    return Drawn({'': figures.probe_bars(shown)}, *diagnosis.probes(shown), notes)
  distance = 'mmd2' if arguments.figure == 'B' else 'mid'
  pictures = {'': figures.distance_bars(shown, distance)}
  if arguments.figure == 'C':
    pictures = {f'_{method}': picture for method, picture in diagnosis.planes(shown).items()}
  return Drawn(pictures, *diagnosis.distances(shown, distance), notes)


def _check(shown: object, asked: table.Asked, where: Path) -> None:
  if not shown:
    raise UserError(f'{where} has no finished run of {asked.config} in {asked.planned[0].tasks} tasks')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--figure', default='A', choices=OF_MODELS + OF_RESULTS)
  tasks = "default: the table's first split"
  parser.add_argument('--tasks', type=options.at_least(1), default=0, metavar='N', help=tasks)
  runs.add_arguments(parser)
  table.add_choice(parser)
  parser.set_defaults(table=diagnosis.TABLE, rows=(), output=Path('runs/figures'))


def ask(arguments: argparse.Namespace) -> table.Asked:
  """The runs that the figure shows. Raises UserError if the table has no split of --tasks."""
  asked = table.ask(arguments)
  splits = list(dict.fromkeys(one.tasks for one in asked.planned))
  tasks = arguments.tasks or splits[0]
  if tasks not in splits:
    raise UserError(f'expected --tasks to be one of {", ".join(map(str, splits))} for {asked.config}, got {tasks}')
  planned = [one for one in asked.planned if one.tasks == tasks]
  if arguments.figure in OF_RESULTS:
    return asked._replace(planned=planned)
  words = ['figure', f'--figure={arguments.figure}', *asked.words[2:], f'--tasks={tasks}']
  return asked._replace(planned=diagnosis.looked_at(planned), words=words)


def main(arguments: argparse.Namespace) -> None:
  asked, of_models = ask(arguments), arguments.figure in OF_MODELS
  wanted, measured = table.chosen(asked, arguments), diagnosis.file_of(asked.config, arguments.results)
  if arguments.print_commands:
    lacking = diagnosis.missing(wanted, measured) if of_models else runs.missing(wanted, arguments.results)
    return table.print_commands(asked, lacking, arguments)
  if of_models:
    jobs = [diagnosis.measuring(one, measured, arguments) for one in diagnosis.missing(wanted, measured)]
  outcome = runs.in_turn(jobs, arguments) if of_models else runs.execute(wanted, arguments)
  drawn = (_of_models if of_models else _of_results)(asked, arguments)
  stem = f'figure_{arguments.figure}_{asked.config}_{asked.planned[0].tasks}_tasks'
  files = {arguments.output / f'{stem}{end}.svg': picture for end, picture in drawn.pictures.items()}
  for place, picture in files.items():
    write(place, charts.standalone(picture))
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([drawn.header, *drawn.rows])
  write(arguments.output / f'{stem}.csv', text.getvalue())
  print('\n'.join([markdown(drawn.header, drawn.rows), *(f'- {note}' for note in drawn.notes), *map(str, files)]))
  outcome.check_sound()
