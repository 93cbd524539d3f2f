"""What may end a run early: a user's mistake, a workdir in use, a pause."""

import difflib
import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
  """A mistake of the user's: its text is one line that says what, where and what to do.

  The commands print that line without a traceback and exit with code 2.
  """

  def __init__(self, text: str):
    super().__init__(' '.join(text.splitlines()))  # a name in it may have line breaks of its own


class InUse(UserError):
  """Another process runs in this workdir."""


class Diverged(UserError):
  """A run of no use: a number is no longer finite, or its student or generator has collapsed. Others may go on."""


class Paused(Exception):
  """The run has saved itself and stops here; the same command resumes it."""


def nearest(word: str, known: Iterable[str]) -> str:
  """' Did you mean ...?' for the known word nearest to `word`; the known ones if none is near and they are few."""
  known = sorted(known)
  if close := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
    return f" Did you mean '{close[0]}'?"
  return f' Known: {", ".join(known)}.' if 0 < len(known) <= 20 else ''


def shown(name: str) -> str:
  """A name of a file, which may not be UTF-8, for a message."""
  return os.fsencode(name).decode(errors='replace')


# What a disk says when it takes no more; also in words, for libraries pass them on in messages of their own.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def disk_errors_told(where: str) -> Iterator[None]:
  """Turns what the block raises because of the disk under `where` into a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if reason := _reason_of_disk(error):
      raise UserError(
        f'{where} cannot be written ({reason}). What is saved is intact: mend that, and the same command resumes.'
      ) from error
    raise


def _reason_of_disk(error: BaseException | None) -> str:
  """What the disk said, if it is behind `error`; '' if it is not."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _DISK:
      return os.strerror(error.errno)
    for number in _DISK:
      if os.strerror(number) in str(error):
        return os.strerror(number)
    error = error.__cause__ or error.__context__
  return ''


def silence_closed_loops() -> None:
  """Keeps off stderr what orbax's abandoned reads and writes say to an event loop that an error has closed."""
  usual = sys.unraisablehook

  def hook(unraisable) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and 'Event loop is closed' in str(unraisable.exc_value)):
      usual(unraisable)

  sys.unraisablehook = hook
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
