"""Charts as SVG text.

A colour is a CSS variable with a fallback, so that one chart serves light, dark and printed pages; `standalone` puts
the fallbacks in place. The palette is Okabe and Ito's, which colour-blind readers can tell apart. After six colours,
lines are dashed. A chart is 360 units wide, one unit per pixel on a phone. All words are escaped.
"""

import itertools
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#555555')
GREY = -1  # the look of a reference line
COLOURS = 6
DASHES = ('', ' stroke-dasharray="5 3"', ' stroke-dasharray="1.5 2.5"')
INK, FAINT = 'var(--ink, #1a1a1a)', 'var(--line, #d0d0d0)'
WIDTH, LEFT, RIGHT, TOP, HEIGHT = 360, 46, 12, 26, 180
CHARACTER = 6.0  # approximate width of a letter in pixels, at font size 11

Row = Sequence[float | None]  # None where a value is not known


class Series(NamedTuple):
  """A curve, or one kind of bar: a row of values for each trial; `look` picks the colour."""

  name: str
  trials: Sequence[Row]
  look: int

  def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation over trials, f[x] each; nan where no trial has a value."""
    values = np.array(list(itertools.zip_longest(*self.trials)), float).T  # None becomes nan
    known = np.ma.masked_invalid(values)
    return known.mean(0).filled(np.nan), known.std(0).filled(np.nan)


def colour(look: int) -> str:
  """A fill or stroke for this look."""
  k = look % COLOURS if look >= 0 else COLOURS
  return f'var(--c{k}, {PALETTE[k]})'


def dash(look: int) -> str:
  return DASHES[look // COLOURS % 3]


def text(x: float, y: float, words: str, anchor: str = 'start', more: str = '', ink: str = INK) -> str:
  return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}" {more}>{escape(words)}</text>'


def circle(x: float, y: float, radius: float, style: str) -> str:
  return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {style}/>'


def svg(height: float, body: Sequence[str], title: str, width: int = WIDTH) -> str:
  """The picture around `body`. title: what a screen reader says."""
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
    f'font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>{"".join(body)}</svg>'
  )


def standalone(chart: str) -> str:
  """The chart as a file of its own: fixed colours on white, and a fixed size."""
  fixed = re.sub(r'var\(--\w+, (#\w+)\)', r'\1', chart)
  fixed = re.sub(r'viewBox="0 0 (\d+) (\d+)"', r'width="\1" height="\2" \g<0>', fixed, count=1)
  return fixed.replace('</title>', '</title><rect width="100%" height="100%" fill="#ffffff"/>', 1) + '\n'


def shortened(words: str, most: int) -> str:
  return words if len(words) <= most else words[: most - 1] + '…'


def legend(names: Sequence[tuple[str, int]], top: float, marks: Sequence[str] = ()) -> tuple[list[str], float]:
  """(parts, height): a swatch and a name for each (name, look). marks: paths to draw in place of short lines."""
  parts, x, y = [], float(LEFT), top + 12
  for k, (name, look) in enumerate(names):
    name = shortened(name, 44)
    if x > LEFT and x + 22 + CHARACTER * len(name) > WIDTH - RIGHT:
      x, y = float(LEFT), y + 16
    if marks:
      parts.append(f'<path d="{marks[k].format(x=x + 8, y=y - 4)}" fill="{colour(look)}"/>')
    else:
      parts.append(f'<path d="M{x:.0f} {y - 4:.0f}h16" stroke="{colour(look)}" stroke-width="3"{dash(look)}/>')
    parts.append(text(x + 21, y, name))
    x += 34 + CHARACTER * len(name)
  return parts, y - top + 8


def tick_labels(labels: Sequence[str], xs: np.ndarray, room: float, top: float) -> tuple[list[str], float]:
  """(parts, y of their lower end): labels at `xs`, `room` apart, under an axis at y = `top`.

  If they do not fit, words are written aslant, and some labels are left out.
  """
  longest, numbers = max(map(len, labels)), all(name.isdigit() for name in labels)
  fits = longest * CHARACTER <= room
  every = 1 if fits else int(np.ceil((longest + 1) * CHARACTER / room)) if numbers else int(np.ceil(12 / room))
  shown = list(zip(labels, xs, strict=True))[::every]
  if fits or numbers:
    return [text(x, top + 15, name, 'middle') for name, x in shown], top + 20
  parts, most = [], min(longest, 18)
  angle, drop = (35, 0.57) if room >= 19 else (60, 0.87)  # steeper where lines of text would touch; drop: its sine
  for name, x in shown:
    turn = f'transform="rotate(-{angle} {x:.1f} {top + 12:.1f})"'
    room_left = int(x / (0.9 * CHARACTER))  # the name runs down to the left edge
    parts.append(text(x, top + 12, shortened(name, min(most, room_left)), 'end', turn))
  return parts, top + 24 + drop * CHARACTER * most


class Frame:
  """The axes of a chart between `low` and `high`, with ticks at round values, and a part of the x axis per name."""

  def __init__(self, low: float, high: float, names: Sequence[str], y_label: str, unit: str):
    high = high if high > low else low + 1.0
    power = 10.0 ** np.floor(np.log10(max((high - low) / 4, 1e-12)))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= (high - low) / 4 * (1 - 1e-9))
    self.low, self.high = np.floor(low / step + 1e-9) * step, np.ceil(high / step - 1e-9) * step
    self.names, self.room = names, (WIDTH - LEFT - RIGHT) / len(names)
    self.xs = LEFT + (np.arange(len(names)) + 0.5) * (WIDTH - LEFT - RIGHT) / len(names)  # the middle of each part
    self.parts = [text(2, 12, y_label)]
    for value in np.arange(self.low, self.high + step / 2, step):
      y = self.y(value)
      self.parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{FAINT}" stroke-width="0.7"/>')
      self.parts.append(text(LEFT - 6, y + 4, f'{value:.10g}{unit}', 'end'))

  def y(self, value: float) -> float:
    return TOP + HEIGHT * (1 - (value - self.low) / (self.high - self.low))

  def finished(self, series: Sequence[Series], title: str, x_label: str = '') -> str:
    """The chart with the names of the parts, of the x axis and of the series."""
    labels, below = tick_labels(self.names, self.xs, self.room, TOP + HEIGHT)
    if x_label:
      labels.append(text(WIDTH - RIGHT, below + 10, x_label, 'end'))
      below += 14
    names, height = legend([(one.name, one.look) for one in series], below)
    return svg(below + height, [*self.parts, *labels, *names], title)


def curves(
  series: Sequence[Series], ticks: Sequence[str], x_label: str, y_label: str, title: str, unit: str = '', top=None,
  level: tuple[str, float] | None = None,
) -> str:  # fmt: skip
  """Means over trials with bands of one standard deviation; '' if no series has a value.

  A series without values is left out. A curve that a later one covers is drawn wider, so that it shows on both sides.
  top: the end of the y axis; by default that of the highest band. level: name and value of a line to compare with.
  """
  series = [one for one in series if np.isfinite(one.mean_std()[0]).any()]
  if not series:
    return ''
  series += [Series(level[0], [[level[1]] * len(ticks)], GREY)] if level else []
  moments = [one.mean_std() for one in series]
  ends = np.concatenate([edge for mean, std in moments for edge in (mean - std, mean + std)])
  frame = Frame(min(0.0, np.nanmin(ends)), top or np.nanmax(ends), ticks, y_label, unit)
  pixel = (frame.high - frame.low) / HEIGHT
  for order, (one, (mean, std)) in enumerate(zip(series, moments, strict=True)):
    covered = sum(
      mean.shape == later.shape and np.allclose(mean, later, rtol=0, atol=pixel, equal_nan=True)
      for later, _ in moments[order + 1 :]
    )
    here = np.flatnonzero(np.isfinite(mean))
    points = lambda values, here=here: [f'{frame.xs[k]:.1f},{frame.y(values[k]):.1f}' for k in here]
    if len(one.trials) > 1:
      edge = points(np.minimum(mean + std, frame.high)) + points(np.maximum(mean - std, frame.low))[::-1]
      frame.parts.append(f'<polygon points="{" ".join(edge)}" fill="{colour(one.look)}" opacity="0.15"/>')
    style = f'fill="none" stroke="{colour(one.look)}" stroke-width="{2 + 3 * covered}"{dash(one.look)}'
    frame.parts.append(f'<polyline points="{" ".join(points(mean))}" {style}/>')
    frame.parts += [circle(frame.xs[k], frame.y(mean[k]), 2.6, f'fill="{colour(one.look)}"') for k in here]
  return frame.finished(series, title, x_label)


def bars(series: Sequence[Series], ticks: Sequence[str], y_label: str, title: str, unit: str = '') -> str:
  """A bar of each series at each tick, the mean over trials; with several trials, a dot for each.

  '' if no series has a value.
  """
  values = [value for one in series for row in one.trials for value in row if value is not None]
  if not values:
    return ''
  frame = Frame(min(0.0, *values), max(0.0, *values), ticks, y_label, unit)
  wide = min(frame.room * 0.8 / len(series), 34)
  ring = f'fill="var(--page, #ffffff)" stroke="{INK}" stroke-width="0.8"'
  for k, one in enumerate(series):
    lefts = frame.xs + (k - len(series) / 2) * wide
    for left, value in zip(lefts, one.mean_std()[0], strict=False):
      if np.isfinite(value):
        first, last = sorted((frame.y(value), frame.y(0)))
        frame.parts.append(
          f'<rect x="{left + 0.5:.1f}" y="{first:.1f}" width="{wide - 1:.1f}" height="{last - first:.1f}" '
          f'fill="{colour(one.look)}"/>'
        )
    for row in one.trials if len(one.trials) > 1 else ():
      dots = [(left + wide / 2, y) for left, y in zip(lefts, row, strict=False) if y is not None]
      frame.parts += [circle(x, frame.y(y), 2, ring) for x, y in dots]
  return frame.finished(series, title)


def heat(
  values: Sequence[Row], rows: Sequence[str], columns: Sequence[str], title: str, labels: tuple[str, str]
) -> str:
  """A matrix of fractions, darker for more, in percent where it fits. labels: of the rows, and of the columns."""
  left = min(max(map(len, rows)), 12) * CHARACTER + 10
  width = (WIDTH - left - 4) / len(columns)
  height = min(width, 34.0)
  parts = [text(2, 12, f'{labels[0]} ↓, {labels[1]} →')]
  for i, row in enumerate(values):
    for j, value in enumerate(row):
      if value is None:
        continue
      x, y, hint = left + j * width, TOP + i * height, f'{rows[i]}, {columns[j]}: {100 * value:.1f} %'
      parts.append(
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width - 0.6, width * 0.9):.2f}" '
        f'height="{max(height - 0.6, height * 0.9):.2f}" fill="var(--heat, #0072B2)" '
        f'fill-opacity="{0.04 + 0.96 * min(max(value, 0), 1):.3f}"><title>{escape(hint)}</title></rect>'
      )
      if width >= 22 and height >= 13:
        ink = '#ffffff' if value > 0.55 else INK
        parts.append(text(x + width / 2, y + height / 2 + 4, f'{100 * value:.0f}', 'middle', ink=ink))
  for k in range(0, len(rows), max(1, int(np.ceil(11 / height)))):
    parts.append(text(left - 6, TOP + (k + 0.5) * height + 4, shortened(rows[k], 12), 'end'))
  middles = left + (np.arange(len(columns)) + 0.5) * width
  names, bottom = tick_labels(columns, middles, width, TOP + len(values) * height)
  return svg(bottom + 4, [*parts, *names], title)


SHAPES = (  # of a point at x, y: circle, triangle, square
  'M{x:.1f} {y:.1f}m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z',
  'M{x:.1f} {y:.1f}m0-3l2.8 5h-5.6z',
  'M{x:.1f} {y:.1f}m-2.3-2.3h4.6v4.6h-4.6z',
)


def scatter(sets: Sequence[tuple[str, Sequence[Sequence[float]], int]], title: str) -> str:
  """Sets of points (name, [x, y] each, look) on a plane without axes; looks 0, 1, 2 have shapes of their own.

  The plane is turned so that the points vary most along x: its own directions have no meaning.
  """
  points = np.concatenate([np.asarray(one[1], float) for one in sets])
  turn = np.linalg.eigh(np.cov(points.T, bias=True))[1][:, ::-1]  # the direction of most variance first
  points = points @ turn
  low, extent = points.min(0), np.ptp(points, axis=0)
  span, side = max(float(extent.max()), 1e-9), WIDTH - 2 * RIGHT
  parts = []
  for _, members, look in sets:
    places = RIGHT + (np.asarray(members, float) @ turn - low) / span * side
    path = ''.join(SHAPES[look % 3].format(x=x, y=y) for x, y in places)
    parts.append(f'<path d="{path}" fill="{colour(look)}" fill-opacity="0.75"/>')
  bottom = RIGHT + float((extent[1] / span) * side) + 10
  words, height = legend([(name, look) for name, _, look in sets], bottom, [SHAPES[look % 3] for _, _, look in sets])
  return svg(bottom + height, [*parts, *words], title)
