"""abd-jax train --config=digits --workdir=runs/digits    as python -m abd_jax.main

Learns a sequence of tasks without keeping one old image, and writes what came of it to the workdir. The same
command resumes one that was stopped.

  --config=digits                                   a config that comes with the package, or the path of a file
  --config=digits:tasks=5,method=lwf,trial=1,quick  its options, after a colon
  --config=runs/digits/config.json                  the config of another run; - reads one from standard input
  --config.student.lr=0.05                          any field of the config; abd_jax/config.py lists them with
                                                    their units
  --config.trials=3                                 several trials, each in a folder of its own in the workdir
  --workdir=runs/digits                             where the run lives: checkpoints, dreams, metrics, results

Exit code 0: complete, or paused by config.max_seconds, SIGTERM or Ctrl-C. Exit code 2: a mistake, in one line.
"""

import os
import sys

from abd_jax.commands.options import parse
from abd_jax.config import Config, check, load_config
from abd_jax.devices.environment import check_memory
from abd_jax.errors import Paused, UserError


def run(words: list[str]) -> None:
  """Runs the config that the words of the command line name. Raises UserError for a mistake."""
  given = parse(words, ('config', 'workdir'), fields=True)
  if given.rest:
    raise UserError(f"'{given.rest[0]}' is not an option. Options begin with --, as in --workdir=runs/digits.")
  for name, example in (('config', 'configs/digits.py'), ('workdir', 'runs/digits')):
    if not given.options.get(name):
      raise UserError(f'--{name} is missing, as in --{name}={example}. --help says more.')
  config = load_config(given.options['config'], **given.fields)
  before_jax(config)
  learn(config, given.options['workdir'])


def before_jax(config: Config) -> None:
  """Checks `config`, and does what must come before JAX starts. Raises UserError for a mistake, or for no cluster."""
  check(config)  # before JAX is imported, which takes seconds
  check_memory()
  from abd_jax.devices.backend import keep_freed_memory

  keep_freed_memory()  # before JAX starts its threads
  cluster = config.cluster
  if config.distributed or cluster.coordinator or cluster.count or cluster.rank >= 0:
    from abd_jax.devices.backend import devices
    from abd_jax.devices.hosts import join_cluster, place

    join_cluster(cluster.coordinator, cluster.count, cluster.rank)
    devices()  # raises if there are none
    print(place(), file=sys.stderr, flush=True)


def learn(config: Config, workdir: str) -> None:
  """Runs or resumes `config` in `workdir`, prints what came of it, and what to do next."""
  workdir = os.path.expanduser(workdir)  # shells leave --workdir=~/runs as it is
  from abd_jax.devices.backend import use_compilation_cache
  from abd_jax.report.tables import SUMMARY, summary_line, table
  from abd_jax.run.workdir import check_path
  from abd_jax.train import train_and_evaluate

  check_path(workdir)
  use_compilation_cache(os.path.join(workdir, 'compilation_cache'))
  try:
    if config.trials > 1:
      from abd_jax.commands.trials import learn_trials, summary

      print(summary(learn_trials(config, workdir)))
      print(f'next: abd-jax report {workdir}/trial_*')
      return
    results = train_and_evaluate(config, workdir)
  except Paused as pause:
    print(pause, file=sys.stderr)
    return
  print(table(SUMMARY, [summary_line(results)]))
  print(f'results: {os.path.join(workdir, "results.json")}')
  if config.method != 'oracle':  # which has a model for each task, in workdirs of their own
    print(f'next: abd-jax predict {workdir} IMAGE...')
