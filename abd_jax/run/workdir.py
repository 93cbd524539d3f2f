"""What a run leaves on disk besides checkpoints: config.json, metrics.jsonl, reads.jsonl, dreams, results."""

import fcntl
import json
import os
from pathlib import Path

import jax

from abd_jax.config import default, flatten
from abd_jax.errors import InUse, UserError

# Fields that may differ when a run is resumed: they change where and when it runs, not what it computes.
FREE_FIELDS = (
  'max_seconds', 'checkpoint_seconds', 'devices', 'distributed', 'cluster.coordinator', 'cluster.count',
  'cluster.rank', 'data.dir', 'data.download', 'oracle_dir',
)  # fmt: skip
# Of several differences the one to tell: others follow from it.
FIRST_TOLD = ('extends', 'data.name', 'method', 'trial', 'seed', 'tasks', 'task_sizes')


class Workdir:
  """One run's directory. Raises UserError if it is unwritable, in use, or another config's."""

  def __init__(self, path: str, config_dict: dict):
    self.path = Path(path).absolute()
    self.is_main = jax.process_index() == 0  # of several hosts, one writes
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
    with open(self.log_file if self.is_main else os.devnull, 'a') as file:
      file.write(json.dumps(record) + '\n')
      return file.tell()

  def log_read(self, record: dict) -> None:
    """Appends a line to reads.jsonl: which images a process of this run has looked at."""
    if self.is_main:
      with open(self.path / 'reads.jsonl', 'a') as file:
        file.write(json.dumps(record) + '\n')

  def cut_log(self, size: int) -> None:
    """Cuts metrics.jsonl back to `size` bytes: what came after the restored step is about to be written again."""
    if self.is_main and self.log_file.exists() and self.log_file.stat().st_size > size:
      os.truncate(self.log_file, size)

  def dream_file(self, task: int) -> Path:
    """The picture of what was dreamed after 0-based `task`."""
    (self.path / 'dreams').mkdir(exist_ok=True)
    return self.path / 'dreams' / f'task_{task + 1}.png'

  def __enter__(self) -> 'Workdir':
    return self

  def __exit__(self, *exc) -> None:
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
  rank = {name: k for k, name in enumerate(FIRST_TOLD)}
  for name in sorted(there.keys() | here.keys(), key=lambda name: (rank.get(name, len(rank)), name)):
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


def write_atomically(file: Path, content: str | bytes) -> None:
  """The file holds the old content or the new one, never a part. Raises OSError, and leaves nothing else behind."""
  temporary = file.with_name(file.name + '.tmp')
  try:
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(file)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise
