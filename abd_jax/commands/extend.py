"""abd-jax extend WORKDIR --config.data.name=NEW --workdir=W2    teaches the model of a finished run new classes

  --config.data.dir=PHOTOS        and any other field of the config; the rest is as in the run in WORKDIR
  --config.task_sizes='(5,5,3)'   WORKDIR's task sizes and those that follow, for WORKDIR's own data or some of the new
  --method=NAME                   another method to learn them by

Only the run's last model is used. Its head grows, and where the method dreams a generator is trained against it first.
Normalisation, image size and network stay. W2 is a workdir like any other: the same command resumes it. Old classes are
evaluated if the data of WORKDIR's run are unchanged.
"""

from abd_jax.commands.options import parse
from abd_jax.commands.train import begin, learn
from abd_jax.config import changed, check, check_read, default, read_fields
from abd_jax.devices.hosts import all_or_none
from abd_jax.errors import UserError
from abd_jax.run.extend import extended_config


def run(words: list[str]) -> None:
  """Extends the run that the words name. Raises UserError for a mistake; then nothing is written."""
  given = parse(words, ('workdir', 'method'), fields=True)
  if len(given.rest) != 1:
    raise UserError('give the workdir of one finished run, as in abd-jax extend runs/a --workdir=runs/b')
  if not given.options.get('workdir'):
    raise UserError('--workdir is missing: where the extended run is to live, as in --workdir=runs/b')
  fields = read_fields(given.fields)
  of_cluster = {name: value for name, value in fields.items() if name.startswith(('distributed', 'cluster.'))}
  hosts = changed(default(), of_cluster)
  check(hosts)
  begin(hosts.distributed, hosts.cluster)
  config = all_or_none(lambda: extended_config(given.rest[0], fields, given.options.get('method')))
  check_read(config.method, fields)
  learn(changed(config, fields), given.options['workdir'])
