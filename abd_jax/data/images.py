"""One image: from the bytes of a file or a record to uint8[h, w, c], and what is wrong with it where it cannot be."""

import functools
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abd_jax.errors import UserError, reason

TRIES = 10  # at a random crop that fits, before the centre is taken
DRAWS = 2 * TRIES + 2  # numbers in [0, 1) that one random crop takes
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the image, and width to height
_SHORT_SIDE = 256 / 224  # of a test image before its centre is cut out, in sides of that centre
_ORIENTATION = 0x0112  # EXIF's tag
_MODES = {1: 'L', 3: 'RGB'}
_WHITE = 255  # of 8 bits
_DEEP = {'I': '32-bit', 'F': 'float', 'I;16': '16-bit', 'I;16B': '16-bit', 'I;16L': '16-bit', 'I;16N': '16-bit'}
# Pillow keeps the higher of a value's two bytes. Under the name of the other byte order it keeps the lower.
_OTHER_END = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}
_LOWER = {f'{mode};16{end}': f'{mode};16{other}' for mode in ('RGB', 'RGBA') for end, other in _OTHER_END.items()}
_LOWER |= {'LA;16B': 'RGBA'}  # read so, its second and fourth channels are the lower bytes of grey and alpha
_BITS, _PLANES = 258, 284  # TIFF's tags: of a channel; 2 where each channel is stored by itself
_MOST, _LARGE = 2**29, 89_478_485  # pixels: more are refused; more are read at a part of their size


@functools.cache
def threads() -> ThreadPoolExecutor:
  """The threads that decode images, one for each core: Pillow lets go of the interpreter while it works."""
  return ThreadPoolExecutor(len(os.sched_getaffinity(0)), 'decode')


class BadImage(Exception):
  """What is wrong with an image, in a few words."""


def _open(file: Any) -> Any:
  """A Pillow image of a file open for reading, its header read."""
  from PIL import Image

  warnings.simplefilter('error', Image.DecompressionBombWarning)
  Image.MAX_IMAGE_PIXELS = _MOST
  try:
    return Image.open(file)
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise BadImage(f'has more pixels than {_MOST // 10**6} million') from error
  except Exception as error:
    raise BadImage('is no image that Pillow can read') from error


@contextmanager
def _refused(what: str) -> Iterator[None]:
  """Turns any error into a BadImage: Pillow's plugins and its reader of EXIF raise many kinds."""
  try:
    yield
  except Exception as error:
    raise BadImage(f'{what} ({reason(error, 80)})') from error


def _load(image: Any, encoded: bytes = b'') -> Any:
  """The image with its pixels decoded. encoded: its file, to check that a PNG has its end: Pillow does not."""
  if encoded and image.format == 'PNG' and b'IEND\xaeB`\x82' not in encoded[-4096:]:
    raise BadImage('is cut short')
  with _refused('cannot be decoded'):
    image.load()
  return image


def content(file: Path) -> bytes:
  """The bytes of a file. Raises BadImage."""
  try:
    return file.read_bytes()
  except OSError as error:
    raise BadImage(f'cannot be opened: {error.strerror}') from error


def decode(encoded: bytes, shape: Sequence[int | None]) -> Any:
  """A Pillow image, decoded, as `shape` (h, w, c; None: any) says. Raises BadImage."""
  image, (height, width, channels) = _open(io.BytesIO(encoded)), shape
  if (height or image.height, width or image.width) != (image.height, image.width):
    raise BadImage(f'is {image.height}x{image.width}, not {height}x{width} as its features say')
  if image.mode != _MODES[channels or 0]:
    raise BadImage(f"has Pillow's mode {image.mode}, not {_MODES[channels or 0]} as its features say")
  return _load(image, encoded)


def pixels(image: Any) -> np.ndarray:
  """uint8[h, w, c] of a grey or RGB Pillow image."""
  array = np.asarray(image)
  return array if array.ndim == 3 else array[..., None]


def from_array(array: np.ndarray) -> Any:
  """A grey or RGB Pillow image of uint8[h, w, c]."""
  from PIL import Image

  return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def centre_box(width: int, height: int) -> Box:
  """The middle 224 pixels of an image whose short side is made 256."""
  side = min(width, height) / _SHORT_SIDE
  return _centred(width, height, side, side)


def square_box(width: int, height: int) -> Box:
  """The largest centred square, of whole pixels."""
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  return left, top, left + side, top + side


def random_box(width: int, height: int, draws: np.ndarray) -> Box:
  """A random-resized crop (Szegedy et al., 2015) of whole pixels.

  It has 8 to 100 % of the area, 3:4 to 4:3; it is the largest centred crop of such an aspect if ten tries find none.
  draws: DRAWS numbers in [0, 1), the only randomness.
  """
  across, down = draws[-2:]
  for share, aspect in zip(draws[0:-2:2], draws[1:-2:2], strict=True):
    area = width * height * (_AREA[0] + share * (_AREA[1] - _AREA[0]))
    ratio = np.exp(np.log(_ASPECT[0]) + aspect * (np.log(_ASPECT[1]) - np.log(_ASPECT[0])))
    w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
      return left, top, left + w, top + h
  return _centred(width, height, min(width, round(height * _ASPECT[1])), min(height, round(width / _ASPECT[0])))


def _centred(width: int, height: int, w: float, h: float) -> Box:
  left, top = (width - w) * 0.5, (height - h) * 0.5
  return left, top, left + w, top + h


def resize(image: Any, size: tuple[int, int], box: Sequence[float]) -> Any:
  """The part `box` of a Pillow image at `size` (height, width): bilinear, over all pixels it covers."""
  from PIL import Image

  height, width = size
  if (image.width, image.height) == (width, height) and tuple(box) == (0, 0, width, height):
    return image
  return image.resize((width, height), Image.Resampling.BILINEAR, box=tuple(box))


def stored(encoded: bytes, shape: Sequence[int | None], value_range: Sequence[float] = ()) -> tuple[Any, list[str]]:
  """`plain`, then the largest centred square resized to `shape` (h, w, c; None for h and w: the whole image)."""
  image, done = plain(encoded, shape[2] or 0, value_range)
  size = (shape[0] or image.height, shape[1] or image.width)
  if size != (image.height, image.width):
    image = resize(image, size, square_box(image.width, image.height))
    done.append('resized')
  return image, done


class View(NamedTuple):
  """How a stored image becomes the network's."""

  stored: tuple[int | None, int | None, int]  # (h, w, c) on disk; h and w are None where sizes vary
  shape: tuple[int, int, int]  # (h, w, c) of the network's
  crop: str  # 'padded': taken as it is; 'resized': a part of it, random in training, the centre in testing

  def of(self, stored: bytes | np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """uint8[h, w, c] of an encoded image or a tensor. draws: of a random crop. Raises BadImage."""
    return self.cut(from_array(stored) if isinstance(stored, np.ndarray) else decode(stored, self.stored), draws)

  def cut(self, image: Any, draws: np.ndarray | None = None) -> np.ndarray:
    """The same of a Pillow image."""
    if self.crop == 'resized':
      size = image.width, image.height
      image = resize(image, self.shape[:2], centre_box(*size) if draws is None else random_box(*size, draws))
    return pixels(image)


class Reading(NamedTuple):
  """How a file becomes an image of a model: as the run's own test images did."""

  view: View
  white: float = _WHITE  # the highest value of the model's images
  of_files: bool = False  # whether the run's own images are files: values then stay as they are, else white is scaled
  value_range: tuple[float, ...] = ()  # as in `plain`

  @property
  def scales(self) -> bool:
    return self.white < _WHITE and not self.of_files

  def read(self, file: Path, told: list[str] | None = None) -> np.ndarray:
    """uint8[h, w, c] of an image file; adds to `told` what was done to it, in words.

    Raises UserError if the file cannot be read, or its size or values are not the model's.
    """
    try:
      image, done = stored(content(file), self.view.stored, self.value_range)
    except BadImage as error:
      raise UserError(f'image {file} cannot be read (it {error}). Repair it, or leave it out.') from error
    if self.scales:
      image = image.point([round(value * self.white / _WHITE) for value in range(256)] * len(image.getbands()))
    found, expected = self.view.cut(image), self.view.shape
    if found.shape != expected:
      size, other = ('x'.join(map(str, shape[:2])) for shape in (expected, found.shape))
      raise UserError(f'image {file}: expected {size} pixels, got {other}. Resize it.')
    if found.max() > self.white:
      raise UserError(
        f'image {file}: expected values from 0 to {self.white:g}, as in training, got {found.max()}. Scale them.'
      )
    if told is not None:
      told += done
    return found

  def steps(self) -> list[str]:
    """What `read` does in words and in order, for users who prepare images elsewhere."""
    square, (height, width, channels) = self.view.stored[:2], self.view.shape
    steps = ['turned upright as EXIF says', f'{"grey" if channels == 1 else "RGB"}, 8 bits, transparent pixels white']
    if self.value_range:
      low, high = self.value_range
      steps.append(f'values of more than 8 bits: {low:g} to {high:g} become 0 to {_WHITE}, others the nearest of these')
    if square[0]:
      side = f'{square[0]}x{square[1]}'
      steps.append(f'the largest centred square resized to {side}, bilinearly over all pixels it covers')
    if self.scales:
      steps.append(f'values multiplied by {self.white:g}/{_WHITE} and rounded')
    if self.view.crop == 'resized':
      steps.append(f'the centred square of 224/256 of the short side resized to {height}x{width}, likewise')
    return steps


def plain(encoded: bytes, channels: int = 0, value_range: Sequence[float] = ()) -> tuple[Any, list[str]]:
  """Any photograph as an upright 8-bit grey or RGB Pillow image, and what had to be done: words like 'RGBA'.

  Transparent pixels become white. Images with more pixels than are safe to decode at once are reduced.

  Args:
    channels: 1 or 3; 0: as the photograph has.
    value_range: lowest and highest raw value of images with more than 8 bits, which become 0 and 255; (): 0 and 65535
      of 16 bits, and others are refused.

  Raises:
    BadImage: it cannot be read.
  """
  from PIL import ImageOps

  image, done = _open(io.BytesIO(encoded)), []
  factor, mode = _reduction(image), _deep_mode(image)
  if factor > 1:
    image.draft(None, (image.width // factor, image.height // factor))  # JPEG is decoded at that size
    done.append(f'reduced from over {_LARGE // 10**6} megapixels')
  with _refused('has EXIF data that cannot be read'):
    orientation = image.getexif().get(_ORIENTATION, 1)
    done += ['first page of several'] if image.format == 'TIFF' and image.n_frames > 1 else []
  image = _eight_bits(image, mode, encoded, value_range, done) if mode else _load(image, encoded)
  if orientation != 1:
    image.getexif()[_ORIENTATION] = orientation
    image = ImageOps.exif_transpose(image)
    done.append('rotated')
  if image.mode not in ('L', 'RGB'):
    done.append({'P': 'palette', '1': 'black and white'}.get(image.mode, image.mode))
    image = _without_alpha(image)
  wanted = _MODES.get(channels, image.mode)
  if image.mode != wanted:
    done.append('grey' if image.mode == 'L' else 'colour')
    image = image.convert(wanted)
  return image.reduce(left) if (left := _reduction(image)) > 1 else image, done


def _reduction(image: Any) -> int:
  """By which power of 2 the sides of an image are divided before it is used."""
  factor = 1
  while image.width * image.height > _LARGE * factor**2:
    factor *= 2
  return factor


def _deep_mode(image: Any) -> str:
  """Pillow's mode of an image with more than 8 bits a channel, or of its file, as 'RGB;16B'; '' of any other.

  The image must not be decoded yet. Raises BadImage for 16-bit colours that Pillow would read wrongly.
  """
  if image.mode in _DEEP:
    return image.mode
  if image.format == 'TIFF' and image.tag_v2.get(_PLANES) == 2 and max(image.tag_v2.get(_BITS, (8,))) > 8:
    raise BadImage('has 16-bit colours stored plane by plane, which cannot be read')
  raw = {tile.args if isinstance(tile.args, str) else str(tile.args[0]) for tile in image.tile if tile.args}
  return raw.pop() if len(raw) == 1 and raw <= _LOWER.keys() else ''


def _raw_values(image: Any, mode: str, encoded: bytes) -> np.ndarray:
  """float64[h, w, c] of an image of that `_deep_mode`. Raises BadImage.

  Of 16-bit colours Pillow reads the upper bytes only; a second reading takes the lower ones for the upper.
  """
  values = pixels(_load(image, encoded)).astype(np.float64)
  if mode not in _DEEP:
    lower = _open(io.BytesIO(encoded))
    swapped = lambda args: _LOWER[mode] if isinstance(args, str) else (_LOWER[mode], *args[1:])
    lower.tile = [tile._replace(args=swapped(tile.args)) for tile in lower.tile]
    values = 256 * values + pixels(_load(lower))[..., [1, 1, 1, 3] if mode == 'LA;16B' else slice(None)]
  if not np.isfinite(values).all():
    raise BadImage('has values that are not finite')
  return values


def _eight_bits(image: Any, mode: str, encoded: bytes, value_range: Sequence[float], done: list[str]) -> Any:
  """An image of that `_deep_mode` as grey, RGB or RGBA of 8 bits, as in `plain`. Adds what was done to `done`."""
  if not value_range and mode not in _DEEP:
    return _load(image, encoded)
  what = _DEEP.get(mode, '16-bit')
  if not value_range and (mode == 'F' or (mode, image.format) == ('I', 'TIFF')):
    raise BadImage(f'has {what} values, whose range is not known')
  values, (low, high) = _raw_values(image, mode, encoded), value_range or (0, 65535)
  colours, alpha = values[..., :3], values[..., 3:] / 256
  done += [what, 'saturated'] if colours.min() < low or colours.max() > high else [what]
  levels = np.clip((colours - low) * (_WHITE / (high - low)), 0, _WHITE) + 0.5
  return from_array(np.concatenate([levels, alpha], -1).astype(np.uint8))


def _without_alpha(image: Any) -> Any:
  """An image of any mode as grey or RGB, over white where it has transparency."""
  from PIL import Image

  if image.has_transparency_data:
    image = image.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
  return image.convert('L' if image.mode in ('1', 'LA', 'La') else 'RGB')


def header(file: Path) -> tuple[tuple[int, int], bool, tuple[float, float] | None]:
  """What is known of an image file without using its pixels, unless they have more than 8 bits. Raises BadImage.

  Returns ((height, width) after the rotation that EXIF asks for, whether it has no colour, and the lowest and highest
  raw value if it has more than 8 bits).
  """
  with _open(file) as image:
    mode, grey, size = _deep_mode(image), image.mode in ('1', 'L', 'LA', 'La', *_DEEP), (image.height, image.width)
    if image.height != image.width:  # to look for EXIF Pillow decodes a PNG
      with _refused('has EXIF data that cannot be read'):
        size = size[::-1] if image.getexif().get(_ORIENTATION, 1) >= 5 else size
    if not mode:
      return size, grey, None
    colours = _raw_values(image, mode, content(file))[..., :3]
    return size, grey, (float(colours.min()), float(colours.max()))


def png(image: Any) -> bytes:
  """A Pillow image as the bytes of a PNG file."""
  buffer = io.BytesIO()
  image.save(buffer, format='png')
  return buffer.getvalue()
