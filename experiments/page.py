"""Writes experiments/README.md, and tables and pictures of documents: python -m experiments page

Every number comes from a file in experiments/results/ that a run wrote. A test renders the documents again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from abd_jax import methods
from abd_jax.config import READERS, load_config
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.report import charts, figures
from abd_jax.report.runs import Group, RunRecord
from abd_jax.report.tables import table as markdown
from experiments import ahead, diagnosis, hardware, pytorch, runs, search
from experiments.paper import TABLES
from experiments.picture import GROUPS, Bar, results_svg
from experiments.plan import Planned, by_cell, plan
from experiments.store import RESULTS, ROOT, write
from experiments.summary import as_markdown, summarise, with_notes

PAGE, FIGURES = ROOT / 'experiments/README.md', ROOT / 'docs/images'
# Tables 1, 2 and 4 are parts of A, B and E.
SHOWN = (
  ('methods', 'digits'),
  ('3', 'digits'),
  ('orders', 'digits'),
  ('small', 'cifar100_small'),
  ('small_bfloat16', 'cifar100_small'),
  ('pretrained', 'cifar100_small'),
  ('pretrained_abd', 'cifar100_small'),
  ('3', 'cifar100_small'),
  ('C', 'tiny_imagenet_small'),
  ('whole', 'cifar100'),
  *((name, TABLES[name].config) for name in ('A', 'B', '3', 'orders', 'C', 'D', 'E')),
)
# Trials shown, where more have run than a table asks for, and the options of the config with which it ran.
TRIALS = dict.fromkeys((('methods', 'digits'), ('3', 'digits')), 10)
VARIANTS = {('whole', 'cifar100'): 'short=16'}
DIAGNOSED = ('digits', 'cifar100_small')  # whose frozen models are shown, here and in docs/report.md
COMPILED = ('h100', 'h100x8', 'v5e_1x1', 'v5e_2x4', 'v6e_4x4')  # topologies that docs/compile.md shows
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


STEPS = 'Steps of CIFAR-100 on two CPU cores, batch 128. `python -m experiments hardware`'


def planned_runs(name: str, config: str) -> list[Planned]:
  """The runs of a table, as many trials of each as are shown."""
  table = TABLES[name]
  return plan(table, config, TRIALS.get((name, config), table.trials), VARIANTS.get((name, config), ''))


def gathered(name: str, config: str) -> tuple[list[dict], list[str]]:
  """(the lines of a table, complaints about its results)."""
  planned = planned_runs(name, config)
  found, complaints = runs.gather(planned, RESULTS)
  return summarise(TABLES[name], config, planned, found), complaints


def on_digits(name: str, columns: tuple[str, ...]) -> str:
  """A table of the README, without variants of methods."""
  lines, _ = gathered(name, 'digits')
  return as_markdown([line for line in lines if line['n'] and ' --config.' not in line['command']], columns)


def whole_picture() -> str:
  """Accuracy after each task of CIFAR-100, a line for each method of that table."""
  planned, of = planned_runs('whole', 'cifar100'), []
  for one, trials in by_cell(planned, runs.gather(planned, RESULTS)[0]).items():
    if trials:
      of.append(Group(one.row.name, [RunRecord('', {}, results) for results in trials.values()], len(of)))
  return charts.standalone(figures.accuracy_curves(of))


def picture() -> str:
  """The README's picture: every method on digits, variants apart."""
  planned = planned_runs('methods', 'digits')
  found, _ = runs.gather(planned, RESULTS)
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


def page() -> str:
  """experiments/README.md."""
  parts, not_run = [INTRODUCTION], []
  for name, config in SHOWN:
    section, left = _table(name, config)
    parts += section
    not_run += left
  parts += [f'## Frozen models of {name}\n\n{diagnosis.section(name)}\n' for name in DIAGNOSED]
  steps = hardware.render(read_json(RESULTS / 'hardware_cpu.json'))
  parts += ['## What steps cost\n', f'{STEPS}\n\n{steps}\n', *_searches()]
  return '\n'.join([*parts, '## Not run\n', *not_run]) + '\n'


def _table(name: str, config: str) -> tuple[list[str], list[str]]:
  """(the section of a table with the rows that have run, a line about rows that have not)."""
  table = TABLES[name]
  trials, variant = TRIALS.get((name, config)), VARIANTS.get((name, config))
  options = f' --config={config}' * (config != table.config) + f' --trials={trials}' * (trials is not None)
  options += f' --variant={variant}' * (variant is not None)
  command = f'`python -m experiments table --table={name}{options}`'
  lines, complaints = gathered(name, config)
  ran = [line for line in lines if line['n']]
  if not ran:
    return [f'- {one}\n' for one in complaints], [f'- Table {name}, {config}: not run: {command}']
  left = [f'- Table {name}, {config}: {len(lines) - len(ran)} of {len(lines)} rows not run: {command}']
  title = table.title if config == table.config else table.title.partition(',')[0]  # what follows is of its own data
  text = [f'## Table {name}, {config}\n', f'{title}. {command}\n', with_notes(ran, COLUMNS, complaints) + '\n']
  return text, left * (len(ran) < len(lines))


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


def blocks() -> dict[str, dict[str, Callable[[], str]]]:
  """Document -> name of a block in it -> what renders the block."""
  columns = ('method', 'replay', 'final accuracy %', 'Omega %', 'difference (pairs)')
  of_whole = ('method', 'replay', 'n', 'final accuracy %', 'paper', 's a run', 'on', 'commit')
  ran = [line for line in gathered('whole', 'cifar100')[0] if line['n']]
  stored = lambda name: read_json(RESULTS / f'{name}.json')
  return {
    'README.md': {'methods': lambda: on_digits('methods', columns), 'whole': lambda: as_markdown(ran, of_whole)},
    'docs/running.md': {'pytorch': lambda: pytorch.render(stored('torch_cpu'))},
    'docs/methods.md': {'table': methods_table},
    'docs/compile.md': {'compiled': lambda: ahead.render([stored(f'hardware_{name}') for name in COMPILED])},
  }


def methods_table() -> str:
  """Every method: the first line of its file, what it keeps of old classes, and the groups of fields that it reads."""
  rows = []
  for name in methods.available():
    method = methods.get(load_config(f'cifar100:method={name}'))
    kept = {
      'everything': method.offline,
      'images': method.memory,
      'a generator': method.inverts,
      'a generator of its own': any(phase.dreamer for phase in method.later),
      'nothing': True,
    }
    what = next(what for what, yes in kept.items() if yes)
    if method.end_task:
      what = f'{what}, class statistics'.removeprefix('nothing, ')
    about = (methods.module(name).__doc__ or '').splitlines()[0].rstrip('.')
    groups = [f'`{group}`' for group, names in READERS.items() if name in names]
    rows.append([f'`{name}`', about, what, ', '.join(groups)])
  return markdown(('method', 'what it is', 'keeps of old classes', 'groups of fields'), rows)


def with_block(text: str, name: str, content: str) -> str:
  """`text` with new content between the marks of `name`. Raises UserError if it lacks a mark."""
  opening, closing = f'<!-- {name}: python -m experiments page -->', f'<!-- end {name} -->'
  before, found, rest = text.partition(opening)
  _, end, after = rest.partition(closing)
  if not (found and end):
    raise UserError(f'expected `{opening}` and `{closing}` in a document; put the marks back')
  return f'{before}{opening}\n{content}\n{closing}{after}'


def rendered() -> dict[Path, str]:
  """Every file that this verb writes -> its content."""
  files = {PAGE: page(), FIGURES / 'results.svg': picture(), FIGURES / 'whole.svg': whole_picture()}
  files |= {FIGURES / name: svg for name, svg in figures_of_models().items()}
  for document, renderers in blocks().items():
    text = (ROOT / document).read_text()
    for name, render in renderers.items():
      text = with_block(text, name, render())
    files[ROOT / document] = text
  return files


def main(_: argparse.Namespace) -> None:
  for file, text in rendered().items():
    write(file, text)
