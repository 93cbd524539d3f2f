"""A frozen model as an ONNX file, in float32 or quantised to int8. Needs the packages of abd_jax[onnx].

Input 'images': u8[n, h, w, c], raw; output 'probabilities': f32[n, classes]; any n >= 1.
"""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abd_jax.errors import UserError
from abd_jax.run.load import BATCH, LoadedModel

OPSET = 21  # onnxruntime's quantisation knows no newer one
TOLERANCE = 1e-5  # of probabilities
QUANTISED = ('Conv', 'Gemm', 'MatMul', 'Add')  # convolutions, head and shortcuts


def to_onnx(model: LoadedModel, about: dict[str, Any]) -> bytes:
  """The file in float32, batch norms folded into convolutions, with `about` as its metadata.

  Raises UserError if the packages are not installed, or if onnxruntime gives other probabilities than JAX.
  """
  with _quietly(), jax.numpy_rank_promotion('allow'):  # the converter's own functions need it
    try:
      import onnxruntime  # noqa: F401
      from jax2onnx import to_onnx as convert
    except ImportError as error:
      raise UserError(f"ONNX files need {error.name}. Install it: pip install 'abd_jax[onnx]'") from error
    function = model.function(folded=True)
    images = jax.ShapeDtypeStruct(('n', *model.image_shape), np.uint8)
    proto = convert(function, [images], opset=OPSET, input_names=['images'], output_names=['probabilities'])
  del proto.graph.value_info[:]  # some are wrong, and onnxruntime finds them itself
  for name, value in about.items():
    proto.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
  content = proto.SerializeToString()
  images = np.random.default_rng(0).integers(0, int(model.white), (16, *model.image_shape), np.uint8, endpoint=True)
  error = np.max(np.abs(predict(content, images) - np.asarray(jax.jit(function)(images))))
  if not error <= TOLERANCE:  # NaN is no agreement
    raise UserError(f'the ONNX file gives probabilities that differ by {error:.1g} from those of JAX. Use a .zip file.')
  return content


def predict(content: bytes, images: np.ndarray) -> np.ndarray:
  """Probabilities f32[n, classes] of raw images u8[n, h, w, c], by onnxruntime on the CPU."""
  import onnxruntime

  session: Any = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  batches = (images[k : k + BATCH] for k in range(0, len(images), BATCH))
  return np.concatenate([session.run(None, {'images': batch})[0] for batch in batches])


def to_int8(content: bytes, images: np.ndarray) -> bytes:
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
    quantization.quantize_static(str(given), str(made), Reader(), op_types_to_quantize=[*QUANTISED], per_channel=True)
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
