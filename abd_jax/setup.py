"""What a run is, before its first step: method, data, devices and compiled programs, checked to fit together."""

from typing import Any, NamedTuple

import jax
import numpy as np

from abd_jax import config as config_lib
from abd_jax import memory as memory_lib
from abd_jax import methods
from abd_jax.checkpoint import abstract_like
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.errors import UserError
from abd_jax.kit import make_kit
from abd_jax.memory import Memory, Pool
from abd_jax.methods import Method
from abd_jax.programs import Programs, make_programs
from abd_jax.sharding import Placement
from abd_jax.state import Frozen, Teacher, TrainState
from abd_jax.student import steps_per_epoch
from abd_jax.tasks import Tasks, parse_class_order, split

PyTree = Any
POOL_ROUNDING = 256  # images


class Setup(NamedTuple):
  """Everything of a run that does not change while it runs."""

  config: Any
  method: Method
  stream: TaskStream
  place: Placement
  programs: Programs
  abstract: dict[str, PyTree]  # shapes, dtypes and placement of 'student' and 'generator'
  seed: int

  def dreams_after(self, task: int) -> bool:
    """Whether a generator is trained at the end of `task`: not after the last."""
    return self.method.inverts and task + 1 < self.stream.tasks.num_tasks

  @property
  def memory_size(self) -> int:
    """Images; 0 for a method that stores none."""
    return self.config.memory.size if self.method.memory else 0

  @property
  def pool_size(self) -> int:
    """Images on the devices: a phase's most, rounded up, so that other class orders find their programs compiled."""
    most = max(self.stream.sizes) + self.memory_size
    return -(-most // POOL_ROUNDING) * POOL_ROUNDING

  @property
  def teachers_kept(self) -> int:
    """How many frozen models a phase may ask for, at least one."""
    return max(1, *(phase.teachers for phase in self.method.later))

  def rows(self, task: int, phase: int, pool: Pool) -> np.ndarray:
    """i64[n]: the rows of `pool` that a phase trains on."""
    return self.method.phases(task)[phase].data(pool, np.random.default_rng([self.seed, task, phase, 1]))

  def refresh(self, task: int, phase: int, pool: Pool, embed, keeping: memory_lib.Keeping | None = None) -> Memory:
    """The memory after a phase that ends in a frozen model."""
    rng = np.random.default_rng([self.seed, task, phase, 2])
    rows = self.rows(task, phase, pool)
    return memory_lib.refresh(keeping or self.method.memory, self.memory_size, pool, rows, embed, rng)

  def frozen_name(self, task: int, phase: int) -> str:
    """The folder of the model that is frozen after a phase; '' if none is."""
    phases = self.method.phases(task)
    if phase + 1 == len(phases):
      return str(task)
    return f'{task}_phase_{phase}' if phases[phase].freeze_after else ''

  def frozen_before(self, task: int, phase: int) -> list[str]:
    """The folders of the newest models there are when `phase` of `task` begins, the newest last."""
    done = [(t, p) for t in range(task) for p in range(len(self.method.phases(t)))]
    done += [(task, p) for p in range(min(phase, len(self.method.phases(task)) - 1))]
    names = [name for name in (self.frozen_name(*ends) for ends in done) if name]
    return names[-self.teachers_kept :]

  def abstract_frozen(self, name: str) -> Frozen:
    """Shapes, dtypes and placement of what stands in a folder of frozen models."""
    generator = self.abstract['generator'] if name.isdigit() and self.dreams_after(int(name)) else None
    memory = {}
    if self.method.memory:
      nothing = memory_lib.pad(memory_lib.empty(self.stream.image_shape), self.memory_size)
      memory = abstract_like(lambda: nothing, self.place.replicated)
    return Frozen(as_teacher(self.abstract['student'], generator), memory)


def make_setup(config) -> Setup:
  """Everything `config` describes, checked to fit together. Raises UserError where it does not."""
  config_lib.check(config)
  method = methods.get(config)
  where = config.data
  data = open_dataset(where.name, where.dir, folds=where.folds, fold=where.fold, download=where.download)
  order = parse_class_order(config.class_order, data.num_classes, config.trial)
  sizes = split(data.num_classes, config.tasks, config.first_task_classes, tuple(config.task_sizes))
  stream = TaskStream(data, Tasks(order, sizes))
  place = Placement(_devices(config.devices))
  _check_batches(config, stream.sizes, place.size)
  seed = config.seed if config.seed >= 0 else config.trial
  kit = make_kit(config, data.num_classes, data.image_shape, place.constrain)
  programs = make_programs(config, kit, method, data.image_shape, seed, place)
  abstract = {
    'student': abstract_like(programs.new_student, place.replicated),
    'generator': abstract_like(lambda: programs.new_generator(0), place.replicated),
  }
  setup = Setup(config, method, stream, place, programs, abstract, seed)
  if method.memory and config.memory.size < sum(sizes):
    raise UserError(
      f'config.memory.size={config.memory.size} is less than the {sum(sizes)} classes to remember. Use at least one '
      'image for each.'
    )
  total_steps(setup)
  return setup


def variables_of(state: TrainState) -> PyTree:
  return {'params': state.params, 'batch_stats': state.batch_stats}


def as_teacher(student: TrainState, generator: TrainState | None) -> Teacher:
  """A student's weights and statistics, with its generator's if there is one, without optimizer state."""
  dreamer = variables_of(generator) if generator else {}
  return Teacher(student.params, student.batch_stats, student.extra, dreamer)


def total_steps(setup: Setup) -> int:
  """Steps of all phases and of all dreaming.

  Walks through the tasks with their labels alone, so that a split that cannot work raises its UserError at the start.
  """
  in_order = memory_lib.Keeping(lambda images, embed, rng, count: np.arange(len(images))[:count])
  total, memory = 0, memory_lib.empty(())
  for task in range(setup.stream.tasks.num_tasks):
    labels = setup.stream.labels(task)
    for k, phase in enumerate(setup.method.phases(task)):
      pool = memory_lib.join(np.zeros(len(labels), np.uint8), labels, memory)
      rows = setup.rows(task, k, pool)
      total += phase.epochs * steps_per_epoch(len(rows), setup.config.student.batch_size)
      if setup.method.memory and setup.frozen_name(task, k):
        memory = setup.refresh(task, k, pool, None, in_order)
    total += setup.config.inversion.steps * setup.dreams_after(task)
  return total


def _devices(count: int) -> list[jax.Device]:
  devices = jax.devices()
  if count > len(devices):
    raise UserError(f'config.devices={count}, but there are {len(devices)} here. Use 0 for all of them.')
  return devices[: count or len(devices)]


def _check_batches(config, sizes: tuple[int, ...], devices: int) -> None:
  batch = config.student.batch_size
  if batch > min(sizes):
    task = sizes.index(min(sizes))
    raise UserError(
      f'config.student.batch_size={batch} is larger than task {task + 1}, which has {sizes[task]} training images. '
      f'Use at most {sizes[task]}.'
    )
  for name, size in (
    ('student.batch_size', batch),
    ('inversion.batch_size', config.inversion.batch_size),
    ('eval_batch_size', config.eval_batch_size),
  ):
    if size % devices:
      raise UserError(f'config.{name}={size} does not divide over {devices} devices. Use a multiple of {devices}.')
