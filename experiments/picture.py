"""The README's picture of results: a bar for each method, grouped by the data it keeps of old classes."""

from typing import NamedTuple

from experiments.summary import plus_minus

LEFT, BAR, ROW, WIDTH, HEAD = 184, 430, 22, 740, 64  # pixels
INK, PALE = '#1f2328', '#d0d7de'
HALO = 'font-style="italic" fill="#57606a" stroke="#ffffff" stroke-width="4" paint-order="stroke"'
# Words for each kind of replay -> its colour, after Okabe and Ito: they differ to the colour-blind too.
GROUPS = {
  'none': ('nothing is kept', '#56B4E9'),
  'dreams': ('a generator is kept and dreams of the old classes', '#0072B2'),
  'coreset': ('100 old images are kept', '#E69F00'),
  'all': ('all images are kept', '#888888'),
}


class Bar(NamedTuple):
  """A method's final accuracies."""

  name: str
  group: str  # a key of GROUPS
  mean: float  # percent, like all that follow
  std: float | None
  trials: list[float]
  bold: bool


def results_svg(bars: list[Bar]) -> str:
  """An SVG of the bars, each with its trials as circles; the lowest of a group first."""
  body, y = [], HEAD
  for group, (words, colour) in GROUPS.items():
    body.append(_text(LEFT, y + 14, words, HALO))
    y += ROW
    for bar in sorted((bar for bar in bars if bar.group == group), key=lambda bar: bar.mean):
      body += _bar(bar, colour, y)
      y += ROW
    y += 8
  title = 'Ten digits learnt in five tasks: accuracy on all ten at the end'
  count = max((len(bar.trials) for bar in bars), default=0)
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 44}" viewBox="0 0 {WIDTH} {y + 44}"'
    f' font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" fill="{INK}" role="img">',
    f'<title>{title}</title>',
    f'<rect width="{WIDTH}" height="{y + 44}" rx="8" fill="#ffffff"/>',
    _text(24, 30, title, 'font-size="16" font-weight="bold"'),
    _text(24, 50, f'Bars and numbers: mean ± standard deviation of up to {count} trials. Circles: the trials.'),
    *_ticks(y),
    *body,
    _text(LEFT + BAR / 2, y + 34, 'accuracy, %', 'text-anchor="middle"'),
    '</svg>',
  ]
  return '\n'.join(lines) + '\n'


def _bar(bar: Bar, colour: str, y: int) -> list[str]:
  weight = ' font-weight="bold"' if bar.bold else ''
  circle = f'cy="{y + 9.5}" r="3" fill="#ffffff" stroke="{INK}" stroke-width="1.2"'
  return [
    _text(LEFT - 10, y + 14, bar.name, f'text-anchor="end"{weight}'),
    f'<rect x="{LEFT}" y="{y + 2}" width="{_at(bar.mean) - LEFT:.1f}" height="15" fill="{colour}"/>',
    *(f'<circle cx="{_at(value):.1f}" {circle}/>' for value in bar.trials),
    _text(WIDTH - 24, y + 14, plus_minus(bar.mean, bar.std), f'text-anchor="end"{weight}'),
  ]


def _ticks(bottom: int) -> list[str]:
  lines = []
  for percent in range(0, 101, 20):
    lines.append(f'<path d="M{_at(percent):g} {HEAD}V{bottom}" stroke="{PALE}"/>')
    lines.append(_text(_at(percent), bottom + 16, str(percent), 'text-anchor="middle"'))
  return lines


def _at(percent: float) -> float:
  return LEFT + BAR * percent / 100


def _text(x: float, y: float, words: str, more: str = '') -> str:
  return f'<text x="{x:g}" y="{y:g}" {more}>{words}</text>'
