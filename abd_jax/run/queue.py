"""Goes through a list of runs under a time budget: the one executor, of upper bounds, tables, searches and the rest."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from abd_jax.errors import Diverged, InUse, Paused, UserError


class Job(NamedTuple):
  """A run under a name that no other job of its list has.

  run: given the seconds it may take, 0 for no limit; returns its results, raises Paused, InUse or Diverged.
  """

  name: str
  run: Callable[[float], dict]


@dataclass
class Outcome:
  """What became of a list of jobs."""

  results: dict[str, dict] = field(default_factory=dict)  # by name
  failed: dict[str, str] = field(default_factory=dict)  # name -> why; no exception, whose traceback would keep arrays
  in_use: list[InUse] = field(default_factory=list)  # those that other processes are running
  pause: Paused | None = None  # why it stopped before the end

  def complete(self) -> list[dict]:
    """The results, in the order of the jobs. Raises Paused, InUse or UserError if some are missing."""
    self.check_ended()
    self.check_sound()
    return list(self.results.values())

  def check_ended(self) -> None:
    """Raises Paused or InUse if some jobs have not come to an end, good or bad."""
    for reason in (self.pause, *self.in_use):
      if reason is not None:
        raise reason

  def check_sound(self) -> None:
    """Raises UserError, of one line, if some have failed."""
    if self.failed:
      count = f'{len(self.failed)} runs have failed; of the first: ' if len(self.failed) > 1 else ''
      name, why = next(iter(self.failed.items()))
      raise UserError(f'{count}{name}: {why}')


def execute(
  jobs: Iterable[Job],
  max_seconds: float = 0.0,
  max_jobs: int = sys.maxsize,
  tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
  """Runs jobs one after another, also after one that diverges; what another process is running is left for the end, so
  two can share the work.

  Args:
    jobs: in this order.
    max_seconds: over all of them; 0 for no limit. Each is given what is left, at least a moment, so that even a late
      one finds out that it is complete.
    max_jobs: how many to start, those that fail not counted.
    tell: called with a line about each.
  """
  began, outcome, jobs = time.monotonic(), Outcome(), list(jobs)
  waiting, begun = jobs, set()
  for is_last_time in (False, True):
    later = []
    for job in waiting:
      if len(begun | {job.name}) > max_jobs:
        break
      begun.add(job.name)
      left = max(max_seconds - (time.monotonic() - began), 0.01)
      tell(f'{job.name} ...')
      try:
        outcome.results[job.name] = job.run(left if max_seconds else 0.0)
      except InUse as error:
        later.append(job)
        if is_last_time:
          outcome.in_use.append(error)
          tell(f'{job.name} is run by another process; left to it')
      except Diverged as error:
        outcome.failed[job.name] = str(error)
        begun.remove(job.name)
        tell(f'{job.name} has failed: {error}')
      except Paused as pause:
        outcome.pause = pause
        return outcome
    waiting = later
  outcome.results = {job.name: outcome.results[job.name] for job in jobs if job.name in outcome.results}
  return outcome
