"""The files of a workdir: those that a run writes, and what in them or beside them could hold an image."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from abd_jax.analysis.diagnose import read_pictures
from abd_jax.config import Config
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.workdir import read_json, read_lines

_ORBAX = r'_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|array_metadatas/process_\d+'
# All that the commands of this package write, but for the files of arrays: those their stores name themselves.
_WRITTEN = re.compile(
  r'\.lock|(config|results)\.json|(metrics|phases|reads)\.jsonl|metrics\.csv|confusion/task_\d+\.csv'
  r'|dreams/task_\d+\.png|tensorboard/events\.out\.tfevents\.[\w.-]+|teachers/\w+\.json'
  rf'|teachers/\w+/({_ORBAX})|checkpoints/\w+/\d+/((state/)?({_ORBAX})|progress/(metadata|commit_success\.txt))'
  r'|profile/\w+/plugins/profile/\w+/[\w.-]+\.(xplane\.pb|trace\.json\.gz)'
  r'|compilation_cache/[\w.-]+-(cache|atime)|diagnosis/(diagnosis\.json|images\.npz)|report\.html'
)
# A folder that a save grows in until it is complete.
_CUT_OFF = re.compile(r'(teachers|checkpoints/\w+)/[^/]+?\.(new|orbax-checkpoint-tmp)(?=/|$)')
_LONGEST_TEXT = 2000  # letters: of a class name, a path, a processor's name, a checksum


def unknown(folder: Path, stored: set[str]) -> Iterator[str]:
  """A line for each file or link that no command of this package writes. stored: files of arrays, by their stores."""
  for path in sorted(folder.rglob('*')):
    name = path.relative_to(folder).as_posix()
    if path.is_symlink():
      yield f'{name} is a link to {path.readlink()}: nothing of a run'
    elif within := _CUT_OFF.match(name):
      if within.end() == len(name):
        yield f'{name} is a save that was cut off, not looked into: delete it, or resume a run that is not finished'
    elif path.is_file() and name not in stored and not _WRITTEN.fullmatch(name):
      yield f'{name} ({path.stat().st_size} bytes) is nothing of a run: it can hold images'


def contents(folder: Path, tasks: Tasks, dreams: bool) -> Iterator[str]:
  """A line for each known file with more in it than belongs there. dreams: whether the method makes pictures."""
  longest = max(len(tasks.order), len(tasks.sizes))
  for name in ('config.json', 'results.json'):
    if (folder / name).exists() and (what := _too_long(read_json(folder / name), longest)):
      yield f'{name} holds {what}'
  for name in ('metrics.jsonl', 'phases.jsonl', 'reads.jsonl'):
    for number, record in enumerate(read_lines(folder / name), 1):
      if what := _too_long(record, longest):
        yield f'{name}, line {number} holds {what}'
  if (folder / '.lock').exists() and (size := (folder / '.lock').stat().st_size):
    yield f'.lock holds {size} bytes, and should be empty'
  last = len(tasks.sizes) - 1
  for file in sorted((folder / 'dreams').glob('*.png')):
    number = int(re.sub(r'\D', '', file.stem) or 0)
    if not dreams or not 0 < number <= last:
      yield f'dreams/{file.name}: nothing was dreamed after that task'
    elif size := _after_the_end(file):
      yield f'dreams/{file.name} has {size} bytes after its picture'
  for file in sorted((folder / 'tensorboard').glob('events.*')):
    yield from _pictures(file, last if dreams else 0, last + 1)


def _too_long(value: Any, longest: int) -> str:
  """What in a JSON value is longer than a run writes it; '' if nothing is."""
  if isinstance(value, dict):
    return next(filter(None, (_too_long(one, longest) for one in value.values())), '')
  if isinstance(value, list):
    found = next(filter(None, (_too_long(one, longest) for one in value)), '')
    return found or (f'a list of {len(value)}, longer than the classes' if len(value) > longest else '')
  return f'a text of {len(value)} letters' if isinstance(value, str) and len(value) > _LONGEST_TEXT else ''


def _after_the_end(file: Path) -> int:
  """Bytes of a PNG behind its last chunk, all of them if it is none."""
  content = file.read_bytes()
  return len(content.partition(b'IEND\xaeB`\x82')[2]) if content.startswith(b'\x89PNG') else len(content)


def _pictures(file: Path, dreams: int, confusions: int) -> Iterator[str]:
  """A line for each picture in TensorBoard's `file` that is not one of so many dreams and confusion matrices."""
  from tensorboardX.proto import event_pb2

  messages: Any = event_pb2
  content, left = file.read_bytes(), {'dreams': dreams, 'confusion': confusions}
  try:
    while content:
      (length,) = struct.unpack('<Q', content[:8])  # TFRecord: length, checksum, event, checksum
      for value in messages.Event.FromString(content[12 : 12 + length]).summary.value:
        if not value.HasField('simple_value'):
          left[value.tag] = left.get(value.tag, 0) - 1
      content = content[16 + length :]
  except Exception:  # protobuf's own; the last record of a run under way may be half written
    yield f'tensorboard/{file.name} cannot be read to its end: {len(content)} bytes could be anything'
  for tag, count in left.items():
    if count < 0:
      yield f'tensorboard/{file.name} holds {-count} pictures too many named {tag!r}'


def notes(folder: Path, config: Config) -> list[str]:
  """What `report` and JAX have put beside the run, and images that are parameters."""
  found = []
  if (folder / 'diagnosis' / 'images.npz').exists():
    pictures = read_pictures(folder)
    count = sum(len(one) for name, one in pictures.items() if name.startswith(('real_', 'nearest_real_')))
    found.append(f'diagnosis/images.npz: `report` put {count} real images there, read from the data set')
  if (folder / 'report.html').exists():
    found.append('report.html shows real images, read from the data set by `report`')
  if (folder / 'compilation_cache').exists():
    found.append('compilation_cache: programs that JAX compiled, not looked into; made anew if deleted')
  if config.inversion.what == 'pixels':
    found.append(f'the generator is {config.inversion.pixel_images} dreamed images themselves: shapes cannot tell them')
  return found
