"""Writes experiments/README.md, and the tables and pictures of documents: python -m experiments page

Every number in them is read from a file in experiments/results/ that a run wrote. A test compares the pages with what
this renders.
"""

import argparse

from abd_jax.errors import UserError
from abd_jax.report import charts, figures
from abd_jax.report.tables import table as markdown
from experiments import benchmark, diagnosis, drill, long, runs, search
from experiments import compile as ahead
from experiments import trials as several
from experiments.files import RESULTS, ROOT, read_json, write
from experiments.jobs import has_config
from experiments.paper import TABLES
from experiments.picture import GROUPS, Bar, results_svg
from experiments.plan import Planned, by_cell, plan
from experiments.render import as_markdown, percent, with_notes
from experiments.summary import hardware, short_commit, summarise

README, PAGE = ROOT / 'README.md', ROOT / 'experiments/README.md'
RUNNING, PICTURE = ROOT / 'docs/running.md', ROOT / 'docs/images/results.svg'
REPORT, FIGURES = ROOT / 'docs/report.md', ROOT / 'docs/images'
COMPILED = ROOT / 'docs/compile.md'
DRILL, LONG = ROOT / 'docs/drill.md', ROOT / 'docs/images/long.svg'
# Tables 1, 2 and 4 are parts of A, B and E.
SHOWN = (
  ('methods', 'digits'),
  ('3', 'digits'),
  ('orders', 'digits'),
  ('small', 'cifar100_small'),
  ('3', 'cifar100_small'),
  ('C', 'tiny_imagenet_small'),
  *((name, TABLES[name].config) for name in ('A', 'B', '3', 'orders', 'C', 'D', 'E')),
)
# Trials shown, where more have run than a table asks for.
TRIALS = dict.fromkeys((('methods', 'digits'), ('3', 'digits')), 10)
DIAGNOSED = ('digits', 'cifar100_small')  # whose frozen models docs/report.md shows
COLUMNS = (
  'method', 'tasks', 'n', 'final accuracy %', 'spread', 'Omega %', 'difference (pairs)', 'paper', 'deviation',
  's a run', 'on', 'commit', 'a run',
)  # fmt: skip
INTRODUCTION = """# What reproduces

Written by `python -m experiments page` from the files in `experiments/results/`; every number was measured by a run
that left one. The paper's numbers are the paper's. Accuracy is on all classes after the last task, Omega the mean over
tasks of the accuracy as a share of an upper bound's there; both percent, mean ± population standard deviation over n
trials. A `+` after a commit marks a checkout with changed files. Times are wall clock for one run, compilation
included: the least over trials, for other work ran beside them.
"""


def planned_runs(name: str, config: str) -> list[Planned]:
  """The runs of a table, as many trials of each as are shown."""
  table = TABLES[name]
  return plan(table, config, TRIALS.get((name, config), table.trials))


def gathered(name: str, config: str) -> tuple[list[dict], list[str]]:
  """(the lines of a table, complaints) as its results stand."""
  planned = planned_runs(name, config)
  found, complaints = runs.gather(planned, RESULTS / 'runs')
  return summarise(TABLES[name], config, planned, found), complaints


def on_digits(name: str, columns: tuple[str, ...]) -> str:
  """A table of the README."""
  lines, _ = gathered(name, 'digits')
  return as_markdown([line for line in lines if line['n']], columns)


def picture() -> str:
  """The README's picture: every method on digits, variants apart."""
  planned = planned_runs('methods', 'digits')
  found, _ = runs.gather(planned, RESULTS / 'runs')
  bars = []
  for line, (one, trials) in zip(
    summarise(TABLES['methods'], 'digits', planned, found), by_cell(planned, found).items(), strict=True
  ):
    if trials and not one.row.overrides:
      group = 'all' if one.row.method == 'oracle' else one.row.replay if one.row.replay in GROUPS else 'dreams'
      values = [100 * result['final_accuracy'] for result in trials.values()]
      bars.append(Bar(one.row.name, group, line['accuracy'], line['accuracy_std'], values, one.row.method == 'abd'))
  return results_svg(bars)


def figures_of_models() -> dict[str, str]:
  """File in docs/images/ -> Figures 2, B and C, and the probe, of each config in DIAGNOSED."""
  files = {}
  for config in DIAGNOSED:
    of = diagnosis.groups(*diagnosis.measured(config))
    dreaming = diagnosis.dreaming(of)
    drawn = {f'figure_{name}': figures.distance_bars(dreaming, key) for name, key in (('2', 'mid'), ('B', 'mmd2'))}
    drawn |= {f'figure_C_{method}': picture for method, picture in diagnosis.planes(dreaming).items()}
    drawn |= {'figure_probe': figures.probe_bars(of)}
    files |= {f'{name}_{config}.svg': charts.standalone(picture) for name, picture in drawn.items()}
  return files


def steps_on_cpu() -> str:
  """The table of what steps cost."""
  return benchmark.render(read_json(RESULTS / 'benchmark_cpu.json'))


def page() -> str:
  """experiments/README.md."""
  parts, not_run = [INTRODUCTION], []
  for name, config in SHOWN:
    section, left = _table(name, config)
    parts += section
    not_run += left
  parts += _others() + _searches()
  return '\n'.join([*parts, '## Not run\n', *not_run]) + '\n'


def _table(name: str, config: str) -> tuple[list[str], list[str]]:
  """(what has run of a table, a line about what has not)."""
  table = TABLES[name]
  trials = TRIALS.get((name, config))
  options = f' --config={config}' * (config != table.config) + f' --trials={trials}' * (trials is not None)
  command = f'`python -m experiments table --table={name}{options}`'
  lines, complaints = gathered(name, config) if has_config(config) else ([], [])
  ran = [line for line in lines if line['n']]
  if not ran:
    return [f'- {one}\n' for one in complaints], [f'- Table {name}, {config}: not run: {command}']
  left = [f'- Table {name}, {config}: {len(lines) - len(ran)} of {len(lines)} rows not run: {command}']
  title = table.title if config == table.config else table.title.partition(',')[0]  # what follows is of its own data
  text = [f'## Table {name}, {config}\n', f'{title}. {command}\n', with_notes(ran, COLUMNS, complaints) + '\n']
  return text, left * (len(ran) < len(lines))


def _others() -> list[str]:
  """The runs in experiments/results/runs that no table above has."""
  tables = [planned_runs(name, config) for name, config in SHOWN if has_config(config)]
  known = {one.name for planned in tables for one in planned}
  files = [file for file in sorted((RESULTS / 'runs').glob('*.json')) if file.stem not in known]
  if not files:
    return []
  rows = []
  for file in files:
    found = read_json(file)
    rows.append((file.stem, percent([found['final_accuracy']]), hardware(found), short_commit(found)))
  return ['## Runs of no table above\n', markdown(('run', 'final accuracy %', 'on', 'commit'), rows) + '\n']


def _searches() -> list[str]:
  parts = []
  for file in sorted(RESULTS.glob('*_settings.json')):
    found, name = read_json(file), file.stem.removesuffix('_settings')
    parts.append(f'## How the settings for {name} were chosen\n')
    parts.append(f'`python -m experiments search --settings={name}`: {found["what"]}.\n')
    parts.append(search.render(found) + '\n')
  for file in sorted(RESULTS.glob('search_*.json')):
    found = read_json(file)
    read = found['read']
    parts.append(f'## Search, {found["data"]}\n\n{found["what"].capitalize()} (`{found["option"]}`).\n')
    parts.append(search.render(found) + '\n')
    parts.append(
      f'Images read: of the split {", ".join(read["splits"])}, classes {", ".join(map(str, read["classes"]))}.\n'
    )
  return parts


def readme(text: str) -> str:
  """The README with its blocks rendered anew. Raises UserError if it lacks one."""
  methods = ('method', 'replay', 'final accuracy %', 'Omega %', 'difference (pairs)', 's a run')
  ablations = ('method', 'final accuracy %', 'Omega %', 'difference (pairs)')
  blocks = {'methods': on_digits('methods', methods), 'ablations': on_digits('3', ablations)}
  for name, content in blocks.items():
    text = with_block(text, name, content)
  return text


def running(text: str) -> str:
  """docs/running.md with what steps and trials cost rendered anew. Raises UserError if it lacks a mark."""
  text = with_block(text, 'trials', several.render(read_json(RESULTS / 'trials_cpu.json')))
  return with_block(text, 'steps', steps_on_cpu())


def report(text: str) -> str:
  """docs/report.md with what frozen models told rendered anew. Raises UserError if it lacks a mark."""
  for config in DIAGNOSED:
    text = with_block(text, f'diagnosis_{config}', diagnosis.section(config))
  return text


def drilled(text: str) -> str:
  """docs/drill.md with both its tables rendered anew. Raises UserError if it lacks a mark."""
  text = with_block(text, 'drill', drill.render(read_json(RESULTS / 'drill.json')))
  return with_block(text, 'long', long.render(read_json(RESULTS / 'long.json')))


def compiled(text: str) -> str:
  """docs/compile.md with what compilers said rendered anew. Raises UserError if it lacks the mark."""
  return with_block(text, 'compiled', ahead.compared(RESULTS))


def with_block(text: str, name: str, content: str) -> str:
  """`text` with what stands between the marks of `name` exchanged."""
  opening, closing = f'<!-- {name}: python -m experiments page -->', f'<!-- end {name} -->'
  before, found, rest = text.partition(opening)
  _, end, after = rest.partition(closing)
  if not (found and end):
    raise UserError(f'a document lacks `{opening}` or `{closing}` behind it. Put the marks back.')
  return f'{before}{opening}\n{content}\n{closing}{after}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  del parser


def main(arguments: argparse.Namespace) -> None:
  del arguments
  texts = {PAGE: page(), README: readme(README.read_text()), RUNNING: running(RUNNING.read_text()), PICTURE: picture()}
  texts |= {REPORT: report(REPORT.read_text())} | {FIGURES / name: svg for name, svg in figures_of_models().items()}
  texts |= {COMPILED: compiled(COMPILED.read_text())}
  texts |= {DRILL: drilled(DRILL.read_text()), LONG: long.picture(read_json(RESULTS / 'long.json'))}
  for file, text in texts.items():
    write(file, text)
