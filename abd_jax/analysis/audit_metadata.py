"""The files that orbax writes beside arrays: they should name those, and hold little else."""

import base64
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from abd_jax.analysis.audit_texts import LONGEST_TEXT, most_parts, parts
from abd_jax.protocol.tasks import Tasks

# Relative to a store of arrays, or to the folder of a save.
FILES = r'_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|array_metadatas/process_[0-9]+'
_FILE = re.compile(rf'(?:teachers|checkpoints)/.*?/(?:{FILES}|progress/metadata)')
# A folder that a save grows in until it is complete.
CUT_OFF = re.compile(r'(teachers|checkpoints/\w+)/[^/]+?\.(new|orbax-checkpoint-tmp)(?=/|$)')
_DONE = 'Checkpoint commit was successful to '  # and a path


def metadata(folder: Path, tasks: Tasks, arrays: dict[Path, Collection[str]]) -> Iterator[str]:
  """A line for each file that orbax writes with more in it than belongs there. arrays: of each store, their names."""
  for file in sorted(folder.rglob('*')):
    name = file.relative_to(folder).as_posix()
    if _FILE.fullmatch(name) and not CUT_OFF.match(name) and file.is_file() and not file.is_symlink():
      names = next((arrays[place] for place in file.parents if place in arrays), ())
      try:
        what = _too_much(file, names, most_parts(tasks))
      except (ValueError, RecursionError):
        what = f'{file.stat().st_size} bytes that are no JSON'
      if what:
        yield f'{name} holds {what}'


def _too_much(file: Path, names: Collection[str], most: int) -> str:
  """What in `file` is more than orbax writes of arrays of these names; '' if nothing is.

  most: keys and values of one that tells of no arrays. Raises ValueError or RecursionError if it is no JSON.
  """
  text = file.read_text(errors='replace')
  if file.suffix == '.txt':
    return '' if text.startswith(_DONE) and len(text) <= LONGEST_TEXT else f'{len(text)} letters of something else'
  value = json.loads(text)
  if (beside := len(text) - len(json.dumps(value)) - 1) > 0:  # blanks, keys that come twice, endless digits
    return f'{beside} bytes beside its values'
  found, known = list(parts(value)), {form for name in names for form in _forms(name)}
  digits = 8 if names else 25  # shapes and devices; shares of images and seconds
  words = _words(found, digits) - known
  # _sharding: how each array lies, a JSON text. Most lie alike, and it may name many devices.
  within = {word: one for word in words if word.startswith('{') and json.dumps(one := json.loads(word)) == word}
  inner = list(parts(list(within.values())))
  letters = sum(map(len, (words - within.keys()) | (_words(inner, digits) - known)))
  if letters > LONGEST_TEXT:
    return f'{letters} letters that name no array'
  if names:  # the words of a name come each with its type; beside them are shapes
    most = 500 + sum(24 + 5 * len(name.split('.')) for name in names)
  return f'{len(found) + len(inner)} keys and values, more than its arrays need' if len(found + inner) > most else ''


def _words(values: list[Any], digits: int) -> set[str]:
  """The texts among them, and numbers of more than so many digits."""
  return {
    str(one) for one in values if isinstance(one, str) or (isinstance(one, int | float) and len(str(one)) > digits)
  }


def _forms(name: str) -> tuple[str, ...]:
  """How orbax writes the dotted name of an array, and its words."""
  words = name.split('.')
  return name, str(tuple(words)), base64.b64encode(name.encode()).decode(), *words
