"""abd-jax VERB ...: the commands. abd-jax VERB --help explains one.

{verbs}

Exit code 0: done, or paused. 2: a mistake, in one line. 130 and 143: stopped by Ctrl-C or SIGTERM before there was
anything to save.
"""

import ast
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from abd_jax import commands
from abd_jax.errors import UserError, nearest, silence_closed_loops, stop_at_once, system_errors_explained


def cli(words: Sequence[str] | None = None) -> None:
  """Runs the verb that `words` begin with; default: the words of the command line."""
  stop_at_once()
  for stream in (sys.stdout, sys.stderr):  # a file's name may have letters that the terminal's encoding lacks
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    code = _run(list(sys.argv[1:] if words is None else words))
  except Exception:
    if not _is_one_of_several():
      raise
    traceback.print_exc()
    code = 1
  if code and _is_one_of_several():  # at exit JAX would wait for the other processes, and they for this one
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def _is_one_of_several() -> bool:
  """Whether this process is one of a cluster. Does not ask for devices: there may be none."""
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()


def _run(words: list[str]) -> int:
  """Runs a verb and returns the exit code; a mistake is one line on stderr."""
  try:
    with system_errors_explained('standard output, or what this command makes,'):
      code = _do(words)
      sys.stdout.flush()
      return code
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
  except BrokenPipeError:  # the reader of our output has seen enough
    _discard_stdout()
    return 0
  except OSError as error:  # no permission, a name too long, a disk that is gone
    where = f'{os.fsdecode(error.filename)}: ' if error.filename else ''
    print(f'error: {where}{error.strerror or error}. Fix it, or choose another path.', file=sys.stderr)
  _discard_stdout()
  return 2


def _discard_stdout() -> None:
  """Sends what stdout could not take to /dev/null: otherwise Python tries again at exit, and complains."""
  try:
    sys.stdout.flush()
  except OSError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _do(words: list[str]) -> int:
  """Runs a verb or prints help, and returns the exit code. Raises UserError."""
  asks_help = {'-h', '-help', '--help'} & set(words)
  verb, verbs = words[0] if words and words[0] not in asks_help else '', commands.verbs()
  if not verb:
    lines = '\n'.join(f'  {_help(name).partition(chr(10))[0]}' for name in verbs)
    print((__doc__ or '').strip().replace('{verbs}', lines))
    return 0 if asks_help else 2
  if verb not in verbs:
    raise UserError(f"'{verb}' is not a command.{nearest(verb, verbs)}")
  if asks_help:
    print(_help(verb))
    return 0
  from absl import logging

  logging.set_verbosity(logging.FATAL)  # orbax logs every step that it takes, and errors that it also raises
  silence_closed_loops()
  return import_module(f'abd_jax.commands.{verb}').run(words[1:]) or 0


def _help(verb: str) -> str:
  """The docstring of a verb's file. Does not import the file, which takes seconds."""
  source = Path(commands.__path__[0], f'{verb}.py').read_text()
  return (ast.get_docstring(ast.parse(source)) or '').strip()


if __name__ == '__main__':
  cli()
