"""Figures 2, A, B, C and D of the paper, and the linear probe: python -m experiments figure --figure=2 --config=digits

  2, B    how far dreams and new classes lie from old ones, by Mean Image Distance and by MMD^2, after the second task
  C       features on a plane by t-SNE, after the second task of trial 0
  probe   accuracy of a linear probe on the features beside that of the method's own head
  A, D    Omega up to each task; seconds of a training step, without compiling

A and D are of the runs of the table of all methods. The others look into the frozen models of DeepInversion, ABD,
R-DFCIL, LwF and Base, and keep what they measure in --measured, so that a picture can be drawn again without workdirs.
Runs that lack are run first, as `table` does. Writes SVG and CSV, and prints the numbers.
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
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

TABLE = diagnosis.TABLE  # whose runs the figures show
OF_RESULTS, OF_MODELS = ('A', 'D'), ('2', 'B', 'C', 'probe')
SECONDS = 'seconds of a training step'
Cells = dict[Cell, dict[int, dict]]  # row and tasks -> trial -> what its run found
Lines = dict[str, list[list[float]]]  # method -> for each trial, values


class Drawn(NamedTuple):
  """A figure: pictures, each under the end of its file's name, the numbers as a table, and what lacks."""

  pictures: dict[str, str]
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: list[str]


def omega_curves(cells: Cells) -> Lines:
  """Omega up to each task, percent; for methods whose upper bound has run too."""
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
  """A or D. Raises UserError if nothing it needs has run."""
  found, complaints = runs.gather(asked.planned, arguments.results)
  cells = by_cell(asked.planned, found)
  is_omega = arguments.figure == 'A'
  lines = omega_curves(cells) if is_omega else step_seconds(cells)
  if not lines:
    raise _nothing(asked, arguments.results)
  series = {name: Series(name, trials, k) for k, (name, trials) in enumerate(lines.items())}
  means = {name: [f'{value:.4g}' for value in one.mean_std()[0]] for name, one in series.items()}
  ticks = [str(k + 1) for k in range(len(next(iter(means.values()))))] if is_omega else [SECONDS]
  header, rows = ('method', *ticks), [(name, *values) for name, values in means.items()]
  if is_omega:
    papers = {
      line['method']: line['paper_omega'] for line in summarise(asked.table, asked.config, asked.planned, found)
    }
    if any(papers.values()):
      header = (*header, "paper's, all tasks")
      rows = [(*row, '-' if papers[row[0]] is None else f'{papers[row[0]]:.1f}') for row in rows]
    most = max(100, *(max(one.mean_std()[0]) for one in series.values()))
    picture = charts.curves(list(series.values()), ticks, 'tasks learnt', 'Ω up to the task', 'Figure A', '%', most)
  else:
    picture = _bars_of(lines)
  absent = [cell.row.name for cell in cells if cell.row.name not in lines]
  return Drawn({'': picture}, header, rows, complaints + [f'not run: {name}' for name in absent])


def _bars_of(lines: Mapping[str, list[list[float]]]) -> str:
  """A bar for each method, with a dot for each trial."""
  most = max(map(len, lines.values()))
  by_trial = [[values[k][0] if k < len(values) else None for values in lines.values()] for k in range(most)]
  return charts.bars([Series(SECONDS, by_trial, 0)], list(lines), '', 'seconds', 'Figure D')


def _of_models(asked: table.Asked, arguments: argparse.Namespace) -> Drawn:
  """2, B, C or the probe. Raises UserError if nothing it needs has been measured."""
  file = _measured(asked, arguments)
  found = diagnosis.gather(asked.planned, file)
  of = diagnosis.groups(asked.planned, found)
  distance = {'2': 'mid', 'B': 'mmd2'}.get(arguments.figure)
  shown = diagnosis.dreaming(of) if distance or arguments.figure == 'C' else of
  if not shown:
    raise _nothing(asked, file)
  notes = [f'not measured: {one.name}' for one in asked.planned if one.name not in found]
  if distance:
    header, rows = diagnosis.distances(shown, distance)
    return Drawn({'': figures.distance_bars(shown, distance)}, header, rows, notes)
  if arguments.figure == 'C':
    pictures = {f'_{method}': picture for method, picture in diagnosis.planes(shown).items()}
    return Drawn(pictures, *diagnosis.distances(shown, 'mid'), notes)
  return Drawn({'': figures.probe_bars(shown)}, *diagnosis.probes(shown), notes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--figure', default='A', choices=OF_MODELS + OF_RESULTS)
  parser.add_argument('--tasks', type=options.whole(1), default=0, metavar='N', help="default: the table's first split")
  measured = 'numbers of all but A and D; default: experiments/results/diagnosis_<config>.jsonl'
  parser.add_argument('--measured', type=Path, metavar='FILE', help=measured)
  runs.add_arguments(parser)
  table.add_choice(parser)
  parser.set_defaults(output=Path('runs/figures'))


def main(arguments: argparse.Namespace) -> None:
  of_models = arguments.figure in OF_MODELS
  asked = _of_methods(_in_tasks(table.ask(TABLE, arguments), arguments.tasks), arguments)
  wanted, file = table.chosen(asked, arguments), _measured(asked, arguments)
  if arguments.print_commands:
    lacking = diagnosis.missing(wanted, file) if of_models else runs.missing(wanted, arguments.results)
    return table.print_commands(asked, lacking, arguments)
  if of_models:
    outcome = diagnosis.execute(wanted, file, arguments)
    drawn = _of_models(asked, arguments)
  else:
    outcome = runs.execute(wanted, arguments)
    drawn = _of_results(asked, arguments)
  stem = f'figure_{arguments.figure}_{asked.config}_{asked.planned[0].tasks}_tasks'
  files = {arguments.output / f'{stem}{end}.svg': picture for end, picture in drawn.pictures.items()}
  for place, picture in files.items():
    write(place, charts.standalone(picture))
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([drawn.header, *drawn.rows])
  write(arguments.output / f'{stem}.csv', text.getvalue())
  print('\n'.join([markdown(drawn.header, drawn.rows), *(f'- {note}' for note in drawn.notes), *map(str, files)]))
  outcome.check_sound()


def _nothing(asked: table.Asked, where: Path) -> UserError:
  return UserError(f'no finished run of {asked.config} in {asked.planned[0].tasks} tasks lies in {where}.')


def _measured(asked: table.Asked, arguments: argparse.Namespace) -> Path:
  return arguments.measured or diagnosis.file_of(asked.config)


def _of_methods(asked: table.Asked, arguments: argparse.Namespace) -> table.Asked:
  """For figures of models: only the runs they show, and the words that ask for them."""
  if arguments.figure not in OF_MODELS:
    return asked
  words = ['figure', f'--figure={arguments.figure}', *asked.words[2:], f'--tasks={asked.planned[0].tasks}']
  words += [f'--measured={arguments.measured}'] if arguments.measured else []
  return asked._replace(planned=diagnosis.looked_at(asked.planned), words=words)


def _in_tasks(asked: table.Asked, tasks: int) -> table.Asked:
  """The runs of one split, 0 for the first. Raises UserError if there is no such split."""
  splits = list(dict.fromkeys(one.tasks for one in asked.planned))
  tasks = tasks or splits[0]
  if tasks not in splits:
    raise UserError(f'--tasks={tasks} is not a split of {asked.config}. Known: {", ".join(map(str, splits))}.')
  return asked._replace(planned=[one for one in asked.planned if one.tasks == tasks])
