"""The pictures of a workdir, as files and in TensorBoard's: what stands in a file beside its one picture.

What a picture shows is not looked into.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_HEADER = struct.Struct('>IIBBBBB')  # width, height, bits, colours, and three that are 0
_RGB = (8, 2, 0, 0, 0)  # what follows the sides in the header of every picture that a run writes
_END = b'IEND'
_REST = 200  # bytes of an event of TensorBoard's: its time, and the name and number of a point


def beside_the_picture(content: bytes) -> str:
  """What a PNG holds beside its picture: 'has 64 bytes after its picture', say; '' if nothing."""
  if not content.startswith(_SIGNATURE):
    return f'is {len(content)} bytes that are no picture'
  kinds, bodies, at = [], [], len(_SIGNATURE)
  while kinds[-1:] != [_END]:
    size, kind = int.from_bytes(content[at : at + 4], 'big'), content[at + 4 : at + 8]
    body, end = content[at + 8 : at + 8 + size], content[at + 8 + size : at + 12 + size]
    if len(end) < 4 or zlib.crc32(kind + body) != int.from_bytes(end, 'big'):
      return f'is damaged from byte {at} on'
    kinds.append(kind)
    bodies.append(body)
    at += 12 + size
  if at < len(content):
    return f'has {len(content) - at} bytes after its picture'
  if kinds != [b'IHDR', *[b'IDAT'] * (len(kinds) - 2), _END] or bodies[-1]:
    others = sum(len(body) for kind, body in zip(kinds[1:], bodies[1:], strict=True) if kind != b'IDAT')
    return f'has {others} bytes in parts beside its picture'
  return _beside_the_pixels(bodies[0], b''.join(bodies[1:]))


def _beside_the_pixels(header: bytes, packed: bytes) -> str:
  if len(header) != _HEADER.size or _HEADER.unpack(header)[2:] != _RGB:
    return 'is no picture of the kind that a run writes'
  width, height = _HEADER.unpack(header)[:2]
  need, found, left, unpacker = height * (1 + 3 * width), 0, packed, zlib.decompressobj()
  try:
    while left and found <= need:
      found += len(unpacker.decompress(left, 1 << 20))  # piece by piece: it may unpack to any size
      left = unpacker.unconsumed_tail
  except zlib.error:
    return 'is damaged in its pixels'
  if found == need and unpacker.eof and not unpacker.unused_data:
    return ''
  return f'has more or less than its {width}x{height} pixels in {len(packed)} bytes'


def in_tensorboard(file: Path, dreams: int, confusions: int) -> Iterator[str]:
  """A line for each picture in TensorBoard's `file` that is not one of so many dreams and confusion matrices."""
  from tensorboardX.proto import event_pb2

  messages: Any = event_pb2
  content, left = file.read_bytes(), {'dreams': dreams, 'confusion': confusions}
  try:
    while content:
      (length,) = struct.unpack('<Q', content[:8])  # TFRecord: length, checksum, event, checksum
      event = messages.Event.FromString(content[12 : 12 + length])
      values = event.summary.value
      if (kind := event.WhichOneof('what')) not in ('summary', 'file_version'):
        yield f'tensorboard/{file.name} holds {length} bytes in an event of kind {kind}'
      if (rest := length - sum(len(value.image.encoded_image_string) for value in values)) > _REST:
        yield f'tensorboard/{file.name} holds {rest} bytes in an event beside a picture'
      for value in (value for value in values if not value.HasField('simple_value')):
        left[value.tag] = left.get(value.tag, 0) - 1
        if value.HasField('image') and (what := beside_the_picture(value.image.encoded_image_string)):
          yield f'tensorboard/{file.name}: a picture named {value.tag[:80]!r} {what}'
      content = content[16 + length :]
  except Exception:  # protobuf's own; the last record of a run under way may be half written
    yield f'tensorboard/{file.name} cannot be read to its end: {len(content)} bytes could be anything'
  for tag, count in left.items():
    if count < 0:
      yield f'tensorboard/{file.name} holds {-count} pictures too many named {tag[:80]!r}'
