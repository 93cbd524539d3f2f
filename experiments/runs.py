"""The files of results of a table's runs: reading them, and running what has none.

Each is named by what ran, so results of several hosts merge by copying files.
"""

import argparse
import json
from pathlib import Path

from abd_jax.config import Config, changed, default, flatten, reads
from abd_jax.errors import UserError
from abd_jax.run import queue
from abd_jax.run import queue as processes
from abd_jax.run.queue import Environment, Job, Run
from abd_jax.run.workdir import FREE_FIELDS
from experiments import options
from experiments.files import read_json, write
from experiments.jobs import CACHE, job, tell
from experiments.plan import Planned

SCHEMA = 1  # of results.json, as this file reads it
KEPT = (
  'schema_version', 'method', 'task_sizes', 'test_images', 'accuracy_matrix', 'seen_accuracy', 'final_accuracy',
  'average_accuracy', 'forgetting', 'backward_transfer', 'top5_accuracy_matrix', 'final_top5_accuracy',
  'class_accuracy', 'seconds', 'steps', 'seed', 'versions', 'device', 'commit', 'config',
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The options of every verb whose runs land in --results."""
  words = ('config', 'data_dir', 'trials', 'quick', 'max_seconds', 'max_runs', 'at_once', 'runs', 'results', 'output')
  options.add(parser, *words)


def read(planned: Planned, results: Path) -> tuple[dict | None, str]:
  """(what a run found, '') or (None, why there is nothing to use)."""
  file = file_of(planned, results)
  if not file.exists():
    return None, ''
  try:
    found = read_json(file)
    version = found['schema_version']
  except (UserError, KeyError, TypeError):
    return None, f'{file.name} is damaged: delete it and run again.'
  if version != SCHEMA:
    return None, f'{file.name} is of schema {version}, this reads {SCHEMA}: delete it and run again.'
  if missing := set(KEPT) - set(found):
    return None, f'{file.name} lacks {min(missing)}: delete it and run again.'
  if differs := differing(planned, found['config']):
    return None, f'{file.name} ran with config.{differs}: delete it and run again.'
  return found, ''


def differing(planned: Planned, config: dict) -> str:
  """'<field>=<value>, now <value>', of a field in which `config`, that of a run, is not what is planned now; or ''."""
  # A field it does not name came later, and counts as its default.
  asked, ran = fields_of(planned.load({})), fields_of(default()) | config
  names = [name for name in sorted(asked) if ran[name] != asked[name] and reads(planned.row.method, name)]
  return f'{names[0]}={ran[names[0]]!r}, now {asked[names[0]]!r}' if names else ''


def fields_of(config: Config) -> dict:
  """Dotted field -> value, as JSON has it, of those that say what is computed rather than where."""
  flat = flatten(json.loads(json.dumps(config.to_dict())))
  return {name: value for name, value in flat.items() if name not in FREE_FIELDS}


def gather(planned: list[Planned], results: Path) -> tuple[dict[str, dict], list[str]]:
  """(name -> what a run found, complaints about files that cannot be used or are missing).

  A row none of whose runs is there is no complaint: it is shown as not run.
  """
  found, complaints = {}, {}  # rows may share a run: each file is read, and complained about, once
  for one in {one.name: one for one in planned}.values():
    result, complaint = read(one, results)
    if result:
      found[one.name] = result
    if complaint:
      complaints[one.name] = complaint
  begun = {(one.row, one.tasks) for one in planned if one.name in found}
  for one in planned:
    if (one.row, one.tasks) in begun and not (file := file_of(one, results)).exists():
      complaints.setdefault(one.name, f'{file.name} is missing: run it.')
  return found, list(complaints.values())


def missing(planned: list[Planned], results: Path) -> list[Planned]:
  """Those without a file of results, each run once."""
  return list({one.name: one for one in planned if not file_of(one, results).exists()}.values())


def tell_missing(planned: list[Planned], results: Path) -> None:
  if left := len(missing(planned, results)):
    tell(f'{left} of {len({one.name for one in planned})} runs are missing; the same command resumes.')


def file_of(planned: Planned, results: Path) -> Path:
  return results / f'{planned.name}.json'


def jobs(planned: list[Planned], arguments: argparse.Namespace) -> list[Job]:
  """Does what has no result yet, or what is left of it; each leaves its file of results."""
  return [_job(one, arguments) for one in missing(planned, arguments.results)]


def _job(planned: Planned, arguments: argparse.Namespace) -> Job:
  file = file_of(planned, arguments.results)

  def run(max_seconds: float) -> dict:
    if file.exists():  # another process was faster
      return read_json(file)
    config = _config(planned, arguments)
    found = job(config, arguments.runs / planned.name).run(max_seconds)
    kept = {key: found[key] for key in KEPT} | {'command': planned.command, 'config': fields_of(config)}
    write(file, json.dumps(kept) + '\n')
    tell(f'{planned.name}: final accuracy {100 * found["final_accuracy"]:.1f} %')
    return kept

  return Job(planned.name, run)


def _config(planned: Planned, arguments: argparse.Namespace) -> Config:
  """A run's config, with the places of this machine."""
  return planned.load({'data.dir': arguments.data_dir, 'oracle_dir': str((arguments.runs / 'oracles').absolute())})


def execute(planned: list[Planned], arguments: argparse.Namespace) -> queue.Outcome:
  """Runs what has no result yet, as far as the command line allows; what another process runs is left to it."""
  left, all_of_them = missing(planned, arguments.results), {one.name for one in planned}
  if have := len(all_of_them) - len(left):
    tell(f'{have} of {len(all_of_them)} runs have results in {arguments.results}; --results=FOLDER makes all anew')
  waiting = left[: arguments.max_runs]
  places = processes.accelerators() if arguments.at_once != 1 and len(waiting) > 1 else []
  if (at_once := min(arguments.at_once or len(places), len(waiting))) > 1:
    environments = processes.shares(at_once, places, (arguments.runs / CACHE).absolute())
    return _execute_at_once(waiting, environments, arguments)
  outcome = queue.execute(jobs(planned, arguments), arguments.max_seconds, arguments.max_runs, tell)
  if outcome.pause:
    tell(str(outcome.pause))
  return outcome


def _execute_at_once(
  waiting: list[Planned], environments: list[Environment], arguments: argparse.Namespace
) -> queue.Outcome:
  """In processes, of which each says itself why it fails."""
  tells = {'collapse': 'tell'}  # as in jobs.job
  folder = arguments.runs.absolute()
  own = [Run(one.name, changed(_config(one, arguments), tells), folder / one.name) for one in waiting]
  codes = processes.run_all(own, environments, tell, arguments.max_seconds)
  complete = {run.name for run in own if (run.workdir / 'results.json').is_file()}
  outcome = queue.execute([_job(one, arguments) for one in waiting if one.name in complete])  # only read now
  for name, code in codes.items():
    if code:
      outcome.failed[name] = f'it ended with exit code {code}; what it said stands above.'
  return outcome
