"""Builds a run from its config: open fields, method, data, devices, schedule and compiled steps."""

import math
import sys
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from abd_jax import __version__, methods
from abd_jax import config as config_lib
from abd_jax.config import Config, changed, default, flatten, left_open
from abd_jax.data.memory import capacity, pad, unpad
from abd_jax.data.records import Source
from abd_jax.data.sources import Dataset, TaskStream
from abd_jax.devices import backend
from abd_jax.devices.backend import pin_numbers
from abd_jax.devices.environment import check_memory, environment
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.files import RESULTS_SCHEMA, as_json
from abd_jax.methods.types import Method
from abd_jax.models import pretrained
from abd_jax.models.pretrained import Pretrained
from abd_jax.protocol import metrics
from abd_jax.run.checkpoint import SCHEMA
from abd_jax.run.extend import Base, grown, open_stream, read_base
from abd_jax.run.progress import EvalHistory, Progress
from abd_jax.run.schedule import BASE, Schedule, TeacherId
from abd_jax.state import TaskSnapshot, TrainState, freeze
from abd_jax.steps.compiled import CompiledSteps, compile_steps
from abd_jax.steps.components import make_components

_BLOCK = 512  # images decoded at once
_LARGE = 128  # pixels; from here on networks begin with a strided convolution
_RESNET_32 = {'model.blocks': (5, 5, 5), 'model.widths': (16, 32, 64)}
_RESNET_18 = {'model.blocks': (2, 2, 2, 2), 'model.widths': (64, 128, 256, 512), 'model.variant': 'imagenet'}


def infer_config(
  config: Config, data: Dataset, first_task: tuple[int, ...], weights: Pretrained | None = None
) -> Config:
  """`config` with its open fields set: normalisation, networks and fingerprint, as the data or the weights need them.

  first_task: original ids of the classes whose training images give the normalisation. weights: of config.model.init.
  Raises UserError if no generator makes images of this size, or if the weights do not fit.
  """
  unknown, fields = left_open(flatten(config.to_dict())), {}
  if weights:
    fields |= _by_weights(config, weights, data, unknown)
  if 'data.mean' in unknown - fields.keys():
    fields |= _normalisation(data.train(first_task), config.data.max_value)
  if 'model.blocks' in unknown - fields.keys():
    is_large = max(data.image_shape[:2]) >= _LARGE
    fields |= _RESNET_18 if is_large else _RESNET_32 | {'model.variant': config.model.variant}
  if 'generator.start' in unknown:
    fields |= _generator(*data.image_shape[:2])
  if 'data.fingerprint' in unknown:
    fields['data.fingerprint'] = data.fingerprint
  return changed(config, fields)


def _by_weights(config: Config, weights: Pretrained, data: Dataset, unknown: Collection[str]) -> dict:
  """The fields that pretrained weights decide. Prints which field decides where the config asks for another value."""
  init, flat, channels = config.model.init, flatten(config.to_dict()), data.image_shape[-1]
  if channels != weights.channels:
    raise UserError(
      f"{init} takes images of {weights.channels} channels, not {channels} as '{data.name}' has. For photographs "
      f'set config.data.channels={weights.channels}.'
    )
  fields = {f'model.{name}': getattr(weights, name) for name in ('variant', 'blocks', 'widths')}
  for name, value in fields.items():
    if name not in unknown and flat[name] != value:
      raise UserError(
        f'config.{name}={flat[name]!r}, but {init} has {value!r}. Set config.model.blocks and .widths to ().'
      )
  if flat['model.variant'] not in (default().model.variant, weights.variant):
    print(f'config.model.variant={weights.variant}, as {init} has it, not {flat["model.variant"]}', file=sys.stderr)
  trained = {'data.mean': pretrained.MEAN, 'data.std': pretrained.STD} if channels == len(pretrained.MEAN) else {}
  if 'data.mean' in unknown:
    fields |= trained
  elif any(flat[name] != value for name, value in trained.items()):
    print(f'config.data.mean={flat["data.mean"]} and .std decide, not the {pretrained.MEAN} of {init}', file=sys.stderr)
  return fields | {'model.init_hash': weights.sha256, 'model.init_licence': weights.licence}


def _normalisation(images: Source, max_value: float) -> dict:
  """Mean and standard deviation of each channel over all pixels u8[n, h, w, c]. The order of images changes no bit."""
  channels = images.view.shape[-1]
  counts = np.zeros((channels, 256), np.int64)
  for start in range(0, len(images), _BLOCK):
    block = images[start : start + _BLOCK]
    for c in range(channels):
      counts[c] += np.bincount(block[..., c].ravel(), minlength=256)
  values, shares = np.arange(256) / max_value, counts / counts.sum(1, keepdims=True)
  mean = shares @ values
  spread = np.sqrt([share @ np.square(values - centre) for share, centre in zip(shares, mean, strict=True)])
  # A channel of one value in all images would be divided by zero.
  return {'data.mean': tuple(mean.tolist()), 'data.std': tuple(np.maximum(spread, 1 / max_value).tolist())}


def _generator(height: int, width: int) -> dict:
  """The paper's generator for 32, 64 and 224 pixels. Other sizes: one that starts at 4 to 8 pixels, or close to it."""
  doublings = 1
  while min(height, width) / 2**doublings > 8 and math.gcd(height, width) % 2 ** (doublings + 1) == 0:
    doublings += 1
  start = (height >> doublings, width >> doublings)
  if height % 2 or width % 2 or min(start) > 32:
    raise UserError(
      f'no generator makes images of {height}x{width}: expected sides of 4 to 32 pixels times a power of 2. Set '
      'config.data.size to 32, 64, 128 or 224, or config.generator.start and .widths.'
    )
  if max(height, width) > _LARGE:
    return {'generator.start': (*start, 64), 'generator.widths': (64,) * doublings}
  return {'generator.start': (*start, 128), 'generator.widths': (*(128,) * (doublings - 1), 64)}


PyTree = Any


class Plan(NamedTuple):
  """Everything of a run that does not change while it runs."""

  config: Any
  method: Method
  stream: TaskStream
  mesh: DataMesh
  steps: CompiledSteps
  schedule: Schedule
  base: Base | None  # the run that this one extends
  weights: Pretrained | None  # of config.model.init, if its file is there

  @property
  def seed(self) -> int:
    return self.schedule.seed

  def abstract(self, kind: str) -> PyTree:
    """Shapes, dtypes and placement of the student's state or the generator's."""
    init = self.steps.new_student if kind == 'student' else partial(self.steps.new_generator, 0)
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.mesh.replicated)
    return jax.tree.map(place, jax.eval_shape(init))

  def class_order(self) -> dict[str, list]:
    """Names and original ids of the classes in learning order."""
    return {'names': list(self.stream.class_names), 'original_ids': list(self.schedule.tasks.order)}

  @property
  def streams(self) -> bool:
    """Whether images are decoded during training: there are too many, or each is cropped at random."""
    data, images = self.config.data, self.schedule.pool_size(self.stream.sizes)
    return data.crop == 'resized' or images * math.prod(self.stream.image_shape) > data.device_mib * 2**20

  def image_bytes(self) -> int:
    """Bytes of the images in the host's memory: those of a task and the memory, twice, and the test images."""
    if self.streams:
      return 0
    tests = len(self.stream.test_labels(self.schedule.tasks.num_tasks - 1))
    return (2 * self.schedule.pool_size(self.stream.sizes) + tests) * math.prod(self.stream.image_shape)

  def begin(self) -> Progress:
    """Where the run stands before its first step."""
    task, phase = self.schedule.start
    names = 'accuracy', 'top5_accuracy', 'task_aware_accuracy'
    known = {name: list(self.base.results[f'{name}_matrix']) for name in names} if self.base else {}
    return Progress(task=task, phase=phase, history=EvalHistory(**known))

  def tests_at_hand(self) -> list[int]:
    """How many test images of each task exist now."""
    tasks = self.schedule.tasks
    of_task = tasks.task_of_class[self.stream.test_labels(tasks.num_tasks - 1)]
    return np.bincount(of_task, minlength=tasks.num_tasks).tolist()

  def test_counts(self) -> list[int]:
    """How many test images each task has. If they are missing: how many the run had that this one extends."""
    counts = self.tests_at_hand()
    before = self.base.results['test_images'] if self.base else counts
    return [count or before[task] for task, count in enumerate(counts)]

  def superseded(self, task: int, name: str, needed: int = 0) -> list[TeacherId]:
    """The frozen models that config.teachers_kept gives up when that phase of `task` begins.

    needed: how many of the newest stay in any case.
    """
    kept = max(self.config.teachers_kept, needed) if self.config.teachers_kept else None
    return [one for one in self.schedule.frozen_before(task, name)[:-kept] if one != BASE] if kept else []

  def base_snapshot(self) -> TaskSnapshot:
    """The last model of the run that this one extends, its head grown, on the devices."""
    assert self.base is not None
    own_data = len(self.stream.labels(0)) > 0  # other data have no training images of the learnt classes
    memory, size = self.base.snapshot.memory, self.schedule.memory_size
    memory = pad(unpad(memory), size) if size else {}
    model = grown(self.base, freeze(self.steps.new_student()), own_data)
    return self.mesh.replicate(TaskSnapshot(model, memory))

  def pretrained(self, student: TrainState) -> TrainState:
    """The student with the trunk of config.model.init, if that is set. Raises UserError if its file is missing."""
    if not self.config.model.init:
      return student
    if not self.weights:
      raise UserError(f'{self.config.model.init} is missing: this run has not begun. Put the file there.')
    with_trunk = lambda tree, trunk: self.mesh.replicate(tree | {'backbone': trunk})
    return student.replace(
      params=with_trunk(student.params, self.weights.params),
      batch_stats=with_trunk(student.batch_stats, self.weights.batch_stats),
    )

  def manifest(self, task: int) -> dict:
    """All that is needed to use a model frozen during 0-based `task` without its data set."""
    flat = flatten(self.config.to_dict())
    fields = {name: value for name, value in flat.items() if name not in config_lib.FREE_FIELDS}
    return {
      'schema_version': SCHEMA,
      'abd_jax': __version__,
      'task': task,
      'class_order': self.class_order(),
      'task_sizes': list(self.schedule.tasks.sizes),
      'image_shape': list(self.stream.image_shape),
      'value_range': list(self.stream.dataset.value_range),
      'config': unflatten_dict(fields, sep='.'),
      'init': pretrained.name_of(self.config.model.init),
    }


def build(config) -> Plan:
  """Builds everything that `config` describes. Raises UserError if parts of it do not fit together."""
  config_lib.check(config)
  pin_numbers()
  base = read_base(config.extends) if config.extends else None
  weights = None if base else pretrained.of(config.model, config.data.download)
  stream = open_stream(config, base)
  known = len(base.sizes) if base else 0
  _check_classes(stream, known)
  config = infer_config(config, stream.dataset, stream.tasks.original_ids(0), weights)
  method = methods.get(config)
  if base and method.offline:
    raise UserError(f"method '{config.method}' learns all classes at once, so it extends no model. Choose another.")
  devices = backend.devices()
  if config.devices > len(devices):
    raise UserError(f'config.devices={config.devices}, but there are only {len(devices)}. Use 0 for all.')
  mesh = DataMesh(devices[: config.devices or len(devices)])
  _check_batches(flatten(config.to_dict()), stream.sizes[known:], mesh.size)
  seed = config.seed if config.seed >= 0 else config.trial
  classes = sum(stream.tasks.sizes)
  memory_size = capacity(config.memory, classes) if method.memory else 0
  if method.memory and memory_size < classes:
    raise UserError(f'config.memory.size: expected at least {classes}, an image for each class, got {memory_size}.')
  stored = base.stored(method, config.memory) if base else ()
  batch, inversion_steps, per_class = config.student.batch_size, config.inversion.steps, config.memory.per_class
  schedule = Schedule(method, stream.tasks, seed, batch, inversion_steps, memory_size, known, stored, per_class)
  schedule.total_steps(stream.labels)  # raises now if a phase cannot work
  components = make_components(config, stream.tasks.num_classes, stream.image_shape, mesh)
  steps = compile_steps(config, components, method, stream.image_shape, seed, mesh)
  plan = Plan(config, method, stream, mesh, steps, schedule, base, weights)
  check_memory(plan.image_bytes())
  return plan


def _check_classes(stream: TaskStream, known: int) -> None:
  """Raises UserError for a class without training images or a task without test images.

  Prints the classes without test images. known: how many tasks were learnt before; they need no images.
  """
  tasks = stream.tasks
  in_test = np.bincount(stream.test_labels(tasks.num_tasks - 1), minlength=tasks.num_classes)
  untested = []
  for task in range(known, tasks.num_tasks):
    in_train = np.bincount(stream.labels(task), minlength=tasks.num_classes)
    classes = np.flatnonzero(tasks.task_of_class == task)
    names = [stream.class_names[c] for c in classes]
    if empty := [name for name, c in zip(names, classes, strict=True) if not in_train[c]]:
      raise UserError(f"class '{empty[0]}' of task {task + 1} has no training images. Leave it out of the tasks.")
    untested += [name for name, c in zip(names, classes, strict=True) if not in_test[c]]
    if not in_test[classes].any():
      what = f'task {task + 1} has no test images ({", ".join(names[:3])})'
      raise UserError(f'{what}. Add some, or change config.class_order.')
  if untested:
    count, some = len(untested), ', '.join(untested[:5])
    print(f'classes without test images, so without accuracy: {count} ({some})', file=sys.stderr)


def _check_batches(flat: dict[str, Any], images: Sequence[int], devices: int) -> None:
  """Raises UserError for a batch that does not divide over the devices. Tells of tasks that do not fill one.

  flat: a flat config. images: of each task, for training.
  """
  for name in ('student.batch_size', 'inversion.batch_size', 'eval_batch_size'):
    if flat[name] % devices:
      raise UserError(f'config.{name}={flat[name]}: expected a multiple of {devices}, the number of devices.')
  batch = flat['student.batch_size']
  if small := [count for count in images if count < batch]:
    print(
      f'tasks with fewer training images than config.student.batch_size={batch}: {len(small)} of {len(images)}, the '
      f'smallest with {min(small)}; their batches repeat images',
      file=sys.stderr,
    )


def results_of(plan: Plan, progress: Progress, steps: dict[str, int]) -> dict[str, Any]:
  """The keys of results.json; docs/results.md documents them. steps: of the student and of the generator."""
  history, counts = progress.history, plan.test_counts()
  return {
    'schema_version': RESULTS_SCHEMA,
    'method': plan.config.method,
    'class_order': plan.class_order(),
    'task_sizes': list(plan.schedule.tasks.sizes),
    'test_images': counts,
    **metrics.summary(history.accuracy, counts),
    'top5_accuracy_matrix': history.top5_accuracy,
    'final_top5_accuracy': metrics.final_accuracy(history.top5_accuracy, counts),
    'task_aware_accuracy_matrix': history.task_aware_accuracy,
    'final_task_aware_accuracy': metrics.final_accuracy(history.task_aware_accuracy, counts),
    'class_accuracy': history.class_accuracy,
    'class_top5_accuracy': history.class_top5_accuracy,
    'seconds': progress.seconds,
    'steps': steps,
    'seed': plan.seed,
    **environment(plan.mesh.size),
    'stretches': progress.stretches,
    'config': as_json(plan.config.to_dict()),
  }
