"""python -m experiments VERB ...: the runs behind the documentation's numbers. Each verb has a --help of its own.

  table        the paper's tables, our numbers beside its own, and tables of any methods
  figure       Figures 2, A, B, C and D of the paper, and the linear probe
  gaussians    a class's Gaussian before a task, carried, and true: the picture of docs/methods.md
  search       settings compared on folds of the training split
  replay       settings of class Gaussians compared on the models of finished runs
  hardware     what a step costs here, and compiled for GPUs and TPUs that are not here
  pytorch      our steps timed beside the same steps in PyTorch, on this machine's CPU
  page         experiments/README.md and the README's tables, from experiments/results/
  demo         digits in five tasks, with and without dreams, in a few minutes on a CPU

Exit code 0: complete or paused, and the same command resumes it. Exit code 2: a mistake, in one line.
"""

import argparse
import importlib
import sys

from absl import logging

from abd_jax.errors import Paused, UserError, nearest, silence_closed_loops, stop_at_once

VERBS = ('table', 'figure', 'gaussians', 'search', 'replay', 'hardware', 'pytorch', 'page', 'demo')


def run(words: list[str]) -> None:
  """Runs the verb of the command line. Raises UserError for a mistake, Paused before the end."""
  verb, *rest = words
  if verb not in VERBS:
    raise UserError(f"'{verb}' is not an experiment.{nearest(verb, VERBS)}")
  module = importlib.import_module(f'experiments.{verb}')  # most verbs import jax
  from experiments.options import Parser

  parser = Parser(verb, module.__doc__ or '')
  if verb != 'page':  # which has no options
    module.add_arguments(parser)
  module.main(parser.parse_args(rest, argparse.Namespace(words=words)))


def cli() -> None:
  """The command: a pause is one line, a user's mistake one and exit code 2."""
  words = sys.argv[1:]
  if not words or words[0] in ('-h', '--help'):
    print((__doc__ or '').strip())
    sys.exit(0 if words else 2)
  stop_at_once()
  from abd_jax.devices.backend import keep_freed_memory  # imports jax

  keep_freed_memory()  # before JAX starts its threads
  silence_closed_loops()
  logging.set_verbosity(logging.FATAL)  # orbax tells every step it takes, and tracebacks of what it raises
  try:
    run(words)
  except Paused as pause:
    print(pause, file=sys.stderr)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  cli()
