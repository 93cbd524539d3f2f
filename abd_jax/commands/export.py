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

import contextlib
import io
import json
import logging
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax import __version__
from abd_jax.commands import file_to_write, parse
from abd_jax.commands.predict import open_model
from abd_jax.errors import UserError

DREAMS = 512  # that measure the ranges of activations
BATCH = 256  # images
OPSET = 21  # onnxruntime's quantisation knows no newer one
TOLERANCE = 1e-5  # of probabilities
QUANTISED = ('Conv', 'Gemm', 'MatMul', 'Add')  # convolutions, head and shortcuts


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
  """The ONNX file of a LoadedModel in float32, batch norms folded into convolutions, with `about` as its metadata.

  Input 'images': u8[n, h, w, c], raw; output 'probabilities': f32[n, classes]; any n >= 1. Raises UserError if the
  packages of abd_jax[onnx] are not installed, or if onnxruntime gives other probabilities than JAX.
  """
  import jax

  with _quietly(), jax.numpy_rank_promotion('allow'):  # the converter's own functions need it
    try:
      import onnxruntime  # noqa: F401
      from jax2onnx import to_onnx
    except ImportError as error:
      raise UserError(f"ONNX files need {error.name}. Install it: pip install 'abd_jax[onnx]'") from error
    function = model.function(folded=True)
    images = jax.ShapeDtypeStruct(('n', *model.image_shape), np.uint8)
    proto = to_onnx(function, [images], opset=OPSET, input_names=['images'], output_names=['probabilities'])
  del proto.graph.value_info[:]  # some are wrong, and onnxruntime finds them itself
  for name, value in about(model).items():
    proto.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
  content = proto.SerializeToString()
  images = np.random.default_rng(0).integers(0, int(model.white), (16, *model.image_shape), np.uint8, endpoint=True)
  error = np.max(np.abs(run_onnx(content, images) - np.asarray(jax.jit(function)(images))))
  if not error <= TOLERANCE:  # NaN is no agreement
    raise UserError(f'the ONNX file gives probabilities that differ by {error:.1g} from those of JAX. Use a .zip file.')
  return content


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
  """Probabilities f32[n, classes] of raw images u8[n, h, w, c], by onnxruntime on the CPU."""
  import onnxruntime

  session: Any = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  batches = (images[k : k + BATCH] for k in range(0, len(images), BATCH))
  return np.concatenate([session.run(None, {'images': batch})[0] for batch in batches])


def int8_file(model: Any) -> bytes:
  """The same in int8. Says how long an inversion took, and how often both files agree on dreams."""
  content, start = onnx_file(model), time.monotonic()
  if not model.can_dream:
    print(f'inverting the model for {model.config.inversion.steps} steps: it has no generator', flush=True)
    model = model.invert()
    print(f'inverted in {time.monotonic() - start:.0f} s')
  dreams = np.rint(model.white * np.clip(model.dream(DREAMS)[0], 0, 1)).astype(np.uint8)
  quantised = quantise(content, dreams)
  same = np.mean(run_onnx(content, dreams).argmax(1) == run_onnx(quantised, dreams).argmax(1))
  print(f'int8: the same class as float32 for {same:.1%} of {DREAMS} dreams')
  return quantised


def quantise(content: bytes, images: np.ndarray) -> bytes:
  """A float32 file with weights and activations in int8.

  images: u8[n, h, w, c], raw, such as dreams. They measure the range of each activation.
  """
  from onnxruntime import quantization

  batches = iter(np.array_split(images, max(len(images) // 64, 1)))

  class Reader(quantization.CalibrationDataReader):
    def get_next(self) -> Any:
      return next(({'images': batch} for batch in batches), None)

  with tempfile.TemporaryDirectory() as folder, _quietly():
    given, made = Path(folder, 'given.onnx'), Path(folder, 'made.onnx')
    given.write_bytes(content)
    # Weights of 7 bits: with 8, onnxruntime's sums overflow on x86 without VNNI.
    quantization.quantize_static(
      str(given), str(made), Reader(), op_types_to_quantize=[*QUANTISED], per_channel=True, reduce_range=True
    )
    return made.read_bytes()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Hides what the converters print, log and warn about their own work."""
  disabled, hidden = logging.root.manager.disable, io.StringIO()
  logging.disable(logging.CRITICAL)
  try:
    with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logging.disable(disabled)


WRITERS = {'zip': archive, 'onnx': onnx_file, 'int8': int8_file}
