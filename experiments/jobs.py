"""A config's run as a job of the queue."""

import importlib.util
import sys
from pathlib import Path

from abd_jax.config import Config, flatten
from abd_jax.devices.backend import use_compilation_cache
from abd_jax.errors import UserError, nearest
from abd_jax.run.queue import Job
from abd_jax.train import train_and_evaluate
from experiments.files import ROOT

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
  if not has_config(name):
    known = [file.stem for file in CONFIGS.glob('*.py')]
    raise UserError(f"there is no configs/{name}.py: --config='{name}'.{nearest(name, known)}")
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(option)
  known = flatten(config.to_dict())
  for field, value in (fields or {}).items():
    if field not in known:
      raise UserError(f'config.{field} is not a field.{nearest(field, known)}')
    if field == 'method':  # as a field it would go without its recipe
      raise UserError('the method is no field here but an option after the colon, as in --config=digits:method=lwf.')
    try:
      config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as error:
      raise UserError(f'config.{field}={value!r} is of the wrong type: it is now {known[field]!r}.') from error
  return config


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
