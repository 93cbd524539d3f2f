"""The figures of a report, from runs: those of the paper (2, B, C, D) and what else its argument rests on."""

from collections.abc import Callable, Sequence
from typing import Any

from abd_jax.report import charts
from abd_jax.report.charts import Series
from abd_jax.report.runs import Group, RunRecord

DREAMED, NEW = 'dreamed old classes', 'real new classes'
KINDS = {'dreamed': (DREAMED, 0), 'new': (NEW, 1)}
LABELS = {'mid': 'MID to real old classes', 'mmd2': 'MMD² to real old classes'}


def accuracy_curves(groups: Sequence[Group]) -> str:
  """Accuracy over all classes seen, after each task; none where a run could not test them."""
  series = [Series(group.name, [list(map(_percent, run.seen)) for run in group.runs], group.look) for group in groups]
  ticks = [str(k + 1) for k in range(max(len(run.seen) for group in groups for run in group.runs))]
  return charts.curves(series, ticks, 'tasks learnt', 'accuracy, all classes seen', 'Accuracy', '%', 100)


def _percent(value: float | None) -> float | None:
  return None if value is None else 100 * value


def final_layer(entry: dict[str, Any]) -> Any:
  """What a task's entry of `distances` or `cka` says of the features that the head sees."""
  return list(entry['layers'].values())[-1]


def layer_names(run: RunRecord) -> list[str]:
  assert run.diagnosis
  return list(run.diagnosis['distances'][0]['layers'])


def measured(group: Group) -> list[dict[str, Any]]:
  """The diagnoses that there are."""
  return [run.diagnosis for run in group.runs if run.diagnosis]


def beside(
  groups: Sequence[Group], names: dict[str, tuple[str, int]], value: Callable[[dict, str], Any]
) -> list[Series]:
  """Series for `bars` over groups: for each kind, a row of each group's value in each trial."""
  most = max(len(measured(group)) for group in groups)
  at = lambda group, trial, kind: value(measured(group)[trial], kind) if trial < len(measured(group)) else None
  return [
    Series(name, [[at(group, trial, kind) for group in groups] for trial in range(most)], look)
    for kind, (name, look) in names.items()
  ]


def distance_bars(groups: Sequence[Group], distance: str, task: int = 1) -> str:
  """Figures 2 ('mid') and B ('mmd2'): how far dreamed old and real new classes lie from real old ones.

  task: 0-based, the one just learnt; 1 in the paper. Groups need a diagnosis of a run with that task.
  """

  def value(diagnosis: dict, kind: str) -> float | None:
    entry = next((one for one in diagnosis['distances'] if one['task'] == task), None)
    return final_layer(entry)[distance][kind] if entry else None

  title = f'{LABELS[distance]}, after task {task + 1}'
  return charts.bars(beside(groups, KINDS, value), [group.name for group in groups], '', LABELS[distance], title)


def distance_ratios(group: Group, distance: str = 'mid') -> list[list[float | None]]:
  """For each trial, after each task from the second on: distance(old, dreamed) / distance(old, new)."""
  found = []
  for diagnosis in measured(group):
    values = [final_layer(entry)[distance] for entry in diagnosis['distances']]
    found.append([one['dreamed'] / one['new'] if one['dreamed'] is not None and one['new'] else None for one in values])
  return found


def ratio_curves(groups: Sequence[Group]) -> str:
  """Those of MID over the tasks, with the line at 1."""
  series = [Series(group.name, distance_ratios(group), group.look) for group in groups]
  tasks = max(len(row) for one in series for row in one.trials)
  line = Series('equally far', [[1.0] * tasks], charts.GREY)
  ticks = [str(k + 2) for k in range(tasks)]
  return charts.curves([*series, line], ticks, 'tasks learnt', 'MID dreamed / MID new', 'MID ratio')


def layer_curves(group: Group, distance: str) -> str:
  """A distance layer by layer, mean over tasks; a trial each."""
  series = []
  for kind, (name, look) in KINDS.items():
    trials = [
      [_mean([entry['layers'][layer][distance][kind] for entry in one['distances']]) for layer in layer_names(run)]
      for run in group.runs
      if (one := run.diagnosis) and one['distances']
    ]
    if any(value is not None for trial in trials for value in trial):
      series.append(Series(name, trials, look))
  layers = layer_names(next(run for run in group.runs if run.diagnosis and run.diagnosis['distances']))
  return charts.curves(series, layers, '', LABELS[distance], f'{group.name}: {LABELS[distance]} by layer')


def _mean(values: Sequence[float | None]) -> float | None:
  there = [value for value in values if value is not None]
  return sum(there) / len(there) if there else None


def alignment_curves(groups: Sequence[Group]) -> str:
  """CKA of old classes' features before and after each task."""
  series = [
    Series(group.name, [[final_layer(entry) for entry in one['cka']] for one in measured(group)], group.look)
    for group in groups
  ]
  ticks = [str(k + 2) for k in range(max(len(row) for one in series for row in one.trials))]
  title = 'CKA of old classes before and after the task'
  return charts.curves(series, ticks, 'task', title, title, top=1.0)


def probe_bars(groups: Sequence[Group]) -> str:
  """Accuracy of each method's own head, and of a probe trained on all the data."""
  names = {'head': ("the run's own head", 0), 'probe': ('a linear probe on its features', 4)}
  series = beside(groups, names, lambda diagnosis, kind: _percent(diagnosis['probe'][kind]['all']))
  return charts.bars(series, [group.name for group in groups], '', 'accuracy, all classes', 'Probe and head', '%')


def agreement_curves(groups: Sequence[Group]) -> str:
  """How often an independent classifier sees in a dream what the teacher sees, and what chance would give.

  '' where there was nothing to tell apart.
  """
  pick = lambda diagnosis, key: [_percent(one[key]) for one in diagnosis['dreams']]
  series = [Series(group.name, [pick(one, 'agreement') for one in measured(group)], group.look) for group in groups]
  if all(value is None for one in series for row in one.trials for value in row):
    return ''
  longest = max((one for group in groups for one in measured(group)), key=lambda one: len(one['dreams']))
  series.append(Series('chance', [pick(longest, 'chance')], charts.GREY))
  ticks = [str(k + 1) for k in range(len(longest['dreams']))]
  return charts.curves(series, ticks, 'tasks learnt', 'agreement', 'Agreement of an independent classifier', '%', 100)


def plane(run: RunRecord) -> str:
  """Figure C: t-SNE of the features after the second task."""
  assert run.diagnosis
  found, names = run.diagnosis['plane'], {'old': ('real old classes', 2), **KINDS}
  sets = [(name, found[kind], look) for kind, (name, look) in names.items() if kind in found]
  return charts.scatter(sets, f'{run.config["method"]}: features after task {found["task"] + 1}, t-SNE')


def seconds_bars(groups: Sequence[Group]) -> str:
  """Seconds of each kind of work, mean over trials."""
  kinds = list(dict.fromkeys(kind for group in groups for run in group.runs for kind in run.seconds))
  series = [
    Series(group.name, [[run.seconds.get(kind) for kind in kinds] for run in group.runs], group.look)
    for group in groups
  ]
  return charts.bars(series, kinds, '', 'seconds', 'Seconds by kind of work')
