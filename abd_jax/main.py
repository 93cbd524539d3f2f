"""python -m abd_jax.main --config=configs/digits.py --workdir=runs/digits: the same as abd-jax train."""

import sys

from abd_jax.__main__ import cli

if __name__ == '__main__':
  cli(['train', *sys.argv[1:]])
