"""abd-jax VERB ...: the commands, each with a --help of its own.

abd-jax train --config=configs/digits.py --workdir=runs/digits    as python -m abd_jax.main
"""

import sys

from abd_jax import main as train_command

VERBS = {'train': train_command.cli}


def cli() -> None:
  """Runs the verb that the command line names; exit code 2 for a mistake."""
  verb = sys.argv[1] if len(sys.argv) > 1 else ''
  if verb in ('', '-h', '--help', '-help'):
    print((__doc__ or '').strip())
    sys.exit(0 if verb else 2)
  if verb not in VERBS:
    from abd_jax.errors import nearest

    print(f"error: '{verb}' is not a command.{nearest(verb, VERBS)}", file=sys.stderr)
    sys.exit(2)
  sys.argv = [f'{sys.argv[0]} {verb}', *sys.argv[2:]]
  VERBS[verb]()


if __name__ == '__main__':
  cli()
