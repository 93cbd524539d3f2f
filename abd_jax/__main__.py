"""abd-jax VERB ...: the commands, each with a --help of its own.

  abd-jax train --config=digits --workdir=runs/digits     learns a sequence of tasks, or resumes
  abd-jax predict runs/digits photo.png                   names images
  abd-jax export runs/digits model.zip                    one file that runs with JAX alone
  abd-jax extend runs/digits --config.data.name=... --workdir=runs/more    teaches it new classes
  abd-jax report runs/digits                              one HTML file about one or more runs
  abd-jax audit runs/digits                               what it keeps, and whether an old image hides in it
  abd-jax doctor                                          looks at this machine

Exit code 0: done, or paused. Exit code 2: a mistake, in one line. 130: stopped by Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = ('train', 'predict', 'export', 'extend', 'report', 'audit', 'doctor')


def cli(words: Sequence[str] | None = None) -> None:
  """Runs the verb that the first of `words` names, those of the command line unless given."""
  signal.signal(signal.SIGINT, _stop)
  sys.exit(_run(list(sys.argv[1:] if words is None else words)))


def _stop(number: int, frame: object) -> None:
  """Ends the process at once: as an exception, Ctrl-C would get lost or become another one inside some imports.

  Whatever is written is written atomically. A run puts a handler of its own before this one while it runs.
  """
  os.write(sys.stderr.fileno(), b'stopped; the same command resumes a run from its newest checkpoint\n')
  os._exit(130)


def _run(words: list[str]) -> int:
  """The exit code."""
  asks_help = {'-h', '-help', '--help'} & set(words)
  verb = words[0] if words and words[0] not in asks_help else ''
  from abd_jax.errors import UserError, disk_errors_told, nearest

  try:
    if not verb:
      print((__doc__ or '').strip(), flush=True)
      return 0 if asks_help else 2
    if verb not in VERBS:
      raise UserError(f"'{verb}' is not a command.{nearest(verb, VERBS)}")
    command = import_module(f'abd_jax.commands.{verb}')
    if asks_help:
      print((command.__doc__ or '').strip(), flush=True)
      return 0
    _quiet()
    with disk_errors_told('what this command makes'):
      return command.run(words[1:]) or 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
  except BrokenPipeError:  # the reader of our output has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  return 2


def _quiet() -> None:
  """No lines of the libraries: orbax tells every step it takes, and each failure that it raises too."""
  from absl import logging

  from abd_jax.errors import silence_closed_loops

  logging.set_verbosity(logging.FATAL)
  silence_closed_loops()


if __name__ == '__main__':
  cli()
