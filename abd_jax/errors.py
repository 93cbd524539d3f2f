"""What may end a run early: a mistake, a workdir in use, a pause, a signal. Imports little, so it is there first."""

import difflib
import errno
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class UserError(Exception):
  """A mistake of the user. Its text is one line: what is wrong, where, and what to do.

  The commands print that line without a traceback and exit with code 2.
  """

  def __init__(self, text: str):
    super().__init__(' '.join(text.splitlines()))  # a name in it may have line breaks of its own


class Damaged(UserError):
  """Files of a run are missing or have changed."""


class InUse(UserError):
  """Another process runs in this workdir."""


class Diverged(UserError):
  """Training failed: a number is no longer finite, or the student or generator has collapsed. Other jobs continue."""


class Paused(Exception):
  """The run was saved and has stopped. The same command resumes it."""


def nearest(word: str, known: Iterable[str]) -> str:
  """' Did you mean ...?' with the most similar known word; without one, the known words unless they are many."""
  known = sorted(known)
  if close := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
    return f" Did you mean '{close[0]}'?"
  return f' Known: {", ".join(known)}.' if 0 < len(known) <= 20 else ''


def reason(error: BaseException, most: int = 160) -> str:
  """A library's message in one line, cut between words after `most` characters."""
  return textwrap.shorten(str(error) or type(error).__name__, most, placeholder=' ...')


def shown(name: str) -> str:
  """A file name for a message, without the bytes that are not UTF-8."""
  return os.fsencode(name).decode(errors='replace')


# Error numbers of a full or failing disk. Libraries repeat their texts in messages of their own.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def system_errors_explained(where: str) -> Iterator[None]:
  """Raises a UserError of one line if the block fails because the disk under `where`, or a device's memory, is full."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if why := _reason_of_disk(error):
      raise UserError(
        f'{where} cannot be written ({why}). Saved data is intact. Fix the disk; then the same command resumes.'
      ) from error
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise UserError(
        f'a device has too little memory ({reason(error)}). Use smaller batches (config.student.batch_size, '
        '.inversion.batch_size, .eval_batch_size), or more devices.'
      ) from error
    raise


def _reason_of_disk(error: BaseException | None) -> str:
  """The text of the disk's error if that caused `error`; '' if it did not."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _DISK:
      return os.strerror(error.errno)
    for number in _DISK:
      if os.strerror(number) in str(error):
        return os.strerror(number)
    error = error.__cause__ or error.__context__
  return ''


def silence_closed_loops() -> None:
  """Hides the warnings of orbax's unfinished reads and writes after an error has closed their event loop."""
  usual = sys.unraisablehook

  def hook(unraisable) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and 'Event loop is closed' in str(unraisable.exc_value)):
      usual(unraisable)

  sys.unraisablehook = hook
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)


def stop_at_once() -> None:
  """Makes each of SIGNALS end the process with one line and the usual exit code of a signal.

  Some imports swallow KeyboardInterrupt or turn it into another error. Ending at once is safe: files are written
  atomically. While a run is going on, the handlers of `PauseSignals` are in their place.
  """

  def stop(number: int, frame: object) -> None:
    say_past_buffers(b'stopped; the same command resumes a run from its newest checkpoint')
    os._exit(128 + number)

  for number in SIGNALS:
    signal.signal(number, stop)


class PauseSignals:
  """Inside the block the first of SIGNALS sets `received` to its name. The next one finds the old handlers.

  Python runs a handler between two instructions of its own, so the answer may come only after a step.
  """

  def __init__(self):
    self.received = ''
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> 'PauseSignals':
    if threading.current_thread() is threading.main_thread():  # no other thread receives signals
      self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)

  def _on_signal(self, number: int, _frame: object) -> None:
    self.received = signal.Signals(number).name
    self.__exit__()
    say_past_buffers(b'pausing after this chunk; again to stop now')


def say_past_buffers(text: bytes) -> None:
  """Writes a line to stderr past Python's buffers, which a signal may have interrupted."""
  with suppress(OSError):
    os.write(2, text + b'\n')
