"""Options that several verbs take: each is defined once and means the same everywhere."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from abd_jax.errors import UserError
from experiments.store import RESULTS


class Parser(argparse.ArgumentParser):
  """The parser of one verb. A mistake on the command line raises UserError."""

  def __init__(self, verb: str, description: str):
    layout = argparse.RawDescriptionHelpFormatter
    prog = f'python -m experiments {verb}'
    super().__init__(prog=prog, description=description, formatter_class=layout, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{" ".join(message.split())}. `{self.prog} --help` lists the options.')


def at_least(lowest: float) -> Callable[[str], float]:
  """A reader of numbers from `lowest` on, whole ones if it is whole."""

  def read(text: str) -> float:
    try:
      value = type(lowest)(text)
    except ValueError:
      value = math.nan
    if not value >= lowest:
      kind = 'a whole number' if isinstance(lowest, int) else 'a number'
      raise argparse.ArgumentTypeError(f"expected {kind} of at least {lowest:g}, got '{text}'")
    return value

  return read


def names(text: str) -> tuple[str, ...]:
  """'abd,lwf' -> ('abd', 'lwf')."""
  return tuple(dict.fromkeys(text.split(',')))


OPTIONS: dict[str, dict[str, Any]] = {
  'config': dict(default='', metavar='NAME', help='a file in configs/'),
  'rows': dict(type=names, default=(), metavar='METHODS', help='files in abd_jax/methods, as in abd,lwf,mine'),
  'data_dir': dict(default='', metavar='DIR', help="prepared data; default: TFDS's"),
  'trials': dict(type=at_least(1), default=0, metavar='N', help='trials 0 to N-1'),
  'variant': dict(default='', choices=('quick', 'short', 'short=16'), help="the config's option: a shorter run"),
  'max_seconds': dict(
    type=at_least(0.0), default=0.0, metavar='S', help='stop after this long, all saved; 0: no limit'
  ),
  'max_runs': dict(
    type=at_least(0), default=sys.maxsize, metavar='N', help='how many unfinished runs to begin or resume'
  ),
  'at_once': dict(
    type=at_least(0), default=0, metavar='N', help='runs at once, each in a process; 0: one an accelerator, or in turn'
  ),
  'runs': dict(type=Path, default=Path('runs/tables'), metavar='DIR', help='workdirs; default: %(default)s'),
  'results': dict(type=Path, default=RESULTS, metavar='DIR', help='a JSONL file of finished runs for each data set'),
  'output': dict(type=Path, metavar='PATH', help='what is written; default: %(default)s'),
}


def add(parser: argparse._ActionsContainer, *names: str, **defaults: Any) -> None:
  """Gives a verb's parser, or a group of it, the named options, some with defaults of the verb's own."""
  for name in names:
    parser.add_argument(f'--{name}', **OPTIONS[name])
  parser.set_defaults(**defaults)
