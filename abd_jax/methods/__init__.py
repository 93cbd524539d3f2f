"""Methods: each is one file here with `make(config) -> Method`, found by its file's name."""

import importlib
import pkgutil

from abd_jax.errors import UserError, nearest
from abd_jax.methods.types import Method


def available() -> list[str]:
  return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != 'types')


def get(config) -> Method:
  """The method that config.method names. Raises UserError for an unknown one."""
  if config.method not in available():
    raise UserError(f"config.method='{config.method}' is not a method.{nearest(config.method, available())}")
  return importlib.import_module(f'{__name__}.{config.method}').make(config)
