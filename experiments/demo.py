"""python -m experiments.demo: digits in five tasks, with and without dreams, in a few minutes on a CPU.

Writes runs/demo/{abd,lwf,base}/ and ends with one table. Stopped, the same command goes on.
"""

import sys
from pathlib import Path

from abd_jax.report.tables import SUMMARY, summary_line, table
from experiments.common import cli, load_config, run

METHODS = ('abd', 'lwf', 'base')


def main(argv: list[str]) -> None:
  root, rows = Path(argv[0] if argv else 'runs/demo'), []
  for method in METHODS:
    print(f'{method}: five tasks of two digits, no image kept', file=sys.stderr)
    rows.append(summary_line(run(load_config('digits', f'method={method}'), root / method)))
  print(table(SUMMARY, rows))
  print(f'what {METHODS[0]} dreamed: {root / METHODS[0] / "dreams"}/task_*.png')
  print(f'everything else: {root}/*/results.json')


if __name__ == '__main__':
  cli(main)
