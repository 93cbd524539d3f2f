"""The diagnosis of a run, kept beside it: made once, and again when its frozen models change."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax import __version__
from abd_jax.analysis.examine import Dreams, Subject, examine
from abd_jax.analysis.images import read_images
from abd_jax.errors import UserError
from abd_jax.files import is_intact, read_json, sealed, write_atomically
from abd_jax.run.checkpoint import manifest_file
from abd_jax.run.load import LoadedModel, load_model

SCHEMA = 3
DREAMS = 1000  # of each task's model
_LARGEST = 2**30  # bytes of all pictures
Tell = Callable[[str], None]


def diagnose(workdir: str | Path, data_dir: str = '', tell: Tell = lambda text: None) -> dict:
  """diagnosis.json of a run: made, or read if it is there and of the same frozen models.

  Works on a half-finished run as far as it went. data_dir: where its prepared data lie now; '' for where the run found
  them. tell: called with a line when it begins, and where it cannot be kept. Raises UserError if there are no models
  or no data.
  """
  return look_into(workdir, data_dir, tell)[0]


def look_into(workdir: str | Path, data_dir: str, tell: Tell) -> tuple[dict, dict[str, np.ndarray] | None]:
  """(what `diagnose` gives, the arrays of images.npz if they were made now). Raises UserError as that does."""
  folder = Path(workdir).absolute()
  file, stamp = folder / 'diagnosis' / 'diagnosis.json', _stamp(folder)
  if file.exists():
    found = read_json(file)
    if is_intact(found) and (found.get('schema_version'), found.get('models')) == (SCHEMA, stamp):
      return found, None
  newest = load_model(folder)
  tell(f'{folder.name}: looking at its frozen models')
  real = read_images(folder, newest.task, data_dir)
  models = [*(load_model(folder, task) for task in range(newest.task)), newest]
  subject = Subject(models, [_dreams_of(model) for model in models], real)
  result, pictures = examine(subject)
  result = sealed({'schema_version': SCHEMA, 'abd_jax': __version__, 'models': stamp} | result)
  try:
    _keep(file, result, pictures)
  except OSError as error:  # another's run, say: what was found is as good
    tell(f'{folder.name}: {file.parent} cannot be written ({error.strerror or error}), so all this is not kept')
  return result, pictures


def _keep(file: Path, result: dict, pictures: dict[str, np.ndarray]) -> None:
  """Writes diagnosis.json, and images.npz beside it. Raises OSError."""
  file.parent.mkdir(exist_ok=True)
  packed = io.BytesIO()
  np.savez_compressed(packed, allow_pickle=False, **pictures)
  write_atomically(file.with_name('images.npz'), packed.getvalue())
  write_atomically(file, json.dumps(result) + '\n')


def read_pictures(folder: Path) -> dict[str, np.ndarray]:
  """The arrays of diagnosis/images.npz of a run. Raises UserError if it is damaged."""
  file = folder / 'diagnosis' / 'images.npz'
  try:
    with zipfile.ZipFile(file) as archive:
      if (size := sum(member.file_size for member in archive.infolist())) > _LARGEST:
        raise ValueError(f'{size} bytes once unpacked')
    with np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged archive
    raise UserError(f'{file} is damaged: delete the folder {file.parent.name} there to have it made anew.') from error


def _stamp(folder: Path) -> dict[str, Any]:
  """The checksums of all frozen models, by folder: those of another run, or of more tasks, differ."""
  found = sorted((folder / 'teachers').glob('*.json'))
  return {file.stem: read_json(manifest_file(file.with_suffix(''))).get('files') for file in found}


def _dreams_of(model: LoadedModel) -> Dreams | None:
  if not model.can_dream:
    return None
  images, probabilities = model.dream_normalised(DREAMS)
  return Dreams(images, probabilities, model.denormalise(images))
