"""Running configs in a row and summing them up."""

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from abd_jax.devices.backend import use_compilation_cache
from abd_jax.devices.malloc import keep_freed_memory
from abd_jax.errors import InUse, Paused, UserError
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


def run_all(planned: Sequence[tuple[ConfigDict, Path]], max_seconds: float = 0.0) -> list[dict]:
  """results.json of each (config, workdir); finished ones are only read.

  What another process is running is left for the end, so the same command twice shares the work. max_seconds: over all
  of them, 0 for no limit, and shared out as config.max_seconds; raises session.Paused when it is up, everything saved.
  """
  began, results = time.monotonic(), {}
  for last_time in (False, True):
    for config, workdir in planned:
      if workdir in results:
        continue
      print(f'{workdir.name} ...', file=sys.stderr, flush=True)
      left = max(max_seconds - (time.monotonic() - began), 0.01)  # at least a moment: zero would mean no limit
      config.max_seconds = left if max_seconds else 0.0
      try:
        results[workdir] = run(config, workdir)
      except InUse:
        if last_time:
          raise
  return [results[workdir] for _, workdir in planned]


def cli(main: Callable[[list[str]], None]) -> None:
  """Runs a module's main on the command line's words: a pause is one line, a user's mistake one and exit code 2."""
  logging.set_verbosity(logging.ERROR)
  try:
    main(sys.argv[1:])
  except Paused as pause:
    print(pause, file=sys.stderr)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def mean_std(values: Sequence[float]) -> str:
  """'81.2 ± 1.9' of fractions, in percent; population standard deviation, as in the paper."""
  values = 100 * np.asarray(values)
  return f'{values.mean():.1f} ± {values.std():.1f}'
