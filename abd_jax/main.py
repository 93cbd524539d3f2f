"""python -m abd_jax.main --config=configs/digits.py --workdir=runs/digits: the same as abd-jax train."""

# `signal` itself takes milliseconds to import, in which Ctrl-C may come.
import _signal  # pyright: ignore[reportMissingImports]
import sys

if __name__ == '__main__':
  _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until `cli` has handlers: Ctrl-C ends an import without a traceback
  from abd_jax.__main__ import cli

  cli(['train', *sys.argv[1:]])
