"""abd-jax export WORKDIR FILE    writes the model of a finished run to one file, for JAX alone or in ONNX

  --task=N        the model after task N, from 1; works for an unfinished run too
  --format=zip    for JAX alone. onnx: for onnxruntime and other ONNX software; the default of a FILE that ends in
                  .onnx. int8: ONNX with weights and activations in int8. The last two need: pip install 'abd_jax[onnx]'

An ONNX file takes raw images, uint8[n, h, w, c], as 'images' and gives 'probabilities', float32[n, classes]. Its
metadata has what about.json has (below). int8 needs images that show how large activations become, and uses 512 dreams:
no image of the data. If the model has no generator, one is trained for this by inversion; the run stays as it is.

A zip archive is for JAX. It holds the function as jax.export writes it (with its weights, for any number of images, on
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
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax import __version__
from abd_jax.commands import file_to_write, parse
from abd_jax.commands.predict import open_model

DREAMS = 512  # that measure the ranges of activations


def run(words: list[str]) -> None:
  """Writes the file. Raises UserError for a mistake; then a file that was there is unchanged."""
  given = parse(__doc__, words, {'task': (), 'format': WRITERS}, (2,))
  file = file_to_write(given.rest[1])
  form = given.options.get('format', 'onnx' if file.suffix == '.onnx' else 'zip')
  model = open_model(given.rest[0], given)
  from abd_jax.files import write_atomically

  content = WRITERS[form](model)
  write_atomically(file, content)
  print(f'{file}: {len(model.class_names)} classes, {len(content) / 1e6:.1f} MB')


def about(model: Any) -> dict[str, Any]:
  """The metadata of an exported file: classes, shape, range and preparation of images, versions."""
  import jax

  return {
    'class_names': model.class_names,
    'image_shape': model.image_shape,
    'max_value': model.white,
    'preparation': model.reading.steps(),
    'abd_jax': __version__,
    'jax': jax.__version__,
  }


def archive(model: Any) -> bytes:
  """The zip archive of a LoadedModel."""
  import flatbuffers

  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('model.jax', model.export())
    file.writestr('about.json', json.dumps(about(model), ensure_ascii=False, indent=1))
    for source in sorted(Path(flatbuffers.__file__).parent.glob('*.py')):
      file.write(source, f'flatbuffers/{source.name}')
  return buffer.getvalue()


def onnx_file(model: Any) -> bytes:
  """The ONNX file of a LoadedModel, in float32."""
  from abd_jax import onnx

  return onnx.to_onnx(model, about(model))


def int8_file(model: Any) -> bytes:
  """The same in int8. Says how long an inversion took, and how often both files agree on dreams."""
  from abd_jax import onnx

  content, start = onnx_file(model), time.monotonic()
  if not model.can_dream:
    print(f'inverting the model for {model.config.inversion.steps} steps: it has no generator', flush=True)
    model = model.invert()
    print(f'inverted in {time.monotonic() - start:.0f} s')
  dreams = np.rint(model.white * np.clip(model.dream(DREAMS)[0], 0, 1)).astype(np.uint8)
  quantised = onnx.to_int8(content, dreams)
  same = np.mean(onnx.predict(content, dreams).argmax(1) == onnx.predict(quantised, dreams).argmax(1))
  print(f'int8: the same class as float32 for {same:.1%} of {DREAMS} dreams')
  return quantised


WRITERS = {'zip': archive, 'onnx': onnx_file, 'int8': int8_file}
