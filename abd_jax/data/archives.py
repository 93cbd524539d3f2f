"""Archives of data sets, of which nothing is believed: none may escape its folder, or fill a disk."""

import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from abd_jax.errors import UserError


def check_members(archive: Path, members: Sequence[tuple[str, int]], most: int) -> None:
  """Raises UserError for a path that leaves the folder, or more than `most` bytes in all. members: (path, bytes)."""
  for name, _ in members:
    path = PurePosixPath(name.replace('\\', '/'))
    if path.is_absolute() or '..' in path.parts or ':' in name:
      raise UserError(f'{archive} would write to {name!r}, outside of its own folder. Get it anew from its source.')
  if (size := sum(size for _, size in members)) > most:
    raise UserError(
      f'{archive} would unpack to {size} bytes, more than the {most} it may have. Get it anew from its source.'
    )


def read_members(archive: Path, most: int) -> dict[str, bytes]:
  """Name without folders -> content of each plain file in a tar archive, read front to back.

  Links are left out. Raises UserError if it is not sound, or has more than `most` bytes.
  """
  files, total = {}, 0
  try:
    with tarfile.open(archive) as tar:  # going back would decompress it again
      for member in tar:
        total += member.size
        check_members(archive, [(member.name, total)], most)  # before it is read
        if member.isreg() and (file := tar.extractfile(member)):
          files[os.path.basename(member.name)] = file.read()
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    raise UserError(
      f'{archive} cannot be read ({" ".join(str(error).split())[:80]}); delete it and run again.'
    ) from None
  return files
