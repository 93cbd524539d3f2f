"""How long a run will take, told before its first step by a benchmark of the same device."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from abd_jax.run.environment import device

FOLDER = Path('experiments/results')  # where `python -m experiments benchmark` writes, from the repository's root
SAME = ('platform', 'kind', 'count', 'cpu_cores', 'cpu_model')  # of a device, for its speed to be the same
LEAST = 0.25  # of a measured step's FLOPs: what computes less waits for other things


class Work(NamedTuple):
  """Steps of one kind that a run has before it."""

  measured: str  # the kind of step of the benchmark that is most like it: 'base', 'abd' or 'inversion'
  steps: int
  flops: float  # a step


def flops_of(program: Any) -> float:
  """Of a compiled program (jax.stages.Compiled), a loop's body counted once; 0 if that is unknown."""
  return (program.cost_analysis() or {}).get('flops', 0.0)


def seconds(work: Iterable[Work], precision: str, devices: int) -> float:
  """Those of all steps at the benchmark's FLOP/s; 0 if there is none of so many such devices, or none like these."""
  rows = _benchmark(precision, devices)
  total = 0.0
  for measured, steps, flops in work:
    row = rows.get(measured)
    counted = 1e9 * (row.get('compiled_gflop') or row['gflop']) if row else 0.0  # as `flops_of` counts
    if not row or flops < LEAST * counted:
      return 0.0
    total += steps * flops * row['ms'] / (1e3 * counted)
  return total


def _benchmark(precision: str, devices: int) -> dict[str, dict]:
  """Its rows of that precision by kind of step; none if it is missing, of another device or not of this form."""
  try:
    found = json.loads((FOLDER / f'benchmark_{jax.default_backend()}.json').read_text())
    here = device(devices)
    if any(found['device'][name] != here[name] for name in SAME):
      return {}
    return {row['step']: row for row in found['rows'] if row['precision'] == precision}
  except (OSError, ValueError, KeyError, TypeError):
    return {}
