"""The types that declare a field of the config: its default value and the values it may have.

Fields stand in the table of abd_jax/config.py and in SETTINGS of a method's file, one a line:

  'held_out': Number(0.1, 0, 1),  # share of the memory that the second stage learns from
"""

import ast
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from abd_jax.errors import UserError


@dataclass(frozen=True)
class Field:
  """A default and its limits. The functions below make fields of each type."""

  default: Any
  expected: str  # what a value must be, in words
  parse: Callable[[str], Any]  # the value that a text stands for on a command line
  fits: Callable[[Any], bool] = lambda value: True  # whether a run can use a value
  free: bool = False  # may differ when a run is resumed, since results do not depend on it

  def read(self, name: str, text: str) -> Any:
    """The value that `text` stands for. Raises UserError if it is of another type. name: of the field, with dots."""
    try:
      return self.parse(text)
    except (ValueError, KeyError, SyntaxError, TypeError, MemoryError, RecursionError):
      raise UserError(f'config.{name}={text}: expected {self.expected}.') from None

  def check(self, name: str, value: Any) -> None:
    """Raises UserError for a value that no run can use. name: as in `read`."""
    if not self.fits(value):
      raise UserError(f'config.{name}={value!r}: expected {self.expected}.')


def Text(default: str, free: bool = False) -> Field:
  """Any text."""
  return Field(default, 'a text', str, free=free)


def Switch(default: bool, free: bool = False) -> Field:
  """True or False."""
  words = {'true': True, 'false': False, '1': True, '0': False}
  return Field(default, 'true or false', lambda text: words[text.lower()], free=free)


def Choice(*values: Any, free: bool = False) -> Field:
  """One of several words or whole numbers. The first is the default."""
  expected = f'one of {", ".join(map(repr, values))}'
  return Field(values[0], expected, type(values[0]), lambda value: value in values, free)


def _within(value: Any, low: float, high: float, kinds: Any = (int, float)) -> bool:
  return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def Number(default: float, low: float, high: float, above: bool = False, free: bool = False) -> Field:
  """A number from `low` to `high`, whole if the default is. above: `low` itself is too low."""
  kind = 'a whole number' if isinstance(default, int) else 'a number'
  expected = f'{kind} {"above" if above else "of at least"} {low:g} and at most {high:g}'
  fits = lambda value: _within(value, low, high) and not (above and value == low)
  return Field(default, expected, type(default), fits, free)


def Numbers(default: tuple, low: float, high: float, lengths: Collection[int] = (), whole: bool = True) -> Field:
  """A tuple of numbers from `low` to `high`. lengths: how many there may be; whole: no fractions."""
  many = f'{min(lengths)} to {max(lengths)}' if isinstance(lengths, range) else ' or '.join(map(str, lengths))
  kind, kinds = ('whole numbers', int) if whole else ('numbers', (int, float))
  expected = f"{many} {kind} of at least {low:g} and at most {high:g}, written as '(5, 10)'".strip()

  def parse(text: str) -> tuple:
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

  def fits(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or (lengths and len(value) not in lengths):
      return False
    return all(_within(one, low, high, kinds) for one in value)

  return Field(default, expected, parse, fits)


def count(default: int) -> Field:
  """How many of something: at least one."""
  return Number(default, 1, 10**6)


def rate(default: float) -> Field:
  """A learning rate."""
  return Number(default, 0, 100, above=True)


def weight(default: float) -> Field:
  """The weight of a term in a loss."""
  return Number(default, 0, 1e6)


class Share:
  """In a recipe: a share, or a tuple of shares, of a whole number of the config. of: its field; default: the same."""

  def __init__(self, part: float | tuple[float, ...], of: str = ''):
    self.part, self.of = part, of

  def taken_of(self, flat: dict, name: str) -> int | tuple[int, ...]:
    """The value of field `name`, at least 1 each. flat: the config before the recipe."""
    whole = flat[self.of or name]
    if isinstance(self.part, tuple):
      return tuple(max(1, round(part * whole)) for part in self.part)
    return max(1, round(self.part * whole))
