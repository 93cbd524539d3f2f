"""Numbers and tables as text, Markdown for terminals, and the pieces of HTML that a report is made of.

Of HTML, arguments named `words` are text, and are escaped; `part` and `parts` are HTML already.
"""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from abd_jax.report.runs import RunRecord

# Key of results.json -> its column, in percent. Short, for terminals of 80 columns; BWT is backward transfer.
METRICS = {
  'final_accuracy': 'final %', 'average_accuracy': 'average %', 'forgetting': 'forgetting', 'backward_transfer': 'BWT',
}  # fmt: skip
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


def section(title: str, *parts: str) -> str:
  """A part of the page with a heading; '' if all of its parts are empty."""
  return f'<h2>{escape(title)}</h2>\n' + '\n'.join(filter(None, parts)) if any(parts) else ''


def paragraph(words: str) -> str:
  return f'<p>{escape(words)}</p>'


def heading(words: str) -> str:
  return f'<h3>{escape(words)}</h3>'


def figure(part: str, words: str, wide: bool = False) -> str:
  """A chart and its caption; '' without a chart."""
  return part and f'<figure{" class=wide" if wide else ""}>{part}<figcaption>{escape(words)}</figcaption></figure>'


def side_by_side(*parts: str) -> str:
  """Figures, as many to a row as fit."""
  return f'<div class="charts">{"".join(filter(None, parts))}</div>' if any(parts) else ''


def details(words: str, *parts: str, opened: bool = False) -> str:
  return f'<details{" open" if opened else ""}><summary>{escape(words)}</summary>{"".join(parts)}</details>'


def folded(runs: Sequence[tuple[str, RunRecord]], part: Callable[[RunRecord], str], opened: int) -> list[str]:
  """A part for each (name of its group, run). If there are several, each folds, and the first `opened` are open."""
  if len(runs) == 1:
    return [part(runs[0][1])]
  return [
    details(f'{name}, trial {run.config["trial"]}', part(run), opened=k < opened) for k, (name, run) in enumerate(runs)
  ]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
  """An HTML table of text. numbers: whether all columns but the first are numbers, set to the right."""
  kind = lambda k: ' class="n"' if k and numbers else ''
  head = ''.join(f'<th{kind(k)}>{escape(cell)}</th>' for k, cell in enumerate(header))
  body = ''.join(
    '<tr>' + ''.join(f'<td{kind(k)}>{escape(cell)}</td>' for k, cell in enumerate(row)) + '</tr>' for row in rows
  )
  return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(images: np.ndarray, words: str, side: int = 48) -> str:
  """Images u8[n, h, w, c], c 1 or 3, in a row as one embedded picture, at most `side` high. words: its description."""
  from PIL import Image

  n, height, width, _ = images.shape
  strip = np.zeros((n, height, width + 1, 4), np.uint8)  # a transparent column after each image
  strip[:, :, :width] = np.concatenate(
    [np.broadcast_to(images, (n, height, width, 3)), np.full((n, height, width, 1), 255, np.uint8)], axis=-1
  )
  shown = Image.fromarray(strip.swapaxes(0, 1).reshape(height, -1, 4)[:, :-1])
  if height > side:
    shown = shown.resize((shown.width * side // height, side))
  file, kind = io.BytesIO(), 'webp' if height > 16 else 'png'  # PNG keeps each of few pixels
  shown.save(file, kind, quality=85)
  data = base64.b64encode(file.getvalue()).decode()
  return f'<img src="data:image/{kind};base64,{data}" alt="{escape(words)}" title="{escape(words)}">'
