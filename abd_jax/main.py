"""python -m abd_jax.main --config=configs/digits.py --workdir=runs/digits

Learns a sequence of tasks without keeping one old image, and writes what came of it to the workdir. The same
command resumes one that was stopped.

  --config=configs/digits.py:tasks=5,method=lwf,trial=1,quick   options of the config file, after a colon
  --config.student.lr=0.05                                      any field of the config; abd_jax/config.py lists
                                                                them with their units

Exit code 0: complete, or paused by config.max_seconds, SIGTERM or Ctrl-C. Exit code 2: a mistake, in one line.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from abd_jax.config import default, flatten
from abd_jax.devices.malloc import keep_freed_memory
from abd_jax.errors import Paused, UserError, nearest, silence_closed_loops

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, with options after a colon: FILE[:tasks=5,method=lwf,trial=1,quick].'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run lives: checkpoints, dreams, metrics, results.')


def main(argv: list[str]) -> None:
  """Runs what the command line's flags say."""
  del argv
  logging.set_verbosity(logging.FATAL)  # orbax tells every step it takes, and tracebacks of what it raises all the same
  # Imported here, so that --help and a mistyped flag answer at once.
  import jax

  from abd_jax.devices.backend import use_compilation_cache
  from abd_jax.report.tables import SUMMARY, summary_line, table
  from abd_jax.train import train_and_evaluate

  workdir: str = WORKDIR.value or ''  # parse_flags has refused an empty one
  use_compilation_cache(os.path.join(workdir, 'compilation_cache'))
  if CONFIG.value.distributed:
    jax.distributed.initialize()
  try:
    results = train_and_evaluate(CONFIG.value, workdir)
  except Paused as pause:
    print(pause, file=sys.stderr)
    return
  print(table(SUMMARY, [summary_line(results)]))
  print(f'results: {os.path.join(workdir, "results.json")}')


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line. Raises UserError for any mistake in it."""
  if {'--help', '-help', '-h'} & set(argv):
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
  fields = flatten(default().to_dict())
  for word in argv[1:]:
    name = word.lstrip('-').partition('=')[0].removeprefix('config.')
    if word.lstrip('-').startswith('config.') and name not in fields:
      raise UserError(f'config.{name} is not a field.{nearest(name, fields)}')
    if name == 'method':  # as a field it would go without its recipe
      raise UserError('the method is an option after the colon, as in --config=configs/digits.py:method=lwf.')
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(' '.join(str(error).split())) from error
  except (SyntaxError, AttributeError, OSError) as error:
    raise UserError(
      f'the config file cannot be used ({" ".join(str(error).split())}). configs/ has working ones.'
    ) from error
  if rest[1:]:
    raise UserError(f"'{rest[1]}' is not a flag. Flags begin with --, as in --workdir=runs/digits.")
  if CONFIG.value is None or not WORKDIR.value:
    missing = '--config=configs/digits.py' if CONFIG.value is None else '--workdir=runs/digits'
    raise UserError(f'{missing.partition("=")[0]} is missing, as in {missing}. --help says more.')
  if not isinstance(CONFIG.value, ConfigDict):
    file = Path(config_flags.get_config_filename(flags.FLAGS['config']))
    raise UserError(f"config file '{file}' does not exist.{nearest(str(file), map(str, file.parent.glob('*.py')))}")
  return rest


def cli() -> None:
  """The command: a user's mistake is one line on stderr and exit code 2."""
  keep_freed_memory()
  silence_closed_loops()
  try:
    app.run(main, flags_parser=parse_flags)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  cli()
