"""A config's run as a job of the queue."""

import sys
from pathlib import Path

from abd_jax import config as config_lib
from abd_jax.config import Config
from abd_jax.devices.backend import use_compilation_cache
from abd_jax.run.queue import Job
from abd_jax.train import train_and_evaluate
from experiments.store import ROOT

CONFIGS = ROOT / 'configs'
CACHE = 'compilation_cache'  # beside the workdirs that share it


def has_config(name: str) -> bool:
  return (CONFIGS / f'{name}.py').is_file()


def load_config(name: str, option: str = '', fields: dict | None = None) -> Config:
  """The config of configs/<name>.py.

  Args:
    name: of the file.
    option: what would stand after its colon on the command line, such as 'method=lwf,trial=1'.
    fields: dotted field -> value, over the file's own.

  Raises:
    UserError: no such file, option or field, or a value of another type.
  """
  return config_lib.load_config(f'{name}:{option}' if option else name, **(fields or {}))


def job(config: Config, workdir: Path) -> Job:
  """Does the run of `config`, or what is left of it, or only reads it if complete. Named after its workdir."""

  def run(max_seconds: float) -> dict:
    config.max_seconds = max_seconds
    config.collapse = 'tell'  # what collapses is a result too
    use_compilation_cache(str(workdir.parent / CACHE))
    return train_and_evaluate(config, str(workdir))

  return Job(workdir.name, run)


def tell(line: str) -> None:
  """A line about a run, as it happens."""
  print(line, file=sys.stderr, flush=True)
