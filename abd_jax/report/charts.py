"""Charts as plain SVG: a library would bring a dozen packages, and pictures whose colours cannot follow the page.

Colours are CSS variables with a fallback, so that one chart serves light, dark and print; `standalone` takes the
fallbacks, for a file of its own. The palette is Okabe and Ito's, safe for the colour-blind; what comes after six
colours is dashed, and the seventh is grey. Charts are 360 units wide, drawn for a phone at one unit per pixel. All
words are escaped.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#555555')
GREY = -1  # the look of a line to compare with
COLOURS = 6
WIDTH, LEFT, RIGHT, TOP = 360, 46, 12, 26
CHARACTER = 6.0  # pixels, about, of a letter of 11 pixels
LONGEST = 18  # letters of a name under an axis


class Series(NamedTuple):
  """A curve or a kind of bar: a row of values for each trial, None where there is none; `look` picks the colour."""

  name: str
  trials: Sequence[Sequence[float | None]]
  look: int

  def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
    """Over trials, f[x] each; nan where no trial has a value."""
    length = max(map(len, self.trials))
    values = np.full((len(self.trials), length), np.nan)
    for row, trial in zip(values, self.trials, strict=True):
      row[: len(trial)] = [np.nan if value is None else value for value in trial]
    count = np.isfinite(values).sum(0)
    filled = np.where(np.isfinite(values), values, 0)
    mean = np.where(count, filled.sum(0) / np.maximum(count, 1), np.nan)
    spread = np.where(np.isfinite(values), (values - mean) ** 2, 0).sum(0) / np.maximum(count, 1)
    return mean, np.sqrt(spread)


def colour(look: int) -> str:
  k = look % COLOURS if look >= 0 else COLOURS
  return f'var(--c{k}, {PALETTE[k]})'


def dash(look: int) -> str:
  return ('', ' stroke-dasharray="5 3"', ' stroke-dasharray="1.5 2.5"')[look // COLOURS % 3]


INK, FAINT = 'var(--ink, #1a1a1a)', 'var(--line, #d0d0d0)'


def text(x: float, y: float, words: object, anchor: str = 'start', more: str = '') -> str:
  return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {more}>{escape(str(words))}</text>'


def svg(height: float, body: Sequence[str], title: str, width: float = WIDTH) -> str:
  """The picture around `body`; title: what a screen reader says."""
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
    f'font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>{"".join(body)}</svg>'
  )


def standalone(chart: str) -> str:
  """A chart as a file of its own: fixed colours on white, and a size of its own."""
  fixed = re.sub(r'var\(--\w+, (#\w+)\)', r'\1', chart)
  fixed = re.sub(r'viewBox="0 0 (\d+) (\d+)"', r'width="\1" height="\2" \g<0>', fixed, count=1)
  return fixed.replace('</title>', '</title><rect width="100%" height="100%" fill="#ffffff"/>', 1) + '\n'


def shortened(words: str, most: int) -> str:
  return words if len(words) <= most else words[: most - 1] + '…'


def legend(names: Sequence[tuple[str, int]], top: float, marks: Sequence[str] = ()) -> tuple[list[str], float]:
  """(parts, height): a swatch and a name each, as many to a line as fit. marks: paths to draw in place of lines."""
  parts, x, y = [], float(LEFT), top + 12
  for k, (name, look) in enumerate(names):
    name = shortened(name, 44)
    if x > LEFT and x + 22 + CHARACTER * len(name) > WIDTH - RIGHT:
      x, y = float(LEFT), y + 16
    line = f'<path d="M{x:.0f} {y - 4:.0f}h16" stroke="{colour(look)}" stroke-width="3"{dash(look)}/>'
    mark = f'<path d="{marks[k].format(x=x + 8, y=y - 4)}" fill="{colour(look)}"/>' if marks else line
    parts.append(mark)
    parts.append(text(x + 21, y, name))
    x += 34 + CHARACTER * len(name)
  return parts, y - top + 8


class Frame:
  """The axes of a chart of `height` between `low` and `high`, with ticks at round values."""

  def __init__(self, low: float, high: float, y_label: str, height: float = 180, unit: str = ''):
    step = _round_step((high - low) / 4)
    self.low, self.high = np.floor(low / step + 1e-9) * step, np.ceil(high / step - 1e-9) * step
    self.height, self.bottom = height, TOP + height
    self.parts = [text(2, 12, y_label)]
    for value in np.arange(self.low, self.high + step / 2, step):
      y = self.y(value)
      self.parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{FAINT}" stroke-width="0.7"/>')
      self.parts.append(text(LEFT - 6, y + 4, f'{value:.10g}{unit}', 'end'))

  def y(self, value: float) -> float:
    return TOP + self.height * (1 - (value - self.low) / (self.high - self.low))

  def middles(self, count: int) -> np.ndarray:
    """f[count]: the middle of each of `count` equal parts of the x axis."""
    return LEFT + (np.arange(count) + 0.5) * (WIDTH - LEFT - RIGHT) / count

  def ticks(self, labels: Sequence[str], label: str = '') -> float:
    """Writes under the axis, words aslant where they do not fit; returns where the next thing may begin."""
    room, longest = (WIDTH - LEFT - RIGHT) / max(len(labels), 1), max(map(len, labels), default=0)
    fits, numbers = longest * CHARACTER <= room, all(name.isdigit() for name in labels)
    every = 1 if fits else int(np.ceil((longest + 1) * CHARACTER / room)) if numbers else int(np.ceil(12 / room))
    for k, x in enumerate(self.middles(len(labels))):
      if k % every == 0 and (fits or numbers):
        self.parts.append(text(x, self.bottom + 15, labels[k], 'middle'))
      elif k % every == 0:
        turn = f'transform="rotate(-35 {x:.1f} {self.bottom + 12:.1f})"'
        room_left = int(x / (0.9 * CHARACTER))  # down to the left, as far as the picture goes
        self.parts.append(text(x, self.bottom + 12, shortened(labels[k], min(LONGEST, room_left)), 'end', turn))
    below = self.bottom + (20 if fits or numbers else 24 + 0.57 * CHARACTER * min(longest, LONGEST))
    if label:
      self.parts.append(text(WIDTH - RIGHT, below + 10, label, 'end'))
    return below + (14 if label else 0)


def _round_step(step: float) -> float:
  """The least of 1, 2, 2.5, 5, times a power of ten, that is no smaller."""
  power = 10.0 ** np.floor(np.log10(max(step, 1e-12)))
  return float(next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= step * (1 - 1e-9)))


def _values(series: Sequence[Series]) -> list[float]:
  return [value for one in series for row in one.trials for value in row if value is not None]


def _extent(series: Sequence[Series]) -> tuple[float, float]:
  """From 0, or below, to the top of the highest band."""
  ends = [value for one in series for at in (one.mean_std(),) for value in (*(at[0] - at[1]), *(at[0] + at[1]))]
  finite = [value for value in ends if np.isfinite(value)] or [0.0]
  low, high = min(0.0, *finite), max(finite)
  return low, high if high > low else low + 1.0


def curves(
  series: Sequence[Series], ticks: Sequence[str], x_label: str, y_label: str, title: str, unit: str = '', top=None
) -> str:
  """Means over trials with bands of one standard deviation; '' where no series has a value.

  A curve on which a later one lies is drawn wider, so that it shows on both sides. top: the y axis's end, else the
  highest value's.
  """
  if not _values(series):
    return ''
  low, high = _extent(series)
  frame = Frame(low, top or high, y_label, unit=unit)
  xs = frame.middles(len(ticks))
  means = [one.mean_std()[0] for one in series]
  for order, one in enumerate(series):
    mean, std = one.mean_std()
    over = sum(_coincide(mean, later, (frame.high - frame.low) / frame.height) for later in means[order + 1 :])
    here = np.flatnonzero(np.isfinite(mean))
    place = lambda values, here=here: [f'{xs[k]:.1f},{frame.y(values[k]):.1f}' for k in here]
    if len(one.trials) > 1:
      edge = place(np.minimum(mean + std, frame.high)) + place(np.maximum(mean - std, frame.low))[::-1]
      frame.parts.append(f'<polygon points="{" ".join(edge)}" fill="{colour(one.look)}" opacity="0.15"/>')
    style = f'fill="none" stroke="{colour(one.look)}" stroke-width="{2 + 3 * over}"{dash(one.look)}'
    frame.parts.append(f'<polyline points="{" ".join(place(mean))}" {style}/>')
    frame.parts += [f'<circle cx="{xs[k]:.1f}" cy="{frame.y(mean[k]):.1f}" r="2.6" fill="{colour(one.look)}"/>'
                    for k in here]  # fmt: skip
  return _finished(frame, series, ticks, x_label, title)


def _coincide(a: np.ndarray, b: np.ndarray, unit: float) -> bool:
  """Whether two curves lie within a unit of the picture of each other all along."""
  return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=unit, equal_nan=True))


def bars(series: Sequence[Series], ticks: Sequence[str], x_label: str, y_label: str, title: str, unit: str = '') -> str:
  """A bar of each series over each tick, the mean over trials; a dot for each trial, where there are several.

  '' where no series has a value.
  """
  if not (values := _values(series)):
    return ''
  low, high = min([0.0, *values]), max([0.0, *values])
  frame = Frame(low, high if high > low else low + 1.0, y_label, unit=unit)
  room = (WIDTH - LEFT - RIGHT) / len(ticks)
  wide = min(room * 0.8 / len(series), 34)
  for k, one in enumerate(series):
    for x, value in zip(frame.middles(len(ticks)), one.mean_std()[0], strict=False):
      if np.isfinite(value):
        left, (first, last) = x + (k - len(series) / 2) * wide, sorted((frame.y(value), frame.y(0)))
        frame.parts.append(
          f'<rect x="{left + 0.5:.1f}" y="{first:.1f}" width="{wide - 1:.1f}" height="{last - first:.1f}" '
          f'fill="{colour(one.look)}" opacity="{0.6 if one.look >= COLOURS else 1}"/>'
        )
    if len(one.trials) > 1:
      for row in one.trials:
        for x, value in zip(frame.middles(len(ticks)), row, strict=False):
          if value is not None:
            at = x + (k + 0.5 - len(series) / 2) * wide
            ring = f'fill="var(--page, #ffffff)" stroke="{INK}" stroke-width="0.8"'
            frame.parts.append(f'<circle cx="{at:.1f}" cy="{frame.y(value):.1f}" r="2" {ring}/>')
  return _finished(frame, series, ticks, x_label, title)


def _finished(frame: Frame, series: Sequence[Series], ticks: Sequence[str], x_label: str, title: str) -> str:
  below = frame.ticks(ticks, x_label)
  parts, height = legend([(one.name, one.look) for one in series], below)
  return svg(below + height, [*frame.parts, *parts], title)


def heat(
  values: Sequence[Sequence[float | None]],
  rows: Sequence[str],
  columns: Sequence[str],
  title: str,
  labels: tuple[str, str],
) -> str:
  """A matrix of fractions, darker for more, in percent where it fits. labels: of the rows, and of the columns."""
  margin = min(max((len(name) for name in rows), default=1), 12) * CHARACTER + 10
  size = (WIDTH - margin - 4) / len(columns)
  height = min(size, 34.0)
  longest = max(map(len, columns))
  upright = longest * CHARACTER <= size  # else names over the columns are turned to be read from below
  say, y0 = size >= 22 and height >= 13, 36.0 if upright else 26.0 + CHARACTER * min(longest, 12)
  parts = [text(2, 12, f'{labels[0]} ↓, {labels[1]} →')]
  for i, row in enumerate(values):
    for j, value in enumerate(row):
      if value is None:
        continue
      x, y = margin + j * size, y0 + i * height
      hint = f'<title>{escape(f"{rows[i]}, {columns[j]}: {100 * value:.1f} %")}</title>'
      parts.append(
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(size - 0.6, size * 0.9):.2f}" '
        f'height="{max(height - 0.6, height * 0.9):.2f}" fill="var(--heat, #0072B2)" '
        f'fill-opacity="{0.04 + 0.96 * min(max(value, 0), 1):.3f}">{hint}</rect>'
      )
      if say:
        ink = 'fill="#ffffff"' if value > 0.55 else f'fill="{INK}"'
        words = f'{100 * value:.0f}'
        parts.append(
          f'<text x="{x + size / 2:.1f}" y="{y + height / 2 + 4:.1f}" text-anchor="middle" {ink}>{words}</text>'
        )
  every = max(1, int(np.ceil(11 / height)))
  for k, name in enumerate(rows):
    if k % every == 0:
      parts.append(text(margin - 6, y0 + (k + 0.5) * height + 4, shortened(name, 12), 'end'))
  skip = 1 if upright else max(1, int(np.ceil(11 / size)))
  for k, name in enumerate(columns):
    x = margin + (k + 0.5) * size
    if k % skip == 0 and upright:
      parts.append(text(x, y0 - 8, name, 'middle'))
    elif k % skip == 0:
      turn = f'transform="rotate(-90 {x + 4:.1f} {y0 - 5:.1f})"'
      parts.append(text(x + 4, y0 - 5, shortened(name, 12), 'start', turn))
  return svg(y0 + len(values) * height + 4, parts, title)


SHAPES = (  # of points at x, y: circle, triangle, square
  'M{x:.1f} {y:.1f}m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z',
  'M{x:.1f} {y:.1f}m0-3l2.8 5h-5.6z',
  'M{x:.1f} {y:.1f}m-2.3-2.3h4.6v4.6h-4.6z',
)


def scatter(sets: Sequence[tuple[str, Sequence[Sequence[float]], int]], title: str) -> str:
  """Sets of points (name, [x, y] each, look) on one plane without axes, looks 0, 1, 2 of their own shapes.

  Turned to lie flat: the plane has no directions of its own.
  """
  points = np.concatenate([np.asarray(one[1], float).reshape(-1, 2) for one in sets])
  _, flat = np.linalg.eigh(np.cov(points.T, bias=True))
  turn = flat[:, ::-1]  # the direction of most variance first
  points = points @ turn
  low, span = points.min(0), max(float(np.ptp(points, axis=0).max()), 1e-9)
  side = WIDTH - 2 * RIGHT
  parts, place = [], lambda at: RIGHT + (np.asarray(at, float) @ turn - low) / span * side
  for _, those, look in sets:
    path = ''.join(SHAPES[look % 3].format(x=x, y=y) for x, y in map(place, those))
    parts.append(f'<path d="{path}" fill="{colour(look)}" fill-opacity="0.75"/>')
  bottom = RIGHT + float((np.ptp(points, axis=0)[1] / span) * side) + 10
  words, height = legend([(name, look) for name, _, look in sets], bottom, [SHAPES[look % 3] for _, _, look in sets])
  return svg(bottom + height, [*parts, *words], title)
