"""Methods: one file each, found by its name. methods/types.py says what the file holds."""

import importlib
import pkgutil
from types import ModuleType

from abd_jax.errors import UserError, nearest
from abd_jax.methods.types import Method


def available() -> list[str]:
  """The names of all methods."""
  return sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != 'types')


def module(name: str) -> ModuleType:
  """A method's file. Raises UserError for an unknown method."""
  if name not in available():
    raise UserError(f"config.method='{name}' is not a method.{nearest(name, available())}")
  return importlib.import_module(f'{__name__}.{name}')


def get(config) -> Method:
  """The method that config.method names. Raises UserError for an unknown one."""
  method = module(config.method).make(config)
  if config.head == 'trained':
    return method
  return module('class_gaussians').with_gaussians(method, config.gaussians, config.model.trainable == 'none')
