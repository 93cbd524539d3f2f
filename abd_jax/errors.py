"""What may end a run early: a user's mistake, a workdir in use, a pause."""

import difflib
import errno
import os
from collections.abc import Iterable


class UserError(Exception):
  """A mistake of the user's: its text is one line that says what, where and what to do.

  The commands print that line without a traceback and exit with code 2.
  """


class InUse(UserError):
  """Another process runs in this workdir."""


class Paused(Exception):
  """The run has saved itself and stops here; the same command resumes it."""


def nearest(word: str, known: Iterable[str]) -> str:
  """' Did you mean ...?' for the known word nearest to `word`; the known ones if none is near and they are few."""
  known = sorted(known)
  if close := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
    return f" Did you mean '{close[0]}'?"
  return f' Known: {", ".join(known)}.' if 0 < len(known) <= 20 else ''


def no_space(error: BaseException | None) -> bool:
  """Whether `error`, or what caused it, is a full disk: an OSError, or a library's words for one."""
  while error is not None:
    if getattr(error, 'errno', None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False
