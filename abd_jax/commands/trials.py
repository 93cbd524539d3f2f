"""Several trials of one config, WORKDIR/trial_0 and so on: in turn in this process, or at once in several."""

import statistics
import sys
from functools import partial
from pathlib import Path

import jax

from abd_jax.config import Config, changed
from abd_jax.devices import hosts
from abd_jax.errors import Paused, UserError
from abd_jax.report.tables import SUMMARY, percent, summary_line, table
from abd_jax.run import queue
from abd_jax.run import queue as processes
from abd_jax.run.queue import Run
from abd_jax.run.workdir import read_finished, resolve, with_inferred
from abd_jax.train import job


def learn_trials(config: Config, workdir: str) -> list[dict]:
  """The results of each trial, from files where they are complete.

  Raises UserError for a mistake, Paused before the end.
  """
  clustered = jax.distributed.is_initialized()  # which holds the devices: asking for them elsewhere takes them
  runs = planned(config, workdir)
  runs = hosts.all_or_none(partial(_completed, runs)) if clustered else _completed(runs)
  alone = config.trials_at_once == 1 or clustered
  places = [] if alone else processes.accelerators()
  at_once = config.trials_at_once or (len(runs) if len(places) >= len(runs) else 1)
  if at_once == 1:
    return queue.execute([job(run.config, run.workdir) for run in runs], config.max_seconds, tell=_tell).complete()
  if clustered:
    raise UserError(f'config.trials_at_once={at_once}: trials of several hosts run in turn. Set it to 1.')
  environments = processes.shares(min(at_once, len(runs)), places, Path(workdir).absolute() / 'compilation_cache')
  codes = processes.run_all(runs, environments, _tell, config.max_seconds)
  if failed := [name for name, code in codes.items() if code]:
    raise UserError(f'{failed[0]} ended with exit code {codes[failed[0]]}; what it said stands above.')
  results = [found for run in runs if (found := read_finished(str(run.workdir), run.config.to_dict())) is not None]
  if len(results) < len(runs):
    raise Paused(f'paused: {len(runs) - len(results)} of {len(runs)} trials are not complete; the same command resumes')
  return results


def planned(config: Config, workdir: str) -> list[Run]:
  """The trials, each as a run of its own."""
  alone, root = {'trials': 1, 'trials_at_once': 0}, Path(workdir).absolute()
  numbers = range(config.trial, config.trial + config.trials)
  return [Run(f'trial_{k}', changed(config, alone | {'trial': k}), root / f'trial_{k}') for k in numbers]


def _completed(runs: list[Run]) -> list[Run]:
  """With what their configs leave open; all have the class order of the first, whose file may be gone by now."""
  found, order = [], {}
  for run in runs:
    config = resolve(with_inferred(str(run.workdir), changed(run.config, order)))
    order = {'class_order': config.class_order}
    found.append(run._replace(config=config))
  return found


def summary(results: list[dict]) -> str:
  """A line for each trial, and one of means and, of two or more, population standard deviations, as the paper's."""
  lines = [summary_line(one) for one in results]
  lines = [[f'trial {one["config"]["trial"]}', *line[1:]] for line, one in zip(lines, results, strict=True)]
  means = ['mean ± std']
  for key in ('final_accuracy', 'average_accuracy', 'forgetting', 'backward_transfer'):
    known = [one[key] for one in results if one[key] is not None]
    spread = f' ± {percent(statistics.pstdev(known))}' if len(known) > 1 else ''
    means.append((percent(statistics.fmean(known)) if known else '-') + spread)
  seconds = statistics.fmean(sum(one['seconds'].values()) for one in results)
  return table((results[0]['method'], *SUMMARY[1:]), [*lines, [*means, f'{seconds:.0f}']])


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
