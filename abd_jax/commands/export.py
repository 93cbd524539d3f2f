"""abd-jax export WORKDIR FILE    writes the model of a finished run to one file that needs JAX alone

  --task=N   the model after the N-th task, from 1, also of a run that is not finished

The file is a zip archive of the function as jax.export writes it (weights inside, any number of images from 1 on, for
CPU, CUDA and TPU), of about.json, and of the package flatbuffers, which jax.export reads it with. about.json has the
class names, the shape and the highest value of images, in words how they are prepared, and the versions of jax and
abd_jax that wrote it. The archive is code that runs: take one only from whom you trust. To use it:

  import json, sys, zipfile
  sys.path.append('model.zip')
  from jax import export
  with zipfile.ZipFile('model.zip') as file:
    about = json.loads(file.read('about.json'))
    predict = export.deserialize(file.read('model.jax')).call
  assert images.max() <= about['max_value']    # of others all probabilities are NaN
  probabilities = predict(images)    # uint8[n, h, w, c], as about['image_shape'] -> float32[n, classes]
  print([about['class_names'][k] for k in probabilities.argmax(1)])
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from abd_jax import __version__
from abd_jax.commands.options import parse
from abd_jax.commands.predict import open_model, preparation
from abd_jax.errors import UserError


def run(words: list[str]) -> None:
  """Writes the file. Raises UserError for a mistake; then there is none, or the one that was there."""
  given = parse(words, ('task',))
  if len(given.rest) != 2:
    raise UserError('give a workdir and a file, as in abd-jax export runs/digits model.zip')
  workdir, file = given.rest[0], Path(given.rest[1])
  if not file.absolute().parent.is_dir() or file.is_dir():
    raise UserError(f'{file} cannot be written: there is no such folder, or it is one. Name a file in one that exists.')
  model = open_model(workdir, given)
  content = archive(model.export(), describe(model))
  try:
    from abd_jax.files import write_atomically

    write_atomically(file, content)
  except OSError as error:
    raise UserError(f'{file} cannot be written ({error.strerror}). Name another file.') from error
  print(f'{file}: {len(model.class_names)} classes, {len(content) / 1e6:.1f} MB')


def describe(model: Any) -> dict:
  """What about.json says of a LoadedModel: all that is needed to use it, and which versions wrote it."""
  import jax

  return {
    'class_names': model.class_names,
    'image_shape': model.image_shape,
    'max_value': model.white,
    'preparation': preparation(model.image_shape, model.config.data),
    'abd_jax': __version__,
    'jax': jax.__version__,
  }


def archive(function: bytes, about: dict) -> bytes:
  """The zip archive as bytes. function: of jax.export; about: what stands in about.json."""
  import flatbuffers

  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('model.jax', function)
    file.writestr('about.json', json.dumps(about, ensure_ascii=False, indent=1))
    for source in sorted(Path(flatbuffers.__file__).parent.glob('*.py')):
      file.write(source, f'flatbuffers/{source.name}')
  return buffer.getvalue()
