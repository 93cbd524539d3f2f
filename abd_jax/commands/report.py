"""abd-jax report WORKDIR [WORKDIR...]    one HTML file about one or more runs, finished or not

  --output=FILE      default: report.html in the workdir, or where all of them lie
  --data_dir=FOLDER  where the runs' prepared data lie now; default: where they did
  --no-diagnosis     only what the files of the runs say: no data are read, and no image of them is shown

Runs that differ only in their trial become one curve with a band. The page needs no network, and is written beside
the runs. The first report of a run looks at its models and its data, and keeps what it found in WORKDIR/diagnosis.
"""

import argparse
import os
import sys
from pathlib import Path

from abd_jax.errors import UserError

NO_RUNS = ('compilation_cache', 'oracles')  # what else lies beside runs, where a pattern such as runs/demo/* finds it


def main(argv: list[str]) -> Path:
  """Writes the report that the words of the command line ask for, and returns its path. Raises UserError."""
  arguments, unknown = _parser().parse_known_args(argv)
  if unknown:
    raise UserError(f'{unknown[0].partition("=")[0]} is not an option. --help says more.')
  if not arguments.workdir:
    raise UserError('of which run? Name its workdir, as in abd-jax report runs/digits.')
  # Imported here, so that --help and a mistake answer at once.
  from abd_jax.analysis.records import read_run
  from abd_jax.devices.backend import use_compilation_cache
  from abd_jax.files import write_atomically
  from abd_jax.report.page import report

  folders = _runs([folder.absolute() for folder in arguments.workdir])
  if len(set(folders)) < len(folders):
    raise UserError('a workdir is named twice. Name each once.')
  output = arguments.output or (folders[0] if len(folders) == 1 else _common(folders)) / 'report.html'
  _check_writable(output.absolute())
  # Where the run itself keeps its programs; another's folder takes none, and all goes on without.
  use_compilation_cache(str(folders[0] / 'compilation_cache'))
  tell = lambda line: print(line, file=sys.stderr, flush=True)
  runs = [read_run(folder, arguments.data_dir, not arguments.no_diagnosis, tell) for folder in folders]
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, report(runs))
  except OSError as error:
    raise _unwritable(output, error.strerror) from error
  print(f'report: {output}')
  return output


def _runs(folders: list[Path]) -> list[Path]:
  """Those of `folders` that may hold a run, where there are such."""
  return [one for one in folders if one.name not in NO_RUNS or (one / 'config.json').exists()] or folders


def _check_writable(output: Path) -> None:
  """Raises UserError if no file can be made there: before minutes of work."""
  there = next(folder for folder in output.parents if os.path.exists(folder))
  if not there.is_dir() or not os.access(there, os.W_OK):
    raise _unwritable(output, f'{there} takes no file')


def _unwritable(output: Path, why: str | None) -> UserError:
  return UserError(f'{output} cannot be written ({why}). Choose another --output.')


def _common(folders: list[Path]) -> Path:
  return Path(os.path.commonpath(folders))


class _Parser(argparse.ArgumentParser):
  """Tells a mistake in one line."""

  def error(self, message: str):
    raise UserError(f'{message}. --help says more.')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(prog='abd-jax report', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdir', type=Path, nargs='*', help='of a run, finished or not')
  parser.add_argument('--output', type=Path, help='default: report.html in the workdir, or where all of them lie')
  parser.add_argument('--data_dir', default='', help="where the runs' prepared data lie now; default: where they did")
  parser.add_argument('--no-diagnosis', action='store_true', help='only what the files of the runs say')
  return parser


def run(words: list[str]) -> None:
  """The verb. Raises UserError."""
  from abd_jax.devices.backend import keep_freed_memory

  keep_freed_memory()
  main(words)
