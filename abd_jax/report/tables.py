"""Numbers and tables as text, Markdown for terminals, and the pieces of HTML that a report is made of.

Of HTML, arguments named `words` are text, and are escaped; `part` and `parts` are HTML already.
"""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from abd_jax.report.runs import RunRecord

# Key of results.json -> its column, in percent. Short, for terminals of 80 columns; BWT is backward transfer.
METRICS = {
  'final_accuracy': 'final %', 'average_accuracy': 'average %', 'forgetting': 'forgetting', 'backward_transfer': 'BWT',
}  # fmt: skip
SIDE = 48
SUMMARY = ('method', *METRICS.values(), 'seconds')


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table, columns aligned for reading as plain text."""
  widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
  line = lambda row: '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + ' |'
  rule = '|' + '|'.join('-' * (w + 2) for w in widths) + '|'
  return '\n'.join([line(header), rule, *map(line, rows)])


def percent(fraction: float | None) -> str:
  return '-' if fraction is None else f'{100 * fraction:.1f}'


def mean_std(values: Sequence[float | None]) -> str:
  """Fractions in percent: '81.2', or '81.2 ± 1.9' (population standard deviation) for several; '-' for none."""
  known = [value for value in values if value is not None]
  spread = f' ± {100 * float(np.std(known)):.1f}' if len(known) > 1 else ''
  return percent(float(np.mean(known)) if known else None) + spread


def size(count: float) -> str:
  """Bytes as in '1.2 MB'."""
  for unit, least in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if count >= least:
      return f'{count / least:.1f} {unit}'
  return f'{count:.0f} B'


def duration(seconds: float) -> str:
  """'50 s', '20 min', or '11.5 h'."""
  if seconds < 36000:
    return f'{seconds:.0f} s' if seconds < 600 else f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def summary_line(results: dict) -> list[str]:
  """One run's row in a table headed by SUMMARY."""
  return [results['method'], *(percent(results[key]) for key in METRICS), f'{sum(results["seconds"].values()):.0f}']


class Part(str):
  """HTML, which a cell of a table shows as it is."""


def figure(part: str, words: str, wide: bool = False) -> str:
  """A chart and its caption; '' without a chart."""
  return part and f'<figure{" class=wide" if wide else ""}>{part}<figcaption>{escape(words)}</figcaption></figure>'


def side_by_side(parts: Iterable[str]) -> str:
  """Figures, as many to a row as fit; '' if there are none."""
  joined = ''.join(parts)
  return joined and f'<div class="charts">{joined}</div>'


def details(words: str, part: str, opened: bool = False) -> str:
  """A part that folds; '' for an empty one."""
  return part and f'<details{" open" if opened else ""}><summary>{escape(words)}</summary>{part}</details>'


def folded(runs: Sequence[tuple[str, RunRecord]], part: Callable[[RunRecord], str], opened: int) -> str:
  """A part for each (name of its group, run). If there are several, each folds, and the first `opened` are open."""
  if len(runs) == 1:
    return part(runs[0][1])
  words = lambda name, run: f'{name}, trial {run.config["trial"]}'
  return '\n'.join(details(words(*one), part(one[1]), opened=k < opened) for k, one in enumerate(runs))


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
  """An HTML table; '' without rows. numbers: whether all columns but the first are numbers, set to the right."""
  kind = lambda k: ' class="n"' if k and numbers else ''
  shown = lambda cell: cell if isinstance(cell, Part) else escape(cell)
  head = ''.join(f'<th{kind(k)}>{escape(cell)}</th>' for k, cell in enumerate(header))
  body = ''.join(
    '<tr>' + ''.join(f'<td{kind(k)}>{shown(cell)}</td>' for k, cell in enumerate(row)) + '</tr>' for row in rows
  )
  return body and f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(images: np.ndarray, words: str) -> Part:
  """Images u8[n, h, w, c], c 1 or 3, in a row as one embedded picture, at most SIDE pixels high. words: about it."""
  from PIL import Image

  n, height, width, _ = images.shape
  opaque = np.pad(np.broadcast_to(images, (n, height, width, 3)), [(0, 0)] * 3 + [(0, 1)], constant_values=255)
  strip = np.pad(opaque, [(0, 0), (0, 0), (0, 1), (0, 0)])  # a transparent column after each image
  shown = Image.fromarray(strip.swapaxes(0, 1).reshape(height, -1, 4)[:, :-1])
  if height > SIDE:
    shown = shown.resize((shown.width * SIDE // height, SIDE))
  file, kind = io.BytesIO(), 'webp' if height > 16 else 'png'  # PNG keeps each of few pixels
  shown.save(file, kind, quality=85)
  data = base64.b64encode(file.getvalue()).decode()
  return Part(f'<img src="data:image/{kind};base64,{data}" alt="{escape(words)}" title="{escape(words)}">')
