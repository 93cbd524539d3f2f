"""What a run leaves on disk besides checkpoints: config.json, logs, dreams, results."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import xxhash

from abd_jax.config import FREE_FIELDS, Config, changed, default, flatten, left_open, reads
from abd_jax.devices import hosts
from abd_jax.errors import InUse, UserError
from abd_jax.files import as_json, read_json, read_results, sealed, write_atomically, write_sealed
from abd_jax.models import pretrained
from abd_jax.protocol.tasks import order_text
from abd_jax.report.figures import save_grid
from abd_jax.run.logs import MetricWriters
from abd_jax.run.schedule import TeacherId

SHARED_WITHIN = 20.0  # seconds in which what one host writes is seen by the others
_KEPT = ('teachers', 'results.json', 'checkpoints', 'metrics.jsonl')  # what a new run would write over
# If several fields differ, report these first; they explain the rest.
FIRST_REPORTED = ('extends', 'data.name', 'method', 'head', 'trial', 'seed', 'tasks', 'task_sizes')


class Workdir(AbstractContextManager):
  """One run's directory. Raises UserError if it is unwritable, in use, or another config's."""

  def __init__(self, path: str, config_dict: dict):
    self.path = Path(path).absolute()
    self.log_file = self.path / 'metrics.jsonl'
    self.is_main = hosts.is_main()  # of several hosts, one writes
    self._writers: MetricWriters | None = None  # made with the first record
    self.on_metrics: Callable[[dict], None] | None = None  # called with each record
    self._config = config_dict
    self._lock = hosts.all_or_none(self._open)
    try:
      stamp = hosts.word_of_main(self._claim)
      hosts.all_or_none(lambda: self._check_shared(stamp))
    except BaseException:
      os.close(self._lock)
      raise

  def _open(self) -> int:
    """The file that is locked while a run goes on."""
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      return os.open(self.path / '.lock', os.O_CREAT | os.O_WRONLY)
    except OSError as error:
      raise UserError(f'workdir {self.path} cannot be written ({error.strerror}). Choose another --workdir.') from error

  def _claim(self) -> int:
    """Locks the folder, makes sure that it holds this config, and returns when config.json was written, in ns."""
    try:
      _lock(self._lock, fcntl.LOCK_EX, self.path)
    except OSError as error:
      raise UserError(
        f'workdir {self.path} lies on a file system without file locks ({error.strerror}). Choose another --workdir.'
      ) from error
    file = self.path / 'config.json'
    if file.exists():
      check_same_config(self.path, self._config)
    elif others := [name for name in _KEPT if (self.path / name).exists()]:
      raise UserError(
        f'workdir {self.path} has {others[0]} but no config.json. Put config.json back, or choose another --workdir.'
      )
    else:
      write_atomically(file, json.dumps(self._config, indent=2) + '\n')
    return file.stat().st_mtime_ns

  def _check_shared(self, stamp: int) -> None:
    """Raises UserError unless this host sees the main host's folder: otherwise each would wait for the other."""
    end, file = time.monotonic() + SHARED_WITHIN, self.path / 'config.json'
    while not file.exists() or file.stat().st_mtime_ns != stamp:
      if time.monotonic() > end:
        raise UserError(f'workdir {self.path} is not the same folder on every host. Name one that they share.')
      time.sleep(0.2)

  def remove_teachers(self, frozen: Sequence[TeacherId]) -> None:
    """Removes these frozen models if they are there."""
    for folder in (self.path / 'teachers' / one.folder for one in frozen if self.is_main):
      folder.with_name(folder.name + '.json').unlink(missing_ok=True)
      shutil.rmtree(folder, ignore_errors=True)

  def write_results(self, results: dict) -> dict:
    """Writes them with a checksum, and returns what was written."""
    return write_sealed(self.path / 'results.json', results) if self.is_main else sealed(results)

  def log(self, record: dict) -> None:
    """Appends a line to metrics.jsonl and what is made of it."""
    if self.is_main:
      self._writers = self._writers or MetricWriters(self.path)
      self.append('metrics.jsonl', record)
      self._writers.write(record)
      if self.on_metrics:
        self.on_metrics(record)

  def append(self, name: str, record: dict) -> None:
    """Appends a line to a log."""
    if self.is_main:
      with open(self.path / name, 'ab', buffering=0) as file:
        size, line = file.tell(), json.dumps(record).encode() + b'\n'
        try:
          while line:
            line = line[file.write(line) :]
        except OSError:
          file.truncate(size)  # the disk is full: no half record may stay
          raise

  def log_state(self, size: int | None = None) -> tuple[int, str]:
    """(size in bytes of metrics.jsonl, or of its first `size` bytes; their checksum)."""
    content = self.log_file.read_bytes()[:size] if self.log_file.exists() else b''
    return len(content), xxhash.xxh3_128(content).hexdigest()

  def cut_log(self, size: int, checksum: str) -> None:
    """Cuts metrics.jsonl back to `size` bytes, those of the restored step; the rest will be written again.

    Raises UserError if `checksum` is not of those bytes.
    """

    def cut() -> None:
      if size and self.log_state(size) != (size, checksum):
        raise UserError(f'{self.log_file} has changed. Put it back as it was, or choose another --workdir.')
      if self.log_file.exists():
        os.truncate(self.log_file, size)

    hosts.word_of_main(cut)

  def write_dreams(self, task: int, dreams: np.ndarray, names: list[str]) -> None:
    """Writes a picture of the dreams f[n, h, w, c] in [0, 1] after 0-based `task`, each with its class's name."""
    if self.is_main:
      (self.path / 'dreams').mkdir(exist_ok=True)
      save_grid(dreams, names, self.path / 'dreams' / f'task_{task + 1}.png')

  def __exit__(self, *exc) -> None:
    try:
      if self._writers:
        self._writers.close()
    finally:  # whatever a full disk says to what is left to write
      os.close(self._lock)


@contextmanager
def at_rest(folder: Path) -> Iterator[None]:
  """Inside the block no run changes `folder`. Raises InUse if a run is going on there now."""
  if not (folder / '.lock').exists():  # a copy: no run has gone on in it
    yield
    return
  with open(folder / '.lock') as lock:
    with suppress(OSError):  # a copy on a file system without locks: no run can go on there
      _lock(lock.fileno(), fcntl.LOCK_SH, folder)
    yield


def _lock(file: int, kind: int, folder: Path) -> None:
  """Locks an open file until it is closed. Raises InUse if it is locked, OSError if the file system has no locks."""
  try:
    fcntl.flock(file, kind | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise InUse(f'workdir {folder} is in use by another process. Wait for it, or stop it.') from error


def check_path(workdir: str) -> None:
  """Raises UserError for a URL: checkpoints would go there, and all other files into a local folder of that name."""
  if '://' in workdir:
    raise UserError(
      f'--workdir={workdir}: expected a local folder, got a URL. Mount it, or copy the run there once it is complete.'
    )


def read_finished(workdir: str | Path, config: Config) -> tuple[dict | None, bool]:
  """(results.json of a finished run or None, whether config.data.dir is the folder that it read).

  Needs neither data nor a lock. Raises UserError if the file is damaged, or the run had another config.
  """
  folder, here = Path(workdir).absolute(), config.data.dir

  def read() -> tuple[dict | None, bool]:
    if not (folder / 'config.json').is_file():
      return None, True
    check_same_config(folder, config.to_dict())
    results = read_results(folder / 'results.json') if (folder / 'results.json').is_file() else None
    there = read_json(folder / 'config.json')['data']['dir']
    return results, not os.path.isdir(here) or os.path.realpath(here) == os.path.realpath(there or here)

  return tuple(hosts.word_of_main(read))


def resolve(config: Config, workdir: str | Path = '') -> Config:
  """`config` with the number of tasks, full paths of data and weights, and the class order in place of its file.

  workdir: fields that `config` leaves open, or a class order whose file is gone, are as a run there inferred them.
  Raises UserError if the file of a class order, or of weights whose hash is not known, cannot be read.
  """
  file, fields = Path(workdir).absolute() / 'config.json', flatten(config.to_dict())
  there = flatten(read_json(file)) if workdir and file.is_file() else {}
  tuples = lambda value: tuple(value) if isinstance(value, list) else value
  fields |= {name: tuples(there[name]) for name in left_open(fields) & there.keys()}
  try:
    fields['class_order'] = order_text(config.class_order)
  except UserError:
    if 'class_order' not in there:
      raise
    fields['class_order'] = there['class_order']
  fields['tasks'] = len(config.task_sizes) or config.tasks
  for name in ('data.dir', 'data.prepared', 'model.init'):
    if fields[name] and not fields[name].startswith(pretrained.HUB):
      fields[name] = os.path.abspath(os.path.expanduser(fields[name]))
  if (init := fields['model.init']) and not fields['model.init_hash']:
    fields['model.init_hash'] = pretrained.sha256(pretrained.locate(init, config.data.download))
  return changed(config, fields)


def fixed(fields: dict) -> dict:
  """Dotted name -> value of the fields that may not change when a run is resumed. fields: a config as a dict.

  Settings of other methods may change: whoever develops a method changes them. So may config.gaussians if the head is
  trained: it does not read them.
  """
  flat = flatten(as_json(fields))
  method = flat.get('method', '')
  unread = ('gaussians.',) if flat.get('head') == 'trained' else ()
  return {
    name: value
    for name, value in flat.items()
    if name not in FREE_FIELDS and reads(method, name) and not name.startswith(unread)
  }


def check_same_config(folder: Path, fields: dict) -> None:
  """Raises UserError unless `folder` holds a run of the config `fields`, a dict.

  Ignores groups that exist only there: they belong to methods that were added on another branch.
  """
  here = fixed(fields)
  asked = {name: here.get(name) for name in ('method', 'head')}
  defaults = fixed(default().to_dict() | asked)  # of fields that are newer than the run
  there = {name: value for name, value in defaults.items() if name in here} | fixed(read_json(folder / 'config.json'))
  rank, groups = {name: k for k, name in enumerate(FIRST_REPORTED)}, {name.rpartition('.')[0] for name in here}
  compared = {name for name in there.keys() | here.keys() if name.rpartition('.')[0] in groups} - left_open(here)
  for name in sorted(compared, key=lambda name: (rank.get(name, len(rank)), name)):
    if there.get(name) != here.get(name):
      raise UserError(
        f'workdir {folder} holds a run with config.{name}={there.get(name)!r}, not {here.get(name)!r}. Give that '
        'config to resume it, another --workdir to train anew, or abd-jax extend to teach a finished run more classes.'
      )
