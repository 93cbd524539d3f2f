"""Pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def save_grid(images: np.ndarray, labels: Sequence[str], file: Path) -> None:
  """A PNG of images f[n, h, w, c] in [0, 1], eight to a row, small ones enlarged, each under its label; c 1 or 3."""
  from PIL import Image, ImageDraw  # only pictures need it

  n, height, width, channels = images.shape
  scale = max(1, 64 // height)
  columns, caption, gap = min(8, n), 12, 2
  cell_w, cell_h = width * scale + gap, height * scale + caption + gap
  sheet = Image.new('RGB', (columns * cell_w, -(-n // columns) * cell_h), 'white')
  draw = ImageDraw.Draw(sheet)
  pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
  for k in range(n):
    left, top = k % columns * cell_w, k // columns * cell_h
    tile = pixels[k, :, :, 0] if channels == 1 else pixels[k]
    tile = Image.fromarray(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    sheet.paste(tile.convert('RGB'), (left, top + caption))
    draw.text((left + 1, top), labels[k][: width * scale // 6], fill='black')
  sheet.save(file)


def matrix_picture(counts: np.ndarray, side: int = 480) -> np.ndarray:
  """u8[h, w, 3]: counts [r, c] as shades of blue, each row as shares of its sum; about `side` pixels high."""
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  white, full = np.array([255.0, 255, 255]), np.array([0.0, 114, 178])
  shades = np.round(white + shares[:, :, None] * (full - white)).astype(np.uint8)
  return shades.repeat(max(1, side // len(counts)), 0).repeat(max(1, side // len(counts)), 1)


def is_picture(file: Path) -> bool:
  """Whether a PNG is there, and whole: its parts carry checksums."""
  from PIL import Image

  try:
    with Image.open(file) as picture:
      picture.verify()
  except Exception:  # Pillow's readers raise whatever they like
    return False
  return True


def read_picture(file: Path) -> np.ndarray:
  """u8[h, w, 3] of a PNG."""
  from PIL import Image

  with Image.open(file) as picture:
    return np.asarray(picture.convert('RGB'))
