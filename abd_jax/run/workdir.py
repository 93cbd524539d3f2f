"""What a run leaves on disk besides checkpoints: config.json, logs, dreams, results."""

import fcntl
import json
import os
from pathlib import Path

import jax
import numpy as np

from abd_jax.config import default, flatten
from abd_jax.errors import InUse, UserError
from abd_jax.run.mirrors import Mirrors, confusion_file, write_confusion

# Fields that may differ when a run is resumed: they change where and when it runs, not what it computes.
FREE_FIELDS = ('max_seconds', 'checkpoint_seconds', 'devices', 'distributed', 'data.dir', 'data.download', 'oracle_dir')


class Workdir:
  """One run's directory. Raises UserError if it is unwritable, in use, or another config's."""

  def __init__(self, path: str, config_dict: dict):
    self.path = Path(path).absolute()
    self.is_main = jax.process_index() == 0  # of several hosts, one writes
    self._mirrors: Mirrors | None = None  # made with the first record: before it nothing is written
    self.config = json.loads(json.dumps(config_dict))
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = os.open(self.path / '.lock', os.O_CREAT | os.O_WRONLY)
    except OSError as error:
      raise UserError(f'workdir {self.path} cannot be written ({error.strerror}). Choose another --workdir.') from error
    try:
      if self.is_main:
        self._claim()
        self._check_config()
    except UserError:
      os.close(self._lock)
      raise

  def _claim(self) -> None:
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise InUse(f'workdir {self.path} is in use by another process. Wait for it, or stop it.') from error

  def _check_config(self) -> None:
    file = self.path / 'config.json'
    if not file.exists():
      return write_atomically(file, json.dumps(self.config, indent=2) + '\n')
    check_same_config(self.path, self.config)

  @property
  def results_file(self) -> Path:
    return self.path / 'results.json'

  def read_results(self) -> dict | None:
    """results.json of a run that is complete, or None."""
    return read_json(self.results_file) if self.results_file.exists() else None

  def write_results(self, results: dict) -> None:
    if self.is_main:
      write_atomically(self.results_file, json.dumps(results, indent=2) + '\n')

  @property
  def log_file(self) -> Path:
    return self.path / 'metrics.jsonl'

  def log(self, record: dict) -> int:
    """Appends a line to metrics.jsonl; returns the file's size in bytes."""
    if self.is_main and self._mirrors is None:
      self._mirrors = Mirrors(self.path)
    with open(self.log_file if self.is_main else os.devnull, 'a') as file:
      file.write(json.dumps(record) + '\n')
      size = file.tell()
    if self._mirrors:
      self._mirrors.write(record)
    return size

  def log_phase(self, record: dict) -> None:
    """Appends a line to phases.jsonl: what a process spent on its stretch of a phase."""
    self._append('phases.jsonl', record)

  def log_read(self, record: dict) -> None:
    """Appends a line to reads.jsonl: which images a process of this run has looked at."""
    self._append('reads.jsonl', record)

  def _append(self, name: str, record: dict) -> None:
    if self.is_main:
      with open(self.path / name, 'a') as file:
        file.write(json.dumps(record) + '\n')

  def cut_log(self, size: int) -> None:
    """Cuts metrics.jsonl back to `size` bytes: what came after is about to be written again."""
    if self.is_main and self.log_file.exists() and self.log_file.stat().st_size > size:
      os.truncate(self.log_file, size)

  def write_confusion(self, task: int, class_names: list[str], counts: np.ndarray) -> None:
    """Of the evaluation after 0-based `task`: counts i[c, c] of true and predicted classes."""
    if self.is_main:
      write_confusion(confusion_file(self.path, task), class_names, counts)

  def dream_file(self, task: int) -> Path:
    """The picture of what was dreamed after 0-based `task`."""
    (self.path / 'dreams').mkdir(exist_ok=True)
    return self.path / 'dreams' / f'task_{task + 1}.png'

  def __enter__(self) -> 'Workdir':
    return self

  def __exit__(self, *exc) -> None:
    if self._mirrors:
      self._mirrors.close()
    os.close(self._lock)


def read_finished(path: str, config_dict: dict) -> dict | None:
  """results.json of a run that is complete, or None: needs neither its data nor a lock.

  Raises UserError if it is damaged, or of another config.
  """
  folder = Path(path).absolute()
  if not (folder / 'results.json').is_file() or not (folder / 'config.json').is_file():
    return None
  check_same_config(folder, json.loads(json.dumps(config_dict)))
  return read_json(folder / 'results.json')


def check_same_config(folder: Path, config: dict) -> None:
  """Raises UserError unless `folder` holds a run of `config`, a dict as JSON has it.

  A field that did not exist when the run began counts as its default.
  """
  there, here, defaults = flatten(read_json(folder / 'config.json')), flatten(config), _defaults()
  for name in sorted(there.keys() | here.keys()):
    value = there.get(name, defaults.get(name))
    if name not in FREE_FIELDS and value != here.get(name):
      raise UserError(
        f'workdir {folder} holds a run with config.{name}={value!r}, not {here.get(name)!r}. Choose another '
        '--workdir, or that config to resume it.'
      )


def _defaults() -> dict:
  return flatten(json.loads(json.dumps(default().to_dict())))


def read_json(file: Path) -> dict:
  """The object in `file`. Raises UserError if there is none."""
  try:
    content = json.loads(file.read_text())
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise UserError(f'{file} is damaged: put it back as it was, or choose another --workdir.')
  return content


def write_atomically(file: Path, text: str) -> None:
  """The file holds the old text or the new one, never a part."""
  temporary = file.with_name(file.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(file)
