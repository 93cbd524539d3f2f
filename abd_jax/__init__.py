"""abd_jax: data-free class-incremental learning (Always Be Dreaming) in JAX and Flax.

Stable, and changed only with a note in CHANGELOG.md: `train_and_evaluate`, `load_config`, `load_model` and what it
returns, `UserError` and `Paused`, the fields of the config, results.json and the manifests of frozen models.
Everything else in this package may change from one version to the next.
"""

TYPE_CHECKING = False  # type checkers take it as true; `typing` itself takes long to import
__version__ = '0.1.0'
__all__ = ['Paused', 'UserError', '__version__', 'load_config', 'load_model', 'train_and_evaluate']

if TYPE_CHECKING:
  from typing import Any

  from abd_jax.config import load_config
  from abd_jax.errors import Paused, UserError
  from abd_jax.run.load import load_model
  from abd_jax.train import train_and_evaluate

_HOMES = {
  'load_config': 'config', 'load_model': 'run.load', 'train_and_evaluate': 'train',
  'UserError': 'errors', 'Paused': 'errors',
}  # fmt: skip


def __getattr__(name: str) -> 'Any':
  """Imports what is asked for when it is asked for, so that the command line answers before JAX is there."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import importlib

  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
