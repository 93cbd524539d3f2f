"""abd-jax export WORKDIR FILE    writes the model of a finished run to one file that needs only JAX

  --task=N   the model after task N, from 1; works for an unfinished run too

The file is a zip archive. It holds the function as jax.export writes it (with its weights, for any number of images, on
CPU, CUDA and TPU), about.json, and the package flatbuffers, which jax.export needs. about.json has the class names, the
shape and the highest value of images, how to prepare them, and the versions of jax and abd_jax. The archive contains
code: use only archives that you trust. To use one:

  import json, sys, zipfile
  sys.path.append('model.zip')
  from jax import export
  with zipfile.ZipFile('model.zip') as file:
    about = json.loads(file.read('about.json'))
    predict = export.deserialize(file.read('model.jax')).call
  assert images.max() <= about['max_value']    # else all probabilities are NaN
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
from abd_jax.commands.predict import open_model
from abd_jax.errors import UserError


def run(words: list[str]) -> None:
  """Writes the file. Raises UserError for a mistake; then a file that was there is unchanged."""
  given = parse(words, ('task',))
  if len(given.rest) != 2:
    raise UserError('expected a workdir and a file, as in abd-jax export runs/digits model.zip.')
  workdir, file = given.rest[0], Path(given.rest[1])
  if not file.absolute().parent.is_dir() or file.is_dir():
    raise UserError(f'{file} cannot be written: expected a file in a folder that exists.')
  model = open_model(workdir, given)
  from abd_jax.files import write_atomically

  content = archive(model)
  write_atomically(file, content)
  print(f'{file}: {len(model.class_names)} classes, {len(content) / 1e6:.1f} MB')


def archive(model: Any) -> bytes:
  """The zip archive of a LoadedModel."""
  import flatbuffers
  import jax

  about = {
    'class_names': model.class_names,
    'image_shape': model.image_shape,
    'max_value': model.white,
    'preparation': model.reading.steps(),
    'abd_jax': __version__,
    'jax': jax.__version__,
  }
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('model.jax', model.export())
    file.writestr('about.json', json.dumps(about, ensure_ascii=False, indent=1))
    for source in sorted(Path(flatbuffers.__file__).parent.glob('*.py')):
      file.write(source, f'flatbuffers/{source.name}')
  return buffer.getvalue()
