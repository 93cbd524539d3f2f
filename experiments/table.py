"""A table of the paper, or one of any methods:

  python -m experiments table --table=3 --config=digits
  python -m experiments table --rows=abd,lwf,mine --config=digits --trials=5

Does the missing runs, then renders the table as Markdown and CSV: our numbers beside the paper's, and for each row the
paired difference to a reference row over the trials that both have. The same command resumes it; started twice, it
shares the work; if a run diverges, the others continue. Files of --results from several hosts merge by `cat`.
--print_commands prints one command for each missing run, for a SLURM array or many hosts.
"""

import argparse
import shlex
from pathlib import Path
from typing import NamedTuple

from abd_jax.data.folders import own_images
from abd_jax.data.sources import open_configured
from abd_jax.errors import UserError, nearest
from experiments import options, runs
from experiments.paper import SPLITS, TABLES, Table
from experiments.plan import Planned, ad_hoc, plan
from experiments.store import write
from experiments.summary import as_csv, summarise, with_notes

SHOWN = (
  'method', 'replay', 'tasks', 'n', 'final accuracy %', 'spread', 'Omega %', 'difference (pairs)', 'paper',
  'paper Omega', 'deviation', 's a run', 'on', 'commit',
)  # fmt: skip


class Asked(NamedTuple):
  """What the command line asks for."""

  name: str  # of the table
  table: Table
  config: str  # a file in configs/
  planned: list[Planned]
  words: list[str]  # of a command that asks for the same


def add_arguments(parser: argparse.ArgumentParser) -> None:
  which = parser.add_mutually_exclusive_group()
  which.add_argument('--table', choices=list(TABLES), default='', help="the paper's, and some of ours")
  options.add(which, 'rows')
  runs.add_arguments(parser)
  add_choice(parser)
  parser.set_defaults(output=Path('runs/tables'))


def add_choice(parser: argparse.ArgumentParser) -> None:
  """The options that choose among the runs of a table."""
  parser.add_argument('--print_commands', action='store_true', help='only print a command for each missing run')
  parser.add_argument('--only', default='', metavar='RUN', help='one run, by its name')


def main(arguments: argparse.Namespace) -> None:
  asked = ask(arguments)
  wanted = chosen(asked, arguments)
  if arguments.print_commands:
    return print_commands(asked, runs.missing(wanted, arguments.results), arguments)
  outcome = runs.execute(wanted, arguments)
  found, complaints = runs.gather(asked.planned, arguments.results)
  lines = summarise(asked.table, asked.config, asked.planned, found)
  elsewhere = '' if asked.config == asked.table.config else f'; here on {asked.config}'
  title = f'**Table {asked.name}. {asked.table.title}{elsewhere}**'
  text = f'{title}\n\n{with_notes(lines, SHOWN, complaints)}'
  stem = arguments.output / f'table_{asked.name}_{asked.config}'
  write(stem.with_suffix('.md'), text + '\n')
  write(stem.with_suffix('.csv'), as_csv(lines))
  print(text)
  runs.tell_missing(asked.planned, arguments.results)
  outcome.check_sound()


def ask(arguments: argparse.Namespace) -> Asked:
  """A table of the paper on the config's data, or one of any methods. Raises UserError for a config without splits."""
  name, config = arguments.table or 'rows', arguments.config
  if arguments.rows:
    if not config:
      raise UserError('--rows needs --config as well, as in --config=digits.')
    table, word = ad_hoc(arguments.rows, config), f'--rows={",".join(arguments.rows)}'
  else:
    if name not in TABLES:
      raise UserError('which table? Give --table=1 or another one, or --rows=abd,lwf --config=digits')
    table, word = TABLES[name], f'--table={name}'
    config, known = config or table.config, (table.config, *SPLITS)
    if config not in known:
      raise UserError(f"--config='{config}' has no splits for table {name}.{nearest(config, known)}")
  trials = arguments.trials or table.trials
  planned = _named_by_photographs(plan(table, config, trials, arguments.variant), arguments.data_dir)
  words = ['table', word, f'--config={config}', f'--trials={trials}']
  words += [f'--variant={arguments.variant}'] * bool(arguments.variant)
  return Asked(name, table, config, planned, words)


def _named_by_photographs(planned: list[Planned], data_dir: str) -> list[Planned]:
  """With the fingerprint of a folder of photographs; data sets say by their names what they are."""
  data = planned[0].load({'data.dir': data_dir}).data
  if not own_images(data.name):
    return planned
  fingerprint = open_configured(data).fingerprint
  return [one._replace(fingerprint=fingerprint) for one in planned]


def chosen(asked: Asked, arguments: argparse.Namespace) -> list[Planned]:
  """All runs of the table, or the one of --only. Raises UserError if there is none of that name."""
  names = [one.name for one in asked.planned]
  if arguments.only and arguments.only not in names:
    raise UserError(f"--only='{arguments.only}' is not a run of this table.{nearest(arguments.only, names)}")
  return [one for one in asked.planned if arguments.only in ('', one.name)]


def print_commands(asked: Asked, lacking: list[Planned], arguments: argparse.Namespace) -> None:
  """One line for each of the runs, for a SLURM array or many hosts."""
  places = {place: getattr(arguments, place) for place in ('data_dir', 'runs', 'results')}
  words = [f'--{place}={at}' for place, at in places.items() if at != options.OPTIONS[place]['default']]
  for one in lacking:
    print(shlex.join(['python', '-m', 'experiments', *asked.words, *words, f'--only={one.name}']))
