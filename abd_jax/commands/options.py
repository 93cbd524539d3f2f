"""The words of a command line: options, fields of a config, and the rest. Any mistake is one UserError."""

import ast
import json
import runpy
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from abd_jax.config import Config, changed, check_read, default, flatten, restored
from abd_jax.errors import UserError, nearest


class Words(NamedTuple):
  """A command line taken apart."""

  options: dict[str, str]  # --name=value
  fields: dict[str, Any]  # --config.name=value, read as that field's type
  rest: list[str]


def parse(words: Sequence[str], known: Collection[str], fields: bool = False) -> Words:
  """Takes `words` apart. known: names of options; fields: whether --config.FIELD=VALUE may stand there."""
  options: dict[str, str] = {}
  rest, words = [], list(words)
  while words:
    word = words.pop(0)
    if not word.startswith('-') or word == '-':
      rest.append(word)
      continue
    name, equals, value = word.lstrip('-').partition('=')
    _check_name(name, known, fields)
    if not equals:
      if not words:
        raise UserError(f'--{name} has no value, as in --{name}=...')
      value = words.pop(0)
    if name in options:
      raise UserError(f'--{name} is given twice. Leave one out.')
    options[name] = value
  values = {name.removeprefix('config.'): value for name, value in options.items() if name.startswith('config.')}
  return Words(
    {name: value for name, value in options.items() if not name.startswith('config.')},
    {name: read(name, text, flatten(default().to_dict())[name]) for name, text in values.items()},
    rest,
  )


def _check_name(name: str, known: Collection[str], fields: bool) -> None:
  if not (fields and name.startswith('config.')):
    if name not in known:
      raise UserError(f'--{name} is not an option.{nearest(name, known)}')
    return
  field, all_fields = name.removeprefix('config.'), flatten(default().to_dict())
  if field == 'method':  # as a field it would go without its recipe
    raise UserError('the method is an option after the colon, as in --config=configs/digits.py:method=lwf.')
  if field in all_fields:
    return
  if inside := [one for one in all_fields if one.startswith(f'{field}.')]:
    raise UserError(f'config.{field} is a group of fields. Name one, such as config.{inside[0]}.')
  raise UserError(f'config.{field} is not a field.{nearest(field, all_fields)}')


def read(name: str, text: str, like: Any) -> Any:
  """`text` as a value of the type of `like`. Raises UserError if it is none."""
  try:
    if isinstance(like, bool):
      return {'true': True, 'false': False, '1': True, '0': False}[text.lower()]
    if isinstance(like, tuple):
      value = ast.literal_eval(text)
      return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return type(like)(text)
  except (ValueError, KeyError, SyntaxError, TypeError, MemoryError, RecursionError):
    kind = 'true or false' if isinstance(like, bool) else {
      int: 'a whole number, such as 5', float: 'a number, such as 0.1', tuple: "numbers, such as '(5, 10)'"
    }[type(like)]  # fmt: skip
    raise UserError(f'config.{name}={text} must be {kind}.') from None


def apply(config: Config, fields: dict[str, Any]) -> Config:
  """`config` with these fields set. Raises UserError for one that its method does not read."""
  check_read(config.method, fields)
  config = config.copy_and_resolve_references().unlock()
  config.update_from_flattened_dict(fields)
  return config.lock()


def packaged_configs() -> Path:
  """The folder of the configs that come with this package: its own, or a checkout's."""
  package = Path(__file__).resolve().parent.parent
  return package / 'configs' if (package / 'configs').is_dir() else package.parent / 'configs'


def load_config(text: str) -> Config:
  """The config that --config=FILE[:OPTIONS] names: a file, one of ours by its name, such as digits, or a config.json.

  '-' reads such JSON from standard input. Raises UserError if there is none, or it cannot be used.
  """
  if text == '-' or text.endswith('.json'):
    return _from_json(text)
  name, _, argument = text.partition(':')
  file = Path(name)
  if not file.is_file() and name.removeprefix('configs/').removesuffix('.py').isidentifier():
    file = packaged_configs() / f'{name.removeprefix("configs/").removesuffix(".py")}.py'
  if not file.is_file():
    ours = [path.stem for path in packaged_configs().glob('*.py')]
    beside = [str(path) for path in Path(name).parent.glob('*.py')]
    hint = nearest(name, beside) if beside else nearest(Path(name).stem, ours)
    raise UserError(f"config file '{name}' does not exist.{hint}")
  try:
    config = runpy.run_path(str(file))['get_config'](argument or None)
    fields, known = flatten(config.to_dict()), flatten(default().to_dict())
  except UserError:
    raise
  except Exception as error:
    reason = f'no {error}' if isinstance(error, KeyError) else str(error) or type(error).__name__
    raise UserError(
      f"config file '{name}' cannot be used ({' '.join(reason.split())}). `configs/` has working ones."
    ) from error
  _check_known(name, fields, known)
  if missing := sorted(set(known) - set(fields)):
    raise UserError(f"config file '{name}' lacks {missing[0]}. Begin it with abd_jax.config.default().")
  return config


def _check_known(name: str, fields: Collection[str], known: Collection[str]) -> None:
  if unknown := sorted(set(fields) - set(known)):
    raise UserError(f"config file '{name}': {unknown[0]} is not a field.{nearest(unknown[0], known)}")


def _from_json(name: str) -> Config:
  """The config in the JSON file of that name, '-' for standard input. Raises UserError if there is none."""
  try:
    stored = json.loads(sys.stdin.read() if name == '-' else Path(name).read_text())
    fields = flatten(stored)
  except (OSError, ValueError, AttributeError) as error:
    reason = error.strerror if isinstance(error, OSError) else 'it is no config as a workdir has it'
    raise UserError(f"config file '{name}' cannot be used ({reason}). Give the config.json of a run.") from error
  known = flatten(default().to_dict())
  _check_known(name, fields, known)
  return changed(restored(stored), {'data.fingerprint': ''})  # what a new run is to learn may be other data
