"""Pieces of a page. What callers pass as `words` is text and is escaped; what they pass as `parts` is HTML already."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from abd_jax.report.tables import percent


def section(title: str, *parts: str) -> str:
  """A headed part of the page; nothing, if all of its parts are empty."""
  return f'<h2>{escape(title)}</h2>\n' + '\n'.join(filter(None, parts)) if any(parts) else ''


def paragraph(words: str) -> str:
  return f'<p>{escape(words)}</p>'


def heading(words: str) -> str:
  return f'<h3>{escape(words)}</h3>'


def figure(part: str, words: str, wide: bool = False) -> str:
  """A chart and its caption; nothing, without a chart."""
  return part and f'<figure{" class=wide" if wide else ""}>{part}<figcaption>{escape(words)}</figcaption></figure>'


def charts(*parts: str) -> str:
  """Figures side by side where there is room."""
  return f'<div class="charts">{"".join(filter(None, parts))}</div>' if any(parts) else ''


def tile(value: str, words: str) -> str:
  return f'<div class="tile"><b>{escape(value)}</b><span>{escape(words)}</span></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
  """Text cells; all but the first column are numbers, set to the right, unless told otherwise."""
  kind = lambda k: ' class="n"' if k and numbers else ''
  head = ''.join(f'<th{kind(k)}>{escape(cell)}</th>' for k, cell in enumerate(header))
  body = ''.join(
    '<tr>' + ''.join(f'<td{kind(k)}>{escape(cell)}</td>' for k, cell in enumerate(row)) + '</tr>' for row in rows
  )
  return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(words: str, *parts: str, opened: bool = False) -> str:
  return f'<details{" open" if opened else ""}><summary>{escape(words)}</summary>{"".join(parts)}</details>'


def picture(images: np.ndarray, words: str, side: int = 48) -> str:
  """Images u8[n, h, w, c] in a row as one embedded picture, shrunk if large; c 1 or 3. words: for who cannot see it."""
  from PIL import Image

  n, height, width, _ = images.shape
  strip = np.zeros((height, n * (width + 1) - 1, 4), np.uint8)  # transparent between the images
  for k, image in enumerate(images):
    strip[:, k * (width + 1) : k * (width + 1) + width] = np.dstack(
      [np.broadcast_to(image, (height, width, 3)), np.full((height, width), 255, np.uint8)]
    )
  shown = Image.fromarray(strip)
  if height > side:
    shown = shown.resize((strip.shape[1] * side // height, side))
  file = io.BytesIO()
  if height > 16:
    shown.save(file, 'WEBP', quality=85)
  else:
    shown.save(file, 'PNG')  # of so few pixels each counts
  data, kind = base64.b64encode(file.getvalue()).decode(), 'webp' if height > 16 else 'png'
  return f'<img src="data:image/{kind};base64,{data}" alt="{escape(words)}" title="{escape(words)}">'


def mean_std(values: Sequence[float | None]) -> str:
  """Fractions in percent: '81.2', of several '81.2 ± 1.9' (population standard deviation); '-' for none."""
  there = [value for value in values if value is not None]
  spread = f' ± {100 * float(np.std(there)):.1f}' if len(there) > 1 else ''
  return percent(float(np.mean(there)) if there else None) + spread


def size(count: float) -> str:
  """Bytes for people: '1.2 MB'."""
  for unit, least in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if count >= least:
      return f'{count / least:.1f} {unit}'
  return f'{count:.0f} B'
