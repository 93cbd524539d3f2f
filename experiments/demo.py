"""Digits in five tasks, with and without dreams, in a few minutes on a CPU: python -m experiments demo

Writes runs/demo/{abd,lwf,base}/ and ends with one table and a report to open. The same command resumes it.
"""

import argparse
from pathlib import Path

from abd_jax.commands import report
from abd_jax.config import load_config
from abd_jax.report.tables import SUMMARY, summary_line, table
from abd_jax.run import queue
from experiments import options
from experiments.runs import job, tell

METHODS = ('abd', 'lwf', 'base')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'runs', runs=Path('runs/demo'))


def main(arguments: argparse.Namespace) -> None:
  root = arguments.runs
  tell('digits in five tasks of two, no image kept')
  jobs = [job(load_config(f'digits:method={method}'), root / method) for method in METHODS]
  print(table(SUMMARY, [summary_line(results) for results in queue.execute(jobs, tell=tell).complete()]))
  print(f'what {METHODS[0]} dreamed: {root / METHODS[0] / "dreams"}/task_*.png')
  print(f'everything else: {root}/*/results.json')
  report.run([*(str(root / method) for method in METHODS), f'--output={root / "report.html"}'])
  print(f'next: abd-jax predict {root / METHODS[0]} IMAGE...')
