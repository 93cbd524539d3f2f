"""abd-jax report WORKDIR [WORKDIR...]    makes one HTML page about one or more runs, finished or not

  --output=FILE      default: report.html in the workdir, or in the common folder of several
  --data_dir=FOLDER  where the runs' prepared data are now; default: where the runs found them
  --no-diagnosis     reads only the files of the runs: no data, and the page shows no image

Runs that differ only in their trial become one curve with a band. The page needs no network. The first report of a run
examines its models on its data, and keeps the result in WORKDIR/diagnosis. Folders named compilation_cache and oracles
are skipped, so runs/demo/* works.
"""

import os
import sys
from pathlib import Path

from abd_jax.commands import parse
from abd_jax.errors import UserError

NO_RUNS = ('compilation_cache', 'oracles')


def run(words: list[str]) -> None:
  """Writes the report. Raises UserError; OSError if the file cannot be written."""
  look = '--no-diagnosis' not in words
  words = [word for word in words if word != '--no-diagnosis']
  given = parse(__doc__, words, {'output': (), 'data_dir': ()}, range(1, sys.maxsize))
  named = list(dict.fromkeys(Path(word).absolute() for word in given.rest))
  folders = [one for one in named if one.name not in NO_RUNS or (one / 'config.json').exists()] or named
  common = folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))
  output = Path(given.options.get('output', common / 'report.html')).absolute()
  if 'output' in given.options:
    output.parent.mkdir(parents=True, exist_ok=True)
  if output.is_dir() or (output.parent.exists() and not os.access(output.parent, os.W_OK)):
    raise UserError(f'{output} cannot be written. Choose another --output.')
  # Imported here, so that a mistake is reported at once.
  from abd_jax.analysis.records import read_run
  from abd_jax.devices import backend
  from abd_jax.files import write_atomically
  from abd_jax.report.page import report

  backend.keep_freed_memory()
  # The folder of the run's own compiled programs.
  backend.use_compilation_cache(str(folders[0] / 'compilation_cache'))
  tell = lambda line: print(line, file=sys.stderr, flush=True)
  runs = [read_run(folder, given.options.get('data_dir', ''), look, tell) for folder in folders]
  write_atomically(output, report(runs))
  print(f'report: {output}')
