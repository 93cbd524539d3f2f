"""The words of the command line: each is defined here once and means the same to every verb that takes it."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from abd_jax import methods
from abd_jax.errors import UserError, nearest
from experiments.store import RESULTS


class Parser(argparse.ArgumentParser):
  """Of one verb. A mistake on the command line raises UserError."""

  def __init__(self, verb: str, description: str):
    layout = argparse.RawDescriptionHelpFormatter
    prog = f'python -m experiments {verb}'
    super().__init__(prog=prog, description=description, formatter_class=layout, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{" ".join(message.split())}. `{self.prog} --help` lists the options.')


def whole(lowest: int) -> Callable[[str], int]:
  """A reader of whole numbers from `lowest` on."""

  def read(text: str) -> int:
    if not text.isdecimal() or int(text) < lowest:
      raise argparse.ArgumentTypeError(f"'{text}' must be a whole number of at least {lowest}")
    return int(text)

  return read


def seconds(text: str) -> float:
  """A time, not below zero."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not value >= 0:
    raise argparse.ArgumentTypeError(f"'{text}' must be a number of at least 0")
  return value


def rows(text: str) -> tuple[str, ...]:
  """Names of methods, 'abd,lwf'. Raises UserError for an unknown one."""
  names = tuple(dict.fromkeys(text.split(',')))
  for name in names:
    if name not in methods.available():
      raise UserError(f"--rows: '{name}' is not a method.{nearest(name, methods.available())}")
  return names


OPTIONS: dict[str, dict[str, Any]] = {
  'config': dict(default='', metavar='NAME', help='a file in configs/'),
  'rows': dict(type=rows, default=(), metavar='METHODS', help='files in abd_jax/methods, as in abd,lwf,mine'),
  'data_dir': dict(default='', metavar='DIR', help="prepared data; default: TFDS's"),
  'trials': dict(type=whole(1), default=0, metavar='N', help='trials 0 to N-1'),
  'quick': dict(action='store_true', help="the config's :quick variant, to try things out"),
  'max_seconds': dict(type=seconds, default=0.0, metavar='S', help='stop after this long, all saved; 0: no limit'),
  'max_runs': dict(type=whole(0), default=sys.maxsize, metavar='N', help='how many unfinished runs to begin or resume'),
  'at_once': dict(
    type=whole(0), default=0, metavar='N', help='runs at once, each in a process; 0: one an accelerator, or in turn'
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
