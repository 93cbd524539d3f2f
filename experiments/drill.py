"""Does harm to small runs of digits in hundreds of ways, and counts what comes of it: python -m experiments drill

Kills and signals at random moments, flipped bits, files cut short, full disks, broken data sets, odd environments,
streams that nobody reads, two processes in one workdir. Each fault must be survived with every bit as without it, or
refused in one line with nothing lost. An hour on two CPU cores; stopped, the same command resumes. Exit code 2 if a
fault ended otherwise.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from abd_jax.devices.environment import environment
from abd_jax.errors import Paused, UserError
from abd_jax.report.tables import table
from abd_jax.run import queue
from abd_jax.run.queue import Job
from experiments import options
from experiments.faults import in_process
from experiments.files import RESULTS, read_json, write, write_json
from experiments.jobs import tell
from experiments.kills import in_processes
from experiments.lab import EQUAL, OUTCOMES, REFUSED, Case, Lab, compiled_once

WORDS = ('survived bit-equal', 'refused in one line', 'traceback', 'silently wrong', 'lost')  # for OUTCOMES


def cases(lab: Lab, few: bool) -> list[Case]:
  """All faults; few: one or two of each kind, those of this process and one kill."""
  return [*in_process(lab, few), *in_processes(lab, few)]


def job(case: Case, folder: Path) -> Job:
  """Tries a fault once; what came of it is kept in `folder`."""
  file = folder / f'{_slug(case)}.json'

  def run(max_seconds: float) -> dict:
    if file.exists():
      return read_json(file)
    if 0 < max_seconds <= 0.01:  # none is left
      raise Paused('paused (max_seconds) between two faults; the same command resumes')
    scratch = folder / f'{_slug(case)}.scratch'
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    verdict = case.try_it(scratch)
    found = {'kind': case.kind, 'name': case.name, 'outcome': verdict.outcome}
    found |= {'told': _plain(verdict.told, folder), 'commit': _commit()}
    write(file, json.dumps(found) + '\n')
    if verdict.outcome in (EQUAL, REFUSED):
      shutil.rmtree(scratch)
    else:
      tell(f'{case.kind}, {case.name}: {verdict.outcome}: {verdict.told}')
    return found

  return Job(_slug(case), run)


@cache
def _commit() -> str | None:
  """Of this checkout: a drill may be resumed by another one."""
  return environment()['commit']


def _slug(case: Case) -> str:
  return ''.join(letter if letter.isalnum() else '_' for letter in f'{case.kind}-{case.name}')


def _plain(words: str, folder: Path) -> str:
  """Without the paths of this machine."""
  for path in (str(folder.absolute().parent), str(Path.home()), str(Path.cwd())):
    words = words.replace(path, '...') if path != '/' else words
  return words


def render(found: dict) -> str:
  """The table: a row for each kind of fault, and their sum."""
  rows = {}
  for one in found['cases']:
    row = rows.setdefault(one['kind'], dict.fromkeys(OUTCOMES, 0))
    row[one['outcome']] += 1
  counts = [(kind, *row.values()) for kind, row in rows.items()]
  total = ('all', *(sum(column) for column in zip(*(row[1:] for row in counts), strict=True)))
  cells = [[str(row[0]), str(sum(row[1:])), *map(str, row[1:])] for row in (*counts, total)]
  left = found['planned'] - len(found['cases'])
  note = f'\n\n{left} of {found["planned"]} faults have not been tried yet.' if left else ''
  return table(('fault', 'injected', *WORDS), cells) + note


def drill(lab: Lab, chosen: Sequence[Case], max_seconds: float = 0.0) -> tuple[dict, Paused | None]:
  """(what the JSON file holds: all that has been tried by now, the pause if the time was up)."""
  folder = lab.root / 'cases'
  pause = queue.execute([job(case, folder) for case in chosen], max_seconds).pause
  files = [folder / f'{_slug(case)}.json' for case in chosen]
  tried = [read_json(file) for file in files if file.exists()]
  return {'schema_version': 1, 'planned': len(chosen), 'cases': tried} | environment(), pause


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'runs', 'quick', 'max_seconds', 'output')
  parser.set_defaults(runs=Path('runs/drill'), output=RESULTS / 'drill.json')


def main(arguments: argparse.Namespace) -> None:
  lab = Lab(arguments.runs)
  with compiled_once():
    found, pause = drill(lab, cases(lab, arguments.quick), arguments.max_seconds)
  if found['cases']:
    write_json(arguments.output, found)
    print(render(found))
  if pause:
    raise pause
  if bad := [one for one in found['cases'] if one['outcome'] not in (EQUAL, REFUSED)]:
    raise UserError(
      f'{len(bad)} faults ended otherwise, the first: {bad[0]["kind"]}, {bad[0]["name"]}: {bad[0]["told"]}'
    )
