"""python -m experiments.demo: digits in five tasks, with and without dreams, in a few minutes on a CPU.

Writes runs/demo/{abd,lwf,base}/ and ends with one table. Stopped, the same command goes on.
"""

import sys
from pathlib import Path

from absl import logging

from abd_jax.errors import UserError
from abd_jax.report import SUMMARY, summary_line, table
from abd_jax.session import Paused
from experiments.common import load_config, run

METHODS = ('abd', 'lwf', 'base')


def main(root: Path) -> None:
  logging.set_verbosity(logging.ERROR)
  rows = []
  for method in METHODS:
    print(f'{method}: five tasks of two digits, no image kept', file=sys.stderr)
    rows.append(summary_line(run(load_config('digits', f'method={method}'), root / method)))
  print(table(SUMMARY, rows))
  print(f'what {METHODS[0]} dreamed: {root / METHODS[0] / "dreams"}/task_*.png')
  print(f'everything else: {root}/*/results.json')


if __name__ == '__main__':
  try:
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'runs/demo'))
  except Paused as pause:
    sys.exit(str(pause))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
