"""python -m experiments.page: writes experiments/README.md and the README's tables from experiments/results/.

Every number in them is read from a file that a run wrote. A test compares the pages with what this renders.
"""

import json
from pathlib import Path

from abd_jax.report.tables import table as markdown
from abd_jax.run.workdir import write_atomically
from experiments import benchmark, digits, runs, search, tables
from experiments.common import RESULTS, ROOT
from experiments.paper import TABLES

README, PAGE = ROOT / 'README.md', ROOT / 'experiments' / 'README.md'
# Tables 1, 2 and 4 are parts of A, B and E.
SHOWN = (
  ('methods', 'digits'),
  ('3', 'digits'),
  *((name, TABLES[name].config) for name in ('A', 'B', '3', 'C', 'D', 'E')),
)
INTRODUCTION = """# What reproduces

Written by `python -m experiments.page` from the files in `experiments/results/`; every number was measured by a run
that left one. The paper's numbers are the paper's. Accuracy is on all classes after the last task, Omega the mean over
tasks of the accuracy as a share of an upper bound's there; both percent, mean ± population standard deviation over n
trials. Times are wall clock for one run, compilation included.
"""


def gathered(name: str, data: str) -> tuple[list[dict], list[str]]:
  """(the lines of a table, complaints) as its results stand."""
  table = TABLES[name]
  planned = runs.plan(table, data, table.trials)
  found, complaints = runs.gather(planned, RESULTS / 'runs')
  return tables.summarise(table, data, planned, found), complaints


def on_digits(name: str) -> str:
  """A table of the README."""
  lines, _ = gathered(name, 'digits')
  rows = [
    (
      line['method'],
      line['replay'],
      tables.cell(line['accuracy'], line['accuracy_std']),
      tables.cell(line['omega'], line['omega_std']),
      f'{line["seconds"]:.0f}',
    )
    for line in lines
    if line['n']
  ]
  return markdown(('', 'replay', 'final accuracy %', 'Omega %', 'seconds a run'), rows)


def steps_on_cpu() -> str:
  """The README's table of what steps cost."""
  return benchmark.render(json.loads((RESULTS / 'benchmark_cpu.json').read_text()))


def page() -> str:
  """experiments/README.md."""
  parts = [INTRODUCTION]
  for name, data in SHOWN:
    table = TABLES[name]
    title = f'Table {name}' if name != 'methods' else 'All methods'
    lines, complaints = gathered(name, data)
    parts.append(f'## {title}, {data}\n\n{table.title}. `python -m experiments.tables --table={name} --data={data}`\n')
    header = ('method', 'tasks', 'n', 'A_N %', 'Omega %', 'paper', 'deviation', 's a run', 'on', 'commit', 'a run')
    rows = [
      (
        line['method'],
        str(line['tasks']),
        str(line['n']) if line['n'] else 'not run',
        tables.cell(line['accuracy'], line['accuracy_std']),
        tables.cell(line['omega'], line['omega_std']),
        tables.cell(line['paper_accuracy'], line['paper_accuracy_std']),
        '-' if line['deviation'] is None else f'{line["deviation"]:+.1f}',
        '-' if line['seconds'] is None else f'{line["seconds"]:.0f}',
        ', '.join(line['devices']) or '-',
        ', '.join(line['commits']) or '-',
        f'`{line["command"]}`',
      )
      for line in lines
    ]
    parts.append(markdown(header, rows) + '\n')
    parts += [f'- {complaint}\n' for complaint in complaints]
  settings = json.loads((RESULTS / 'digits_settings.json').read_text())
  parts.append(f'## How the settings for digits were chosen\n\n`python -m experiments.digits`: {settings["what"]}.\n')
  parts.append(digits.render(settings) + '\n')
  for file in sorted(RESULTS.glob('search_*.json')):
    found = json.loads(file.read_text())
    parts.append(f'## Search, {found["data"]}\n\n{found["what"].capitalize()} (`{found["option"]}`).\n')
    parts.append(search.render(found) + '\n')
    read = found['read']
    parts.append(
      f'Images read: of the split {", ".join(read["splits"])}, classes {", ".join(map(str, read["classes"]))}.\n'
    )
  return '\n'.join(parts)


def with_block(text: str, name: str, content: str) -> str:
  """`text` with what stands between the marks of `name` exchanged."""
  marks = f'<!-- {name}: python -m experiments.page -->', f'<!-- end {name} -->'
  before, found, rest = text.partition(marks[0])
  assert found, name
  return f'{before}{marks[0]}\n{content}\n{marks[1]}{rest.partition(marks[1])[2]}'


def readme(text: str) -> str:
  blocks = {'methods': on_digits('methods'), 'ablations': on_digits('3'), 'steps': steps_on_cpu()}
  for name, content in blocks.items():
    text = with_block(text, name, content)
  return text


if __name__ == '__main__':
  write_atomically(Path(PAGE), page())
  write_atomically(README, readme(README.read_text()))
