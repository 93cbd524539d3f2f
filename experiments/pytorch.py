"""Times our steps beside the same steps in PyTorch, on this machine's CPU: python -m experiments pytorch

The steps of configs/cifar100.py in float32, from random images without augmentation: plain cross-entropy (base),
Always Be Dreaming from task 2 on (abd), inversion. PyTorch runs the last two also as the authors' code does, with
passes whose results it already has or never uses, and all with images and weights in either order of memory, with
channels first or last. All take turns in one process, with as many threads.

First, both must give the same losses in two steps from the same weights, images and noise.

PyTorch is no dependency. Give it an environment of its own: pip install torch -r requirements.txt
"""

import argparse
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import methods
from abd_jax.devices.environment import environment
from abd_jax.errors import UserError
from abd_jax.report.tables import table
from abd_jax.steps.rng import stream
from experiments import options, steps
from experiments.hardware import measure
from experiments.store import write_json

KINDS = ('base', 'abd', 'inversion')
RELEASED = ', as released'
ORDERS = ('contiguous_format', 'channels_last')  # torch.memory_format; the first is the default
PLAIN = {'data.flip': False, 'data.pad': 0, 'data.brightness': 0.0, 'data.contrast': 0.0}
# Of the first step and of the one after it: Adam's first update is as large for a gradient that is all rounding.
TOLERANCES = (1e-4, 1e-3)


def need_torch() -> Any:
  """Raises UserError if PyTorch is not there, or if JAX would not run on the CPU."""
  try:
    import torch  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise UserError(
      'PyTorch is not installed here. Install it into an environment of its own: pip install torch -r requirements.txt'
    ) from None
  if jax.default_backend() != 'cpu':
    raise UserError(f'expected JAX on the CPU, but it runs on {jax.default_backend()}; set JAX_PLATFORMS=cpu')
  return torch


def torch_kinds(torch: Any, here: steps.Setting, order: str) -> dict[str, Any]:
  """PyTorch's steps by name, with the weights and the first batch of `here`."""
  from experiments import torch_steps as t

  config, teacher = here.config, here.data.teachers[0]
  net, gen, phase = config.model, config.generator, methods.get(config).later[0]
  (rows,) = np.asarray(here.rows(phase, 0, 1).index)
  images = np.asarray(here.components.images.normalise(jnp.asarray(here.images[rows]))).transpose(0, 3, 1, 2)
  labels = torch.tensor(np.asarray(here.data.labels)[rows], dtype=torch.long)
  old, seen = (int(where.sum()) for where in (here.data.classes.old, here.data.classes.seen))
  ordered = {'memory_format': getattr(torch, order)}
  batch = torch.tensor(images).to(**ordered), labels

  def classifier(model: Any) -> Any:
    return t.load(t.Classifier(tuple(net.blocks), tuple(net.widths), steps.CLASSES), model.variables).to(**ordered)

  def generator() -> Any:
    return t.load(t.make_generator(gen.latent, tuple(gen.start), tuple(gen.widths)), teacher.generator).to(**ordered)

  student, taught = (lambda: classifier(here.student)), (lambda: classifier(teacher).eval())
  forms = (('', False), (RELEASED, True))
  return {
    'base': t.base_step(student(), *batch, seen, config.student),
    **{
      f'abd{name}': t.abd_step(student(), taught(), generator().eval(), batch, (old, seen), config, wasteful)
      for name, wasteful in forms
    },
    **{f'inversion{name}': t.inversion_step(generator(), taught(), seen, config, wasteful) for name, wasteful in forms},
  }


def noise(here: steps.Setting, step: int) -> dict[str, np.ndarray]:
  """What our steps of that number draw for the generator, by kind."""
  draw, key = here.components.generator.draw, lambda name: jax.random.fold_in(stream(here.data.seed, name), step)
  drawn = {
    'abd': draw(jax.random.split(key('student'))[1], here.config.student.batch_size),
    'inversion': draw(key('generator'), here.config.inversion.batch_size),
  }
  return {name: np.array(values) for name, values in drawn.items()}


def check(torch: Any, here: steps.Setting, ours: dict[str, steps.Kind], theirs: dict) -> dict[str, float]:
  """The largest relative difference of a term of each loss in the first steps. theirs: (order, name) -> step.

  Raises UserError if it is larger than its step's in TOLERANCES: the two would not do the same work.
  """
  worst = {name: 0.0 for _, name in theirs}
  for k, tolerance in enumerate(TOLERANCES):
    drawn, expected = noise(here, k), {name: kind.run() for name, kind in ours.items()}
    for (_, name), step in theirs.items():
      kind = name.removesuffix(RELEASED)
      for term, value in step(torch.from_numpy(drawn[kind]) if kind in drawn else None).items():
        right = float(expected[kind][term][0])
        difference = abs(value - right) / abs(right)
        worst[name] = max(worst[name], difference)
        if not difference <= tolerance:  # nor is NaN
          raise UserError(
            f"PyTorch's {name}: {term} is {value:.7g} in step {k}, but ours is {right:.7g}; nothing is timed"
          )
  return worst


def measure_all(rounds: int, fields: dict) -> dict:
  """The content of the JSON file; fields: of the config, over its own."""
  torch = need_torch()
  threads = len(os.sched_getaffinity(0))  # as many as XLA has
  torch.set_num_threads(threads)
  here = steps.setting(PLAIN | fields, jax.devices()[:1], steps.TASK_IMAGES)
  every = steps.parts(here, 1)
  ours = {name: steps.compiled(every[name], 0) for name in KINDS}
  theirs = {(order, name): step for order in ORDERS for name, step in torch_kinds(torch, here, order).items()}
  differences = check(torch, here, ours, theirs)
  functions = theirs | {('ours', name): kind.run for name, kind in ours.items()}
  seconds = measure(functions, rounds)
  about = environment(1)
  return {
    'schema_version': 1,
    'rounds': rounds,
    'threads': threads,
    'batch_size': here.config.student.batch_size,
    'overrides': PLAIN | fields,
    'relative_difference': differences,
    'torch_ms': {of: {name: 1e3 * seconds[of, name] for order, name in theirs if order == of} for of in ORDERS},
    'ours_ms': {name: 1e3 * seconds['ours', name] for name in KINDS},
    **about,
    'versions': about['versions'] | {'torch': torch.__version__},
  }


def render(found: dict) -> str:
  """A table of the JSON of `measure_all`, and a line about where it is from."""
  rows, (first, last) = [], (found['torch_ms'][order] for order in ORDERS)
  for name in first:
    ours = found['ours_ms'][name.removesuffix(RELEASED)]
    faster = min(first[name], last[name])
    rows.append([name, *(f'{value:.4g}' for value in (first[name], last[name], ours)), f'{ours / faster:.2f}'])
  where = f'{found["device"]["cpu_model"]}, {found["threads"]} threads, batch {found["batch_size"]}'
  versions = f'PyTorch {found["versions"]["torch"]}, jax {found["versions"]["jax"]}'
  rows = table(('step', 'PyTorch ms', 'channels last ms', 'ours ms', 'ours / faster'), rows)
  return f'{rows}\n\n{versions}; {where}; medians of {found["rounds"]} rounds; commit {(found["commit"] or "-")[:7]}.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--rounds', type=options.at_least(1), default=21, metavar='N', help='how often each step is timed'
  )
  options.add(parser, 'output', output=Path('runs/hardware'))


def main(arguments: argparse.Namespace) -> None:
  found = measure_all(arguments.rounds, {})
  file = arguments.output / 'torch_cpu.json'
  write_json(file, found)
  print(f'{render(found)}\nwrote {file}')
