"""The types that declare a field of the config: its default value and the values it may have.

Fields stand in the table of abd_jax/config.py and in SETTINGS of a method's file, one a line:

  'held_out': Number(0.1, 0, 1),  # share of the memory that the second stage learns from
"""

import ast
from collections.abc import Collection
from typing import Any

from abd_jax.errors import UserError


class Field:
  """A default and its limits. free: may differ when a run is resumed, since results do not depend on it."""

  expected = 'a text'

  def __init__(self, default: Any, free: bool = False):
    self.default, self.free = default, free

  def read(self, name: str, text: str) -> Any:
    """The value that `text` stands for on a command line. Raises UserError if it is of another type."""
    try:
      return self.parse(text)
    except (ValueError, KeyError, SyntaxError, TypeError, MemoryError, RecursionError):
      raise UserError(f'config.{name}={text}: expected {self.expected}.') from None

  def parse(self, text: str) -> Any:
    return type(self.default)(text)

  def check(self, name: str, value: Any) -> None:
    """Raises UserError for a value that no run can use. name: of the field, with dots."""
    if not self.fits(value):
      raise UserError(f'config.{name}={value!r}: expected {self.expected}.')

  def fits(self, value: Any) -> bool:
    return True


class Text(Field):
  """Any text."""


class Switch(Field):
  """True or False."""

  expected = 'true or false'

  def parse(self, text: str) -> bool:
    return {'true': True, 'false': False, '1': True, '0': False}[text.lower()]


class Choice(Field):
  """One of several words or whole numbers. The first is the default."""

  def __init__(self, *values: Any, free: bool = False):
    super().__init__(values[0], free)
    self.values = values
    self.expected = f'one of {", ".join(map(repr, values))}'

  def fits(self, value: Any) -> bool:
    return value in self.values


class Number(Field):
  """A number from `low` to `high`, whole if the default is. above: `low` itself is too low."""

  def __init__(self, default: float, low: float, high: float, above: bool = False, free: bool = False):
    super().__init__(default, free)
    self.low, self.high, self.above = low, high, above
    kind = 'a whole number' if isinstance(default, int) else 'a number'
    self.expected = f'{kind} {"above" if above else "of at least"} {low:g} and at most {high:g}'

  def fits(self, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and self.low <= value <= self.high and not (self.above and value == self.low)


class Numbers(Field):
  """A tuple of numbers from `low` to `high`. lengths: how many there may be; whole: no fractions."""

  def __init__(self, default: tuple, low: float, high: float, lengths: Collection[int] = (), whole: bool = True):
    super().__init__(default)
    self.low, self.high, self.lengths, self.kinds = low, high, lengths, int if whole else (int, float)
    many = f'{min(lengths)} to {max(lengths)}' if isinstance(lengths, range) else ' or '.join(map(str, lengths))
    kind = f'{many} {"whole numbers" if whole else "numbers"}'.strip()
    self.expected = f"{kind} of at least {low:g} and at most {high:g}, written as '(5, 10)'"

  def parse(self, text: str) -> tuple:
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

  def fits(self, value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or (self.lengths and len(value) not in self.lengths):
      return False
    good = lambda one: isinstance(one, self.kinds) and not isinstance(one, bool) and self.low <= one <= self.high
    return all(map(good, value))


def count(default: int) -> Number:
  """How many of something: at least one."""
  return Number(default, 1, 10**6)


def rate(default: float) -> Number:
  """A learning rate."""
  return Number(default, 0, 100, above=True)


def weight(default: float) -> Number:
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
