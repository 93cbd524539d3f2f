"""Files of results: a JSON object, or JSON lines with one run a line, sorted by name."""

import fcntl
import json
from pathlib import Path

from abd_jax.errors import UserError
from abd_jax.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'experiments' / 'results'


def write(file: Path, text: str) -> None:
  """Writes the whole file, and makes its folder. Raises UserError if that fails."""
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
  except OSError as error:
    raise UserError(f'cannot write {file} ({error.strerror}); choose another path') from error


def write_json(file: Path, content: dict) -> None:
  write(file, json.dumps(content, indent=1) + '\n')


def read_runs(file: Path) -> dict[str, dict]:
  """Name of a run -> its results, of a file with one run a line; {} if there is no such file.

  If two lines have the same name, the later one counts, so files of several hosts merge by `cat`.

  Raises:
    UserError: a line is not JSON or has no name.
  """
  runs = {}
  for number, line in enumerate(file.read_text().splitlines() if file.exists() else (), 1):
    try:
      content = json.loads(line)
      runs[content.pop('name')] = content
    except (ValueError, KeyError, TypeError, AttributeError):
      raise UserError(f'{file}, line {number}: expected the JSON of a run with its name; delete the line') from None
  return runs


def add_run(file: Path, name: str, content: dict) -> None:
  """Writes a run's line into the file, in place of the line that has its name. Several processes may do so at once.

  Raises:
    UserError: the file cannot be written, or is damaged.
  """
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = (file.parent / '.lock').open('w')
  except OSError as error:
    raise UserError(f'cannot write {file} ({error.strerror}); choose another path') from error
  with lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    runs = read_runs(file) | {name: content}
    write(file, ''.join(json.dumps({'name': one, **runs[one]}) + '\n' for one in sorted(runs)))
