"""abd-jax train --config=digits --workdir=runs/digits    learns a sequence of tasks, or resumes a run

The run keeps no image of an old task unless the method has a memory. The same command resumes it after a stop.
`python -m abd_jax.main` does the same.

  --config=digits                                   a config of this package, or the path of a file
  --config=digits:tasks=5,method=lwf,trial=1,quick  its options, after a colon; quick: a short run
  --config=runs/digits/config.json                  the config of another run; - reads standard input
  --config.student.lr=0.05                          any field; abd_jax/config.py lists them with their units
  --config.trials=3                                 several trials, in trial_0, trial_1, ... of the workdir
  --workdir=runs/digits                             the folder of the run: checkpoints, dreams, metrics, results

Exit code 0: complete, or paused by config.max_seconds, SIGTERM or Ctrl-C. Exit code 2: a mistake, in one line.
"""

import json
import os
import shlex
import sys
from pathlib import Path

import jax

from abd_jax import train as training
from abd_jax.commands import parse
from abd_jax.config import Config, changed, check, load_config
from abd_jax.devices import backend, hosts
from abd_jax.devices.environment import check_memory
from abd_jax.errors import Paused, UserError
from abd_jax.report.tables import METRICS, SUMMARY, mean_std, summary_line, table
from abd_jax.run import queue
from abd_jax.run.workdir import check_path, read_finished, resolve


def run(words: list[str]) -> None:
  """Runs the config that `words` name. Raises UserError for a mistake."""
  given = parse(__doc__, words, {'config': (), 'workdir': ()}, required=('config', 'workdir'), fields=True)
  config = load_config(given.options['config'], **given.fields)
  check(config)
  begin(config.distributed, config.cluster)
  learn(config, given.options['workdir'])


def begin(distributed: bool, cluster: Config) -> None:
  """Checks this host's memory, and joins the other hosts of a run. cluster: config.cluster.

  Raises UserError for too little memory, or if the hosts do not find each other.
  """
  check_memory()
  backend.keep_freed_memory()  # before JAX starts its threads
  if distributed or cluster.coordinator or cluster.count or cluster.rank >= 0:
    hosts.join_cluster(cluster.coordinator, cluster.count, cluster.rank)
    backend.devices()  # raises if there are none
    place = f'process {jax.process_index()}, of 0 to {jax.process_count() - 1}'
    print(f'{place}: {jax.local_device_count()} of {jax.device_count()} devices', file=sys.stderr, flush=True)


def learn(config: Config, workdir: str) -> None:
  """Runs or resumes `config` in `workdir`, and prints the results and the next command."""
  workdir = os.path.expanduser(workdir)  # shells leave --workdir=~/runs as it is
  quoted = shlex.quote(f'./{workdir}' if workdir.startswith('-') else workdir)
  check_path(workdir)
  backend.use_compilation_cache(os.path.join(workdir, 'compilation_cache'))
  try:
    if config.trials > 1:
      print(summary(learn_trials(config, Path(workdir).absolute())))
      print(f'next: abd-jax report {quoted}/trial_*')
      return
    results = training.train_and_evaluate(config, workdir)
  except Paused as pause:
    print(pause, file=sys.stderr)
    return
  print(table(SUMMARY, [summary_line(results)]))
  print(f'results: {os.path.join(workdir, "results.json")}')
  if config.method != 'oracle':  # which has a model for each task, in workdirs of their own
    print(f'next: abd-jax predict {quoted} IMAGE...')


def learn_trials(config: Config, workdir: Path) -> list[dict]:
  """The results of each trial, in WORKDIR/trial_0 and so on: one by one in this process, or at once in several.

  Raises UserError for a mistake, Paused before the end.
  """
  one, clustered = {'trials': 1, 'trials_at_once': 0}, jax.distributed.is_initialized()

  def run_of(k: int) -> tuple[Config, Path]:
    folder = workdir / f'trial_{k}'
    return resolve(changed(config, one | {'trial': k}), folder), folder

  planned = lambda: [run_of(k) for k in range(config.trial, config.trial + config.trials)]
  runs = hosts.all_or_none(planned) if clustered else planned()  # alone, before this process takes a device
  places = [] if config.trials_at_once == 1 or clustered else queue.accelerators()
  at_once = config.trials_at_once or (len(runs) if len(places) >= len(runs) else 1)
  if at_once == 1:
    outcome = queue.execute([training.job(*run) for run in runs], config.max_seconds, tell=_print_now)
    if outcome.in_use and not (outcome.failed or outcome.pause):
      raise Paused(f'{len(outcome.in_use)} of {len(runs)} trials are run by other processes')
    return outcome.complete()
  if clustered:
    raise UserError(f'config.trials_at_once={at_once}: several hosts run their trials one by one. Set it to 1.')
  words = ['-m', 'abd_jax', 'train', '--config=-', f'--workdir={workdir}']
  text = json.dumps(changed(config, {'trials_at_once': 1}).to_dict())
  codes = queue.run_copies(words, queue.shares(min(at_once, len(runs)), places), _print_now, text)
  results = [found for config, folder in runs if (found := read_finished(folder, config)[0]) is not None]
  if len(results) < len(runs):
    if failed := next(filter(None, codes), 0):
      raise UserError(f'a process of the trials ended with exit code {failed}; its message stands above.')
    raise Paused(f'paused: {len(runs) - len(results)} of {len(runs)} trials are not complete; the same command resumes')
  return results


def summary(results: list[dict]) -> str:
  """A line for each trial, and one of means with population standard deviations, as in the paper."""
  lines = [[f'trial {one["config"]["trial"]}', *summary_line(one)[1:]] for one in results]
  means = [mean_std([one[key] for one in results]) for key in METRICS]
  seconds = sum(sum(one['seconds'].values()) for one in results) / len(results)
  return table((results[0]['method'], *SUMMARY[1:]), [*lines, ['mean ± std', *means, f'{seconds:.0f}']])


def _print_now(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
