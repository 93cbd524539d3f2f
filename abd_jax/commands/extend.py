"""abd-jax extend WORKDIR --config.data.dir=NEW --workdir=W2    teaches the model of a finished run new classes

  --config.data.dir=NEW           the data of the new classes; any other field of the config can be set too
  --config.data.name=NAME         if not WORKDIR's; image_folder for photographs
  --config.task_sizes='(5,5,3)'   WORKDIR's task sizes, then those of the new tasks
  --method=NAME                   another method for the new classes

Only the run's last model is used. Its head grows; if the method dreams, a generator is first trained against it.
Normalisation, image size and network stay. W2 is an ordinary workdir: the same command resumes it. Old classes are
evaluated if the data of WORKDIR's run are unchanged.
"""

from abd_jax.commands import parse
from abd_jax.commands.train import begin, learn
from abd_jax.config import changed, check, check_read, default, read_fields
from abd_jax.devices.hosts import all_or_none
from abd_jax.run.extend import extended_config


def run(words: list[str]) -> None:
  """Extends a run. Raises UserError for a mistake; then nothing is written."""
  given = parse(__doc__, words, {'workdir': (), 'method': ()}, (1,), ('workdir',), fields=True)
  fields = read_fields(given.fields)
  of_cluster = {name: value for name, value in fields.items() if name.startswith(('distributed', 'cluster.'))}
  hosts = changed(default(), of_cluster)
  check(hosts)
  begin(hosts.distributed, hosts.cluster)
  config = all_or_none(lambda: extended_config(given.rest[0], fields, given.options.get('method')))
  check_read(config.method, fields)
  learn(changed(config, fields), given.options['workdir'])
