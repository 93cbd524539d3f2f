"""The results of a table's runs, a JSONL file for each data set: reading them, and running what has none."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from abd_jax.config import Config, changed, default, flatten
from abd_jax.devices.backend import use_compilation_cache
from abd_jax.run import queue
from abd_jax.run.queue import Job
from abd_jax.run.workdir import FREE_FIELDS, fixed
from abd_jax.train import train_and_evaluate
from experiments import options
from experiments.plan import Planned
from experiments.store import add_run, read_runs

CACHE = 'compilation_cache'  # beside the workdirs that share it
SCHEMA = 1  # of a run's results, as this file reads and writes them
KEPT = (
  'schema_version', 'method', 'task_sizes', 'test_images', 'accuracy_matrix', 'seen_accuracy', 'final_accuracy',
  'average_accuracy', 'forgetting', 'backward_transfer', 'top5_accuracy_matrix', 'final_top5_accuracy',
  'class_accuracy', 'seconds', 'steps', 'seed', 'versions', 'device', 'commit', 'config',
)  # fmt: skip


def job(config: Config, workdir: Path) -> Job:
  """Does the run of `config`, or what is left of it, or only reads it if it is complete. Named after its workdir."""

  def run(max_seconds: float) -> dict:
    use_compilation_cache(str(workdir.parent / CACHE))
    # What collapses is a result too.
    return train_and_evaluate(changed(config, {'max_seconds': max_seconds, 'collapse': 'tell'}), str(workdir))

  return Job(workdir.name, run)


def tell(line: str) -> None:
  """Prints a line about a run as it happens."""
  print(line, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The options of every verb whose runs land in --results."""
  words = ('config', 'data_dir', 'trials', 'variant', 'max_seconds', 'max_runs', 'at_once', 'runs', 'results', 'output')
  options.add(parser, *words)


def stored(planned: Sequence[Planned], results: Path) -> dict[str, dict]:
  """Name -> results of every run in the files that these belong to."""
  files = sorted({one.file for one in planned})
  return {name: content for file in files for name, content in read_runs(results / file).items()}


def gather(planned: Sequence[Planned], results: Path) -> tuple[dict[str, dict], list[str]]:
  """(name -> results of a run, complaints about runs that cannot be used)."""
  known, usable, complaints = stored(planned, results), {}, {}
  for one in planned:
    if one.name in known:
      if complaint := unusable(one, known[one.name]):
        complaints[one.name] = f'{one.name} {complaint}; delete its line in {one.file} and run it again'
      else:
        usable[one.name] = known[one.name]
  return usable, list(complaints.values())


def unusable(planned: Planned, found: dict) -> str:
  """Why a run's results do not stand for what is planned now, or ''."""
  if (version := found.get('schema_version')) != SCHEMA:
    return f'has schema {version}, expected {SCHEMA}'
  # A field that the results lack was added later and counts as its default.
  asked, ran = fixed(planned.load({}).to_dict()), fixed(flatten(default().to_dict()) | found['config'])
  names = [name for name in sorted(asked) if ran.get(name) != asked[name]]
  return f'ran with config.{names[0]}={ran.get(names[0])!r}, expected {asked[names[0]]!r}' if names else ''


def fields_of(config: Config) -> dict:
  """Dotted field -> value as JSON has it, of the fields that say what is computed and not where."""
  flat = flatten(json.loads(json.dumps(config.to_dict())))
  return {name: value for name, value in flat.items() if name not in FREE_FIELDS}


def missing(planned: Sequence[Planned], results: Path) -> list[Planned]:
  """Those without results, each run once."""
  known = stored(planned, results)
  return list({one.name: one for one in planned if one.name not in known}.values())


def tell_missing(planned: Sequence[Planned], results: Path) -> None:
  if left := len(missing(planned, results)):
    tell(f'{left} of {len({one.name for one in planned})} runs are missing; the same command resumes')


def jobs(planned: Sequence[Planned], arguments: argparse.Namespace) -> list[Job]:
  """A job for each run without results; it does the run, or what is left of it, and keeps the results."""
  return [_job(one, arguments) for one in missing(planned, arguments.results)]


def _job(planned: Planned, arguments: argparse.Namespace) -> Job:
  file = arguments.results / planned.file

  def run(max_seconds: float) -> dict:
    known = read_runs(file)
    if planned.name in known:  # another process was faster
      return known[planned.name]
    oracles = str((arguments.runs / 'oracles').absolute())
    config = planned.load({'data.dir': arguments.data_dir, 'oracle_dir': oracles})
    found = job(config, arguments.runs / planned.name).run(max_seconds)
    kept = {key: found[key] for key in KEPT} | {'command': planned.command, 'config': fields_of(config)}
    add_run(file, planned.name, kept)
    tell(f'{planned.name}: final accuracy {100 * found["final_accuracy"]:.1f} %')
    return kept

  return Job(planned.name, run)


def execute(planned: Sequence[Planned], arguments: argparse.Namespace) -> queue.Outcome:
  """Runs what has no results yet, within --max_runs and --max_seconds; skips what another process runs."""
  left, count = missing(planned, arguments.results), len({one.name for one in planned})
  if have := count - len(left):
    tell(f'{have} of {count} runs have results in {arguments.results}; --results=FOLDER runs all again')
  waiting = left[: arguments.max_runs]
  places = queue.accelerators() if arguments.at_once != 1 and len(waiting) > 1 else []
  if (at_once := min(arguments.at_once or len(places), len(waiting))) > 1:
    words = ['-m', 'experiments', *arguments.words, '--at_once=1']
    codes = queue.run_copies(words, queue.shares(at_once, places), tell)
    failed = {f'process {k}': f'exit code {code}; its message stands above' for k, code in enumerate(codes) if code}
    return queue.Outcome(failed=failed)
  return in_turn(jobs(planned, arguments), arguments)


def in_turn(jobs: list[Job], arguments: argparse.Namespace) -> queue.Outcome:
  """Runs jobs one after another, within --max_runs and --max_seconds; tells of a pause."""
  outcome = queue.execute(jobs, arguments.max_seconds, arguments.max_runs, tell)
  if outcome.pause:
    tell(str(outcome.pause))
  return outcome
