"""The report: one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape

from abd_jax.report import diagnosis, results
from abd_jax.report.html import section
from abd_jax.report.runs import Group, RunRecord, grouped
from abd_jax.report.style import STYLE


def report(runs: Sequence[RunRecord]) -> str:
  """The page of one or more runs. Every word of theirs is escaped; pictures and charts stand in it."""
  groups = grouped(runs)
  title = _title(groups)
  body = [
    f'<h1>{escape(title)}</h1>',
    f'<p class="soft">{escape(_subtitle(runs))}</p>',
    *(f'<p class="note">{escape(f"{run.name}: {run.note}" if len(runs) > 1 else run.note)}</p>'
      for run in runs if run.note),
    results.headline(groups),
    section('Accuracy', *results.accuracy(groups)),
    section('Dreams', *diagnosis.dreams(groups)),
    section('Where the features go', *diagnosis.features(groups)),
    section('What the dreams are worth', *diagnosis.quality(groups)),
    section('Time, memory, and what is kept', *results.costs(groups)),
    section('How it was run', *results.origin(groups)),
  ]  # fmt: skip
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    f'<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n'
    + '\n'.join(body)
    + '\n</main></body></html>\n'
  )


def _title(groups: Sequence[Group]) -> str:
  data = sorted({run.config['data.name'] for group in groups for run in group.runs})
  tasks = sorted({run.num_tasks for group in groups for run in group.runs})
  methods = ', '.join(group.name for group in groups[:6]) + (f' and {len(groups) - 6} more' if len(groups) > 6 else '')
  many = ' or '.join(map(str, tasks))
  return f'{methods} on {" and ".join(data)}, {many} task{"s" if tasks != [1] else ""}'


def _subtitle(runs: Sequence[RunRecord]) -> str:
  under_way = [run.name for run in runs if run.results is None]
  first, words = runs[0], f'{len(runs)} runs.'
  if len(runs) == 1:
    words = f'Trial {first.config["trial"]}.'
  if len(runs) == 1 and first.results and first.results['commit']:
    words += f' Commit {first.results["commit"][:10]}.'
  if under_way:
    words += f' Not complete: {", ".join(under_way)}.'
  return words
