"""Parses a command line: options, fields of a config, and the rest."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from abd_jax.errors import UserError, nearest


class Words(NamedTuple):
  """A parsed command line."""

  options: dict[str, str]  # --name=value
  fields: dict[str, str]  # --config.name=value
  rest: list[str]


def parse(words: Sequence[str], known: Collection[str], fields: bool = False) -> Words:
  """Parses `words`. known: names of options; fields: whether --config.FIELD=VALUE is allowed.

  Raises UserError for an unknown option, for one without a value, and for one that is given twice.
  """
  given: dict[str, str] = {}
  rest, words = [], list(words)
  while words:
    word = words.pop(0)
    if not word.startswith('-') or word == '-':
      rest.append(word)
      continue
    name, equals, value = word.lstrip('-').partition('=')
    if name not in known and not (fields and name.startswith('config.')):
      raise UserError(f'--{name} is not an option.{nearest(name, known)}')
    if not equals:
      if not words:
        raise UserError(f'--{name} has no value; give one, as in --{name}=...')
      value = words.pop(0)
    if name in given:
      raise UserError(f'--{name} is given twice. Leave one out.')
    given[name] = value
  prefix = 'config.'
  return Words(
    {name: value for name, value in given.items() if not name.startswith(prefix)},
    {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)},
    rest,
  )
