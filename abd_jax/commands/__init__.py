"""The verbs of abd-jax. Each is a file here with `run(words)`; its docstring is its help.

The docstring's first line is the verb's line in `abd-jax --help`: an example, four spaces, what it does.
"""

import pkgutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from abd_jax.errors import UserError, nearest


def verbs() -> list[str]:
  return sorted(file.name for file in pkgutil.iter_modules(__path__))


class Words(NamedTuple):
  """A parsed command line."""

  options: dict[str, str]  # --name=value
  fields: dict[str, str]  # --config.name=value
  rest: list[str]


def parse(
  usage: str | None,
  words: Sequence[str],
  known: Mapping[str, Collection[str]],
  counts: Collection[int] = (0,),
  required: Collection[str] = (),
  fields: bool = False,
) -> Words:
  """Parses the words after a verb.

  Args:
    usage: the docstring of the verb's file.
    words: options, as --name=value or --name value, and others.
    known: names of options -> the values that they may have, () for any.
    counts: how many words there may be beside options.
    required: options that must be given.
    fields: whether --config.FIELD=VALUE is allowed.

  Raises:
    UserError: any of this is otherwise, or an option has no value or is given twice.
  """
  given, words = Words({}, {}, []), list(words)
  while words:
    word = words.pop(0)
    if not word.startswith('-') or word == '-':
      given.rest.append(word)
      continue
    name, equals, value = word.lstrip('-').partition('=')
    group = given.fields if fields and name.startswith('config.') else given.options
    if name not in known and group is given.options:
      raise UserError(f'--{name} is not an option.{nearest(name, known)}')
    if not equals:
      if not words:
        raise UserError(f'--{name} has no value; give one, as in --{name}=...')
      value = words.pop(0)
    if (leaf := name.removeprefix('config.')) in group:
      raise UserError(f'--{name} is given twice. Leave one out.')
    if (values := known.get(name)) and value not in values:
      raise UserError(f'--{name}={value}: expected one of {", ".join(values)}.')
    group[leaf] = value
  example = (usage or '').partition('    ')[0]
  if len(given.rest) not in counts:
    raise UserError(f'expected {example}, got {" ".join(map(repr, given.rest)) or "no word"} beside the options.')
  if missing := [name for name in required if not given.options.get(name)]:
    raise UserError(f'--{missing[0]} is missing: expected {example}')
  return given


def file_to_write(name: str) -> Path:
  """The path `name`. Raises UserError if no file can be there, before any work is done."""
  file = Path(name)
  if file.is_dir() or not file.absolute().parent.is_dir():
    raise UserError(f'{file} cannot be written: expected a file in a folder that exists.')
  return file
