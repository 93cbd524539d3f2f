"""The files of a workdir: those that a run writes, and what in them or beside them could hold an image."""

import re
from collections.abc import Iterator
from pathlib import Path

from abd_jax.analysis import audit_pictures, audit_texts
from abd_jax.analysis.audit_metadata import CUT_OFF, FILES
from abd_jax.analysis.diagnose import read_pictures
from abd_jax.config import Config
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import KINDS

FROZEN = r'\d+(?:_phase_\d+)?'  # name of a frozen model
# All that the commands of this package write, but for the files of arrays: those their stores name themselves.
_WRITTEN = re.compile(
  r'\.lock|(config|results)\.json|(metrics|phases|reads)\.jsonl|metrics\.csv|confusion/task_[1-9][0-9]*\.csv'
  r'|dreams/task_[1-9][0-9]*\.png|tensorboard/events\.out\.tfevents\.[\w.-]+'
  rf'|(?P<frozen>teachers/{FROZEN})(\.json|/({FILES}))'
  rf'|(?P<save>checkpoints/({"|".join(KINDS)})/\d+)/((state/)?({FILES})|progress/(metadata|commit_success\.txt))'
  r'|profile/\w+/plugins/profile/\w+/[\w.-]+\.(xplane\.pb|trace\.json\.gz)'
  r'|compilation_cache/[\w.-]+-(cache|atime)|diagnosis/(diagnosis\.json|images\.npz)|report\.html'
)


def unknown(folder: Path, stored: set[str], stores: set[Path]) -> Iterator[str]:
  """A line for each file or link that no command of this package writes.

  Args:
    stored: files of arrays, by their stores.
    stores: the stores of arrays, beside which others lie; in `folder`, as all names here.
  """
  for path in sorted(folder.rglob('*')):
    name = path.relative_to(folder).as_posix()
    if path.is_symlink():
      yield f'{name} is a link to {path.readlink()}: nothing of a run'
    elif within := CUT_OFF.match(name):
      if within.end() == len(name):
        yield f'{name} is a save that was cut off, not looked into: delete it, or resume a run that is not finished'
    elif path.is_file() and name not in stored and not _is_written(name, stores):
      yield f'{name} ({path.stat().st_size} bytes) is nothing of a run: it can hold images'


def _is_written(name: str, stores: set[Path]) -> bool:
  found = _WRITTEN.fullmatch(name)
  if not found:
    return False
  frozen, save = found['frozen'], found['save']
  store = Path(frozen) if frozen else Path(save, 'state') if save else None
  return store is None or store in stores


def contents(folder: Path, tasks: Tasks, dreams: bool) -> Iterator[str]:
  """A line for each known file with more in it than belongs there. dreams: whether the method makes pictures.

  Raises UserError if a log is damaged.
  """
  yield from audit_texts.jsons(folder, tasks)
  if (folder / '.lock').exists() and (size := (folder / '.lock').stat().st_size):
    yield f'.lock holds {size} bytes, and should be empty'
  last = len(tasks.sizes) - 1
  for file in sorted((folder / 'dreams').glob('*.png')):
    number = int(re.sub(r'\D', '', file.stem) or 0)
    if not dreams or not 0 < number <= last:
      yield f'dreams/{file.name}: nothing was dreamed after that task'
    elif what := audit_pictures.beside_the_picture(file.read_bytes()):
      yield f'dreams/{file.name} {what}'
  for file in sorted((folder / 'tensorboard').glob('events.*')):
    yield from audit_pictures.in_tensorboard(file, last if dreams else 0, last + 1)


def of_the_report(folder: Path) -> Iterator[str]:
  """A line for each file into which `report` has put images of the data set. Raises UserError if it is damaged."""
  if (folder / 'diagnosis' / 'images.npz').exists():
    pictures = read_pictures(folder)
    if count := sum(
      len(one) for name, one in pictures.items() if not name.startswith(('dreamed_', 'nearest_dreamed_'))
    ):
      yield f'diagnosis/images.npz holds {count} real images, which `report` read from the data set: delete diagnosis/'
  if (folder / 'report.html').exists() and 'data:image' in (folder / 'report.html').read_text(errors='replace'):
    yield 'report.html shows real images, which `report` read from the data set: delete it, or make it --no-diagnosis'


def notes(folder: Path, config: Config) -> list[str]:
  """What is not looked into: what `report` and JAX have put beside the run, images that are parameters, the data."""
  found = []
  if (folder / 'diagnosis' / 'diagnosis.json').exists():
    found.append('diagnosis/diagnosis.json: what `report` measured, not looked into; made anew if deleted')
  if config.data.name == 'image_folder':
    copies = config.data.prepared or f'{config.data.dir.rstrip("/")}.prepared'
    found.append(f'{config.data.dir} has the photographs themselves, and {copies} copies of them, also of earlier ones')
  if (folder / 'compilation_cache').exists():
    found.append('compilation_cache: programs that JAX compiled, not looked into; made anew if deleted')
  if (folder / 'profile').exists():
    found.append('profile: traces of JAX, not looked into; delete it, no run needs it')
  if config.inversion.what == 'pixels':
    found.append(f'the generator is {config.inversion.pixel_images} dreamed images themselves: shapes cannot tell them')
  return found
