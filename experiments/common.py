"""Running configs in a row and summing them up."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from abd_jax.errors import UserError
from abd_jax.malloc import keep_freed_memory
from abd_jax.programs import use_compilation_cache
from abd_jax.train import train_and_evaluate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'experiments' / 'results'
keep_freed_memory()  # before JAX starts its threads


def load_config(name: str, argument: str = '', overrides: dict | None = None):
  """The config of configs/<name>.py with `overrides` of dotted fields."""
  spec = importlib.util.spec_from_file_location(name, ROOT / 'configs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(argument)
  config.update_from_flattened_dict(overrides or {})
  return config


def run(config, workdir: Path) -> dict:
  """results.json of `config` in `workdir`: run, or gone on with, or only read if complete."""
  use_compilation_cache(str(workdir.parent / 'compilation_cache'))
  return train_and_evaluate(config, str(workdir))


def cli(main: Callable[[list[str]], None]) -> None:
  """Runs a module's main on the command line's words: a user's mistake is one line and exit code 2."""
  logging.set_verbosity(logging.ERROR)
  try:
    main(sys.argv[1:])
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def mean_std(values: Sequence[float]) -> str:
  """'81.2 ± 1.9' of fractions, in percent; population standard deviation, as in the paper."""
  values = 100 * np.asarray(values)
  return f'{values.mean():.1f} ± {values.std():.1f}'
