"""Measurements of frozen models for Figures 2, B and C and the probe: one JSONL file a config; it outlives workdirs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from abd_jax.analysis.diagnose import diagnose
from abd_jax.report import figures
from abd_jax.report.runs import Group, RunRecord
from abd_jax.report.tables import mean_std as percent
from abd_jax.report.tables import table as markdown
from abd_jax.run.queue import Job
from experiments import runs
from experiments.paper import MEASURED_METHODS, PAPER_RATIOS, TABLES
from experiments.plan import Planned, by_cell, plan
from experiments.runs import job, tell
from experiments.store import RESULTS, add_run, read_runs
from experiments.summary import mean_std, plus_minus

TABLE = 'methods'  # the table whose runs are measured
Numbers = tuple[tuple[str, ...], list[tuple[str, ...]]]  # the header and the rows of a table
MEASURED = ('task_sizes', 'distances', 'cka', 'probe')  # of diagnosis.json
OF_DREAMS = ('task', 'agreement', 'chance', 'judge_accuracy', 'confidence', 'diversity', 'suspicious')


def file_of(config: str, results: Path = RESULTS) -> Path:
  return results / f'diagnosis_{config}.jsonl'


def looked_at(planned: Sequence[Planned]) -> list[Planned]:
  """The runs of MEASURED_METHODS among those of a table, without variants, trial by trial."""
  chosen = [one for one in planned if one.row.method in MEASURED_METHODS and not one.row.overrides]
  return sorted(chosen, key=lambda one: (one.trial, MEASURED_METHODS.index(one.row.method)))


def gather(planned: Sequence[Planned], file: Path) -> dict[str, dict]:
  """Name -> what was measured, of the runs that ran as they are configured now."""
  kept = read_runs(file)
  return {one.name: kept[one.name] for one in planned if one.name in kept and not runs.unusable(one, kept[one.name])}


def missing(planned: Sequence[Planned], file: Path) -> list[Planned]:
  """Those that are not measured yet."""
  known = gather(planned, file)
  return [one for one in planned if one.name not in known]


def measuring(planned: Planned, file: Path, arguments: argparse.Namespace) -> Job:
  """Does the run, or what is left of it, measures its models, and keeps the numbers."""

  def run(max_seconds: float) -> dict:
    config, workdir = planned.load({'data.dir': arguments.data_dir}), arguments.runs / planned.name
    results = job(config, workdir).run(max_seconds)
    found, _ = diagnose(workdir, arguments.data_dir, tell)
    kept = {'schema_version': runs.SCHEMA}
    kept |= {key: results[key] for key in ('final_accuracy', 'versions', 'device', 'commit')}
    kept |= {'command': planned.command, 'config': runs.fields_of(config)}
    kept['diagnosis'] = {key: found[key] for key in MEASURED} | {
      'dreams': [{key: one[key] for key in OF_DREAMS} for one in found['dreams']],
      'plane': None if planned.trial else found['plane'],  # Figure C shows trial 0
    }
    add_run(file, planned.name, kept)
    return kept

  return Job(planned.name, run)


def measured(config: str) -> tuple[list[Planned], dict[str, dict]]:
  """(the runs that figures of a config show, what has been measured of them)."""
  table = TABLES[TABLE]
  planned = looked_at(plan(table, config, table.trials))
  return planned, gather(planned, file_of(config))


def groups(planned: Sequence[Planned], found: dict[str, dict]) -> list[Group]:
  """The trials of each method that have been measured, under the name of its row."""
  known = [(cell.row, trials) for cell, trials in by_cell(list(planned), found).items() if trials]
  record = lambda method, trial, kept: RunRecord(
    method, kept['config'] | {'method': method, 'trial': trial}, diagnosis=kept['diagnosis']
  )
  return [
    Group(row.name, [record(row.method, *one) for one in trials.items()], k) for k, (row, trials) in enumerate(known)
  ]


def dreaming(of: Sequence[Group]) -> list[Group]:
  """Those that Figures 2 and B can show: with dreamed images to measure."""
  return [group for group in of if figures.distance_ratios(group)[0][0] is not None]


def planes(of: Sequence[Group]) -> dict[str, str]:
  """Method -> Figure C of it, for those whose trial 0 has been measured."""
  firsts = [(run.config['method'], run) for group in of for run in group.runs if run.config['trial'] == 0]
  return {method: figures.plane(run) for method, run in firsts}


def distances(of: Sequence[Group], distance: str) -> Numbers:
  """What Figures 2 ('mid') and B ('mmd2') show: from old images, after the second task."""
  rows = []
  for group in of:
    values = [figures.final_layer(one['distances'][0])[distance] for one in group.diagnoses]
    by_kind = [[one[kind] for one in values] for kind in ('dreamed', 'new')]
    ratio = [row[0] for row in figures.distance_ratios(group, distance)]
    rows.append((group.name, *map(_mean, by_kind), _mean(ratio), PAPER_RATIOS.get(group.name, '-')))
  return ('method', 'to dreamed old classes', 'to real new classes', 'ratio', "paper's ratio"), rows


def ratios(of: Sequence[Group], distance: str) -> Numbers:
  """(header, rows) of distance(old, dreamed) / distance(old, new) after each task, 'mid' or 'mmd2'."""
  rows, tasks = [], 0
  for group in dreaming(of):
    trials = figures.distance_ratios(group, distance)
    values = [value for trial in trials for value in trial if value is not None]
    below = f'{sum(value < 1 for value in values)} of {len(values)}'
    rows.append((group.name, *map(_mean, zip(*trials, strict=True)), below, PAPER_RATIOS.get(group.name, '-')))
    tasks = len(trials[0])
  return ('method', *(f'after task {k + 2}' for k in range(tasks)), 'below 1', "paper's, after task 2"), rows


def _mean(values: Sequence[float | None]) -> str:
  """'0.42 ± 0.03' over trials."""
  return plus_minus(*mean_std(values), form='.2f')


def probes(of: Sequence[Group]) -> Numbers:
  """The head of each method beside a linear probe on its features, percent."""
  rows = []
  for group in of:
    read = lambda kind, group=group: [one['probe'][kind]['all'] for one in group.diagnoses]
    gap = [100 * (probe - head) for probe, head in zip(read('probe'), read('head'), strict=True)]
    alignment = [figures.final_layer(one['cka'][-1]) for one in group.diagnoses]
    rows.append(
      (group.name, percent(read('head')), percent(read('probe')), plus_minus(*mean_std(gap), '+'), _mean(alignment))
    )
  return ('method', 'its own head, %', 'a linear probe, %', 'probe - head', 'CKA, last task'), rows


def agreements(of: Sequence[Group]) -> Numbers:
  """How often the independent classifier sees in a dream what the teacher sees, by task, percent."""
  rows, chance = [], []
  for group in dreaming(of):
    by_task = zip(*([entry['agreement'] for entry in one['dreams']] for one in group.diagnoses), strict=True)
    rows.append((group.name, *map(percent, by_task)))
    chance = [percent([entry['chance']]) for entry in group.diagnoses[0]['dreams']]
  return ('method', *(f'after task {k + 1}' for k in range(len(chance)))), [*rows, ('chance', *chance)]


def section(config: str) -> str:
  """The tables of a config's measurements: MID and MMD^2, probe and head, agreement of dreams."""
  of = groups(*measured(config))
  parts = [
    ('MID(old, dreamed) / MID(old, new), of the features that the head sees', ratios(of, 'mid')),
    ('The same of MMD²', ratios(of, 'mmd2')),
    ('Accuracy on all classes at the end; alignment of old features before and after the last task', probes(of)),
    ('Agreement of an independent classifier with the teacher on its dreams, %', agreements(of)),
  ]
  return '\n\n'.join(f'{title}:\n\n{markdown(*table)}' for title, table in parts)
