"""The README's picture of results: a bar for each method, grouped by the data it keeps of old classes."""

from typing import NamedTuple

from abd_jax.report import charts
from abd_jax.report.charts import text
from experiments.summary import plus_minus

LEFT, BAR, ROW, WIDTH, HEAD = 184, 430, 22, 740, 64  # pixels
HALO = 'font-style="italic" stroke="#ffffff" stroke-width="4" paint-order="stroke"'
# Words for each kind of replay -> its look.
GROUPS = {
  'none': ('nothing is kept', 5),
  'dreams': ('a generator is kept and dreams of the old classes', 0),
  'coreset': ('100 old images are kept', 4),
  'all': ('all images are kept', charts.GREY),
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
  for group, (words, look) in GROUPS.items():
    body.append(text(LEFT, y + 14, words, more=HALO, ink='#57606a'))
    y += ROW
    for bar in sorted((bar for bar in bars if bar.group == group), key=lambda bar: bar.mean):
      body += _bar(bar, charts.colour(look), y)
      y += ROW
    y += 8
  title = 'Ten digits learnt in five tasks: accuracy on all ten at the end'
  words = 'Bars and numbers: mean ± standard deviation of up to {} trials. Circles: the trials.'
  head = [
    '<g font-size="13">',
    text(24, 30, title, more='font-size="16" font-weight="bold"'),
    text(24, 50, words.format(max((len(bar.trials) for bar in bars), default=0))),
  ]
  for percent in range(0, 101, 20):
    head.append(f'<path d="M{_at(percent):g} {HEAD}V{y}" stroke="{charts.FAINT}"/>')
    head.append(text(_at(percent), y + 16, str(percent), 'middle'))
  foot = [text(LEFT + BAR / 2, y + 34, 'accuracy, %', 'middle'), '</g>']
  return charts.standalone(charts.svg(y + 44, [*head, *body, *foot], title, WIDTH))


def _bar(bar: Bar, colour: str, y: int) -> list[str]:
  weight = 'font-weight="bold"' if bar.bold else ''
  ring = f'fill="#ffffff" stroke="{charts.INK}" stroke-width="1.2"'
  return [
    text(LEFT - 10, y + 14, bar.name, 'end', weight),
    f'<rect x="{LEFT}" y="{y + 2}" width="{_at(bar.mean) - LEFT:.1f}" height="15" fill="{colour}"/>',
    *(charts.circle(_at(value), y + 9.5, 3, ring) for value in bar.trials),
    text(WIDTH - 24, y + 14, plus_minus(bar.mean, bar.std), 'end', weight),
  ]


def _at(percent: float) -> float:
  return LEFT + BAR * percent / 100
