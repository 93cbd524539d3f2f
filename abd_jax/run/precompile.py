"""Compiles every kind of step before the first one runs, so that what does not fit on a device fails at once."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from abd_jax.devices.environment import bytes_of, device_bytes, in_units
from abd_jax.errors import UserError
from abd_jax.run.console import Console
from abd_jax.run.plan import Plan
from abd_jax.run.progress import Progress
from abd_jax.run.schedule import BASE, NamedPhase, TeacherId
from abd_jax.state import Classes, FrozenModel, PhaseData, freeze
from abd_jax.steps.chunks import Chunk
from abd_jax.steps.inputs import EpochIndices, StudentInputs, inversion_inputs

PyTree = Any


def precompile(plan: Plan, progress: Progress, console: Console) -> None:
  """Compiles every kind of step that is still to run, and prints the memory that each needs.

  Raises UserError for one that takes more memory than a device has.
  """
  for where, chunk, arguments in _kinds(plan, progress):
    console.begin(where, 'compiling')
    began = time.monotonic()
    program = chunk.lower(*arguments).compile()
    taken, there = bytes_of(program), device_bytes()
    seconds = time.monotonic() - began
    console.line(f'{where}: compiled in {seconds:.1f} s, takes {in_units(taken)} on each device')
    if taken and there and taken > there:
      raise UserError(
        f'{where} takes {in_units(taken)} on each device, which has {in_units(there)}. Lower config.student.batch_size '
        'or config.inversion.batch_size, or use more devices.'
      )


def _chunk(plan: Plan, phase: NamedPhase) -> Chunk:
  return plan.steps.train[phase.training] if phase.training else plan.steps.invert


def _kinds(plan: Plan, progress: Progress) -> Iterator[tuple[str, Chunk, tuple[PyTree, PyTree, PyTree]]]:
  """(where it runs first, a kind of step, shapes of a chunk's arguments), in order."""
  schedule, seen = plan.schedule, set()
  steps_of = {(task, phase.name): steps for task, phase, steps in schedule.steps(plan.stream.labels)}
  for task, phase in schedule.from_place(progress.task, progress.phase):
    chunk, steps = _chunk(plan, phase), steps_of[task, phase.name]
    most = plan.config.chunk_steps
    for length in filter(None, (min(steps, most), steps % most)):  # the last chunk of a phase may be a shorter one
      if (program := (chunk, chunk.scans(length))) not in seen:
        seen.add(program)
        yield f'task {task + 1} {phase.name}', chunk, _arguments(plan, task, phase, length)


def _arguments(plan: Plan, task: int, phase: NamedPhase, count: int) -> tuple[PyTree, PyTree, PyTree]:
  """(state, inputs, data) of a chunk of so many steps of a phase."""
  config, mesh, stream = plan.config, plan.mesh, plan.stream

  def shape(*sides: int, dtype: Any = np.int32, sharding: Any = mesh.replicated) -> Any:
    return jax.ShapeDtypeStruct(sides, dtype, sharding=sharding)

  data = PhaseData(None, None, Classes(shape(stream.tasks.num_classes), shape()), (), shape(dtype=np.uint32))
  if phase.training is None:
    rates, student = inversion_inputs(plan.config.inversion), freeze(plan.abstract['student'])
    return plan.abstract['generator'], rates(0, count), data.replace(teachers=(student,))
  size = plan.schedule.pool_size(stream.sizes)  # no phase has more rows
  batches = EpochIndices((0, 0, 0), np.arange(size), config.student.batch_size, phase.training)
  if plan.streams:
    of_steps = partial(shape, count, config.student.batch_size, sharding=mesh.split_in_steps)
    inputs = StudentInputs(batches.rates(0, count), None, of_steps(*stream.image_shape, dtype=np.uint8), of_steps())
  else:
    inputs = batches(0, count)
    data = data.replace(images=shape(size, *stream.image_shape, dtype=np.uint8), labels=shape(size))
  newest_first = plan.schedule.frozen_before(task, phase.name)[::-1]
  teachers = tuple(_teacher(plan, one) for one in newest_first[: phase.training.teachers])
  return plan.abstract['student'], inputs, data.replace(teachers=teachers)


def _teacher(plan: Plan, one: TeacherId) -> FrozenModel:
  """Shapes of a frozen model. The model of another run has no generator."""
  return freeze(plan.abstract['student']) if one == BASE else plan.abstract_snapshot(one).model
