"""python -m abd_jax.main --config=configs/digits.py --workdir=runs/digits: the same as abd-jax train."""

import signal
import sys

if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli` has handlers: Ctrl-C ends an import without a traceback
  from abd_jax.__main__ import cli

  cli(['train', *sys.argv[1:]])
