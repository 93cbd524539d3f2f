"""What the steps of a run take, told before its first: each kind is compiled from shapes alone.

The calls that follow find the programs. What does not fit on a device is known at once, and not after a task.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from abd_jax.devices.memory import bytes_of, device_bytes, in_units
from abd_jax.errors import UserError
from abd_jax.run import foretold
from abd_jax.run.build import Blueprint
from abd_jax.run.console import Console
from abd_jax.run.progress import Progress
from abd_jax.run.schedule import BASE, NamedPhase
from abd_jax.state import Classes, FrozenModel, PhaseData, freeze
from abd_jax.steps.chunks import Chunk
from abd_jax.steps.inputs import ConstantRate, EpochIndices, StudentInputs

PyTree = Any


def compile_ahead(blueprint: Blueprint, progress: Progress, console: Console) -> None:
  """Compiles every kind of step that is still to run, and tells what each takes, and all of them if that is known.

  Raises UserError for one that takes more memory than a device has.
  """
  flops = {}
  for where, chunk, arguments in _kinds(blueprint, progress):
    console.begin(where, 'compiling')
    began = time.monotonic()
    program = chunk.lower(*arguments).compile()
    taken, there, flops[chunk] = bytes_of(program), device_bytes(), foretold.flops_of(program)
    seconds = time.monotonic() - began
    console.line(f'{where}: compiled in {seconds:.1f} s, takes {in_units(taken)} on each device')
    if taken and there and taken > there:
      raise UserError(
        f'{where} takes {in_units(taken)} on each device, which has {in_units(there)}. Lower config.student.batch_size '
        'or config.inversion.batch_size, or use more devices.'
      )
  work, devices = _work(blueprint, progress, flops), blueprint.mesh.size
  if seconds := foretold.seconds(work, blueprint.config.precision, devices):
    console.line(f'all steps will take about {tqdm.format_interval(seconds)}, by the benchmark of this device')


def _chunk(blueprint: Blueprint, phase: NamedPhase) -> Chunk:
  return blueprint.steps.train[phase.training] if phase.training else blueprint.steps.invert


def _kinds(blueprint: Blueprint, progress: Progress) -> Iterator[tuple[str, Chunk, tuple[PyTree, PyTree, PyTree]]]:
  """(where it runs first, a kind of step, shapes of a chunk's arguments), in order."""
  schedule, seen = blueprint.schedule, set()
  steps_of = {(task, phase.name): steps for task, phase, steps in schedule.steps(blueprint.stream.labels)}
  for task, phase in schedule.from_place(progress.task, progress.phase):
    chunk, steps = _chunk(blueprint, phase), steps_of[task, phase.name]
    most = blueprint.config.chunk_steps
    for length in filter(None, (min(steps, most), steps % most)):  # the last chunk of a phase may be a shorter one
      if (program := (chunk, chunk.scans(length))) not in seen:
        seen.add(program)
        yield f'task {task + 1} {phase.name}', chunk, _arguments(blueprint, task, phase, length)


def _work(blueprint: Blueprint, progress: Progress, flops: dict[Chunk, float]) -> Iterator[foretold.Work]:
  """The steps that are left; flops: of one of each kind."""
  schedule, done = blueprint.schedule, progress.step
  left = {(task, phase.name) for task, phase in schedule.from_place(progress.task, progress.phase)}
  for task, phase, steps in schedule.steps(blueprint.stream.labels):
    if (task, phase.name) in left and steps:
      training = phase.training
      kind = 'inversion' if training is None else 'abd' if training.teachers else 'base'
      yield foretold.Work(kind, steps - done, flops[_chunk(blueprint, phase)])
      done = 0  # of the phase in which the run stands


def _arguments(blueprint: Blueprint, task: int, phase: NamedPhase, count: int) -> tuple[PyTree, PyTree, PyTree]:
  """(state, inputs, data) of a chunk of so many steps of a phase."""
  config, mesh, stream = blueprint.config, blueprint.mesh, blueprint.stream

  def shape(*sides: int, dtype: Any = np.int32, sharding: Any = mesh.replicated) -> Any:
    return jax.ShapeDtypeStruct(sides, dtype, sharding=sharding)

  data = PhaseData(None, None, Classes(shape(stream.tasks.num_classes), shape()), (), shape(dtype=np.uint32))
  if phase.training is None:
    rates, student = ConstantRate(config.inversion), freeze(blueprint.abstract['student'])
    return blueprint.abstract['generator'], rates(0, count), data.replace(teachers=(student,))
  size = blueprint.schedule.pool_size(stream.sizes)  # no phase has more rows
  batches = EpochIndices((0, 0, 0), np.arange(size), config.student.batch_size, phase.training)
  if blueprint.streams:
    of_steps = partial(shape, count, config.student.batch_size, sharding=mesh.split_in_steps)
    inputs = StudentInputs(batches.rates(0, count), None, of_steps(*stream.image_shape, dtype=np.uint8), of_steps())
  else:
    inputs = batches(0, count)
    data = data.replace(images=shape(size, *stream.image_shape, dtype=np.uint8), labels=shape(size))
  newest_first = blueprint.schedule.frozen_before(task, phase.name)[::-1]
  teachers = tuple(_teacher(blueprint, name) for name in newest_first[: phase.training.teachers])
  return blueprint.abstract['student'], inputs, data.replace(teachers=teachers)


def _teacher(blueprint: Blueprint, name: str) -> FrozenModel:
  """Shapes of a frozen model. One that a run starts from is a teacher where nothing dreams of it."""
  return freeze(blueprint.abstract['student']) if name == BASE else blueprint.abstract_snapshot(name).model
