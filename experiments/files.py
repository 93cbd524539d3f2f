"""Where things lie in the checkout, and files that are read and written whole."""

import json
from pathlib import Path
from typing import Any

from abd_jax.errors import UserError
from abd_jax.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'experiments' / 'results'


def write(file: Path, text: str) -> None:
  """Makes its folder too. Raises UserError if that cannot be."""
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
  except OSError as error:
    raise UserError(f'{file} cannot be written ({error.strerror}). Choose another place.') from error


def write_json(file: Path, content: dict) -> None:
  write(file, json.dumps(content, indent=1) + '\n')


def read_json(file: Path) -> Any:
  """What stands in a file of results. Raises UserError if it cannot be read."""
  try:
    return json.loads(file.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{file} is missing or damaged: put it back as it was.') from error
