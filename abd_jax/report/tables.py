"""Tables as Markdown, and the lines that sum up a run."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table, columns aligned for reading as plain text."""
  widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
  line = lambda row: '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + ' |'
  rule = '|' + '|'.join('-' * (w + 2) for w in widths) + '|'
  return '\n'.join([line(header), rule, *map(line, rows)])


def percent(fraction: float | None) -> str:
  return '-' if fraction is None else f'{100 * fraction:.1f}'


def summary_line(results: dict) -> list[str]:
  """The cells of one run's row in a table headed by SUMMARY."""
  numbers = [results[key] for key in ('final_accuracy', 'average_accuracy', 'forgetting', 'backward_transfer')]
  return [results['method'], *map(percent, numbers), f'{sum(results["seconds"].values()):.0f}']


# Accuracies and their changes in percent; BWT is backward transfer. Short, so that a terminal of 80 columns holds it.
SUMMARY = ('method', 'final %', 'average %', 'forgetting', 'BWT', 'seconds')
