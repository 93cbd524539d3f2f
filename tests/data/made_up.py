"""Made-up photographs."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def write(path, shape=(32, 32, 3), value=None, form=None):
  """Writes an image of noise, or of one value, and returns its pixels."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
  Image.fromarray(pixels).save(path, form)
  return pixels


def write_classes(folder, count, shape=(32, 32, 3)):
  """Images 0.png, 1.png, ... of value 0, 1, ... in two classes a and b, by turns."""
  for k in range(count):
    write(folder / 'ab'[k % 2] / f'{k}.png', shape, k)
