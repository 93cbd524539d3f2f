"""What is told while something runs may get lost, but never ends or holds up the run: stderr, mostly."""

import contextlib
import io
import os
import select
import sys

PATIENCE = 0.5  # seconds that a reader who reads is waited for
_PIECE = 4096  # bytes that a pipe which says it has room takes without blocking: PIPE_BUF


def open_closed() -> None:
  """Puts /dev/null in the place of those of stdin, stdout and stderr that are closed.

  Else the next file that is opened, a checkpoint perhaps, would take their number, and what is printed.
  """
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, 'w' if number else 'r', closefd=False))  # noqa: SIM115  (as long as the process)


def give_up(number: int) -> None:
  """What is still to be written to file descriptor `number` goes nowhere."""
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, number)
  os.close(null)


def drop_unwritten() -> None:
  """What stdout could not take is not tried again when the process ends, which would tell of it once more."""
  try:
    sys.stdout.flush()
  except OSError:
    give_up(1)


def spell_out(name: str) -> None:
  """From now on sys.`name` writes a letter that its encoding lacks, as names of files may have, as an escape."""
  if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
    stream.reconfigure(errors='backslashreplace')


def let_go(name: str) -> None:
  """From now on what sys.`name` cannot take, or does not within PATIENCE, is dropped: full, closed, or nobody reads."""
  stream = getattr(sys, name)
  try:
    number = stream.fileno()
  except (OSError, ValueError, AttributeError):
    return  # another program's, which is not a file
  with contextlib.suppress(OSError):
    stream.flush()
  raw = _Dropping(number, stream.isatty())
  setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, 'backslashreplace', write_through=True))  # pyright: ignore[reportArgumentType]


class _Dropping(io.RawIOBase):
  def __init__(self, number: int, terminal: bool):
    self._number, self._terminal, self._patience = number, terminal, PATIENCE

  def fileno(self) -> int:
    return self._number

  def isatty(self) -> bool:
    return self._terminal

  def writable(self) -> bool:
    return True

  def write(self, data) -> int:
    taken = put(self._number, bytes(data), self._patience)
    self._patience = PATIENCE if taken else 0.0  # whoever does not read is waited for once
    return len(data)


def put(number: int, data: bytes, patience: float) -> bool:
  """Writes to a file descriptor that may take it within so many seconds; whether it did. Raises nothing."""
  try:
    for start in range(0, len(data), _PIECE):
      if not select.select([], [number], [], patience)[1]:
        return False
      os.write(number, data[start : start + _PIECE])
  except (OSError, ValueError):  # ValueError: a number too large for select
    return False
  return True
