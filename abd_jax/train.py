"""READ FIRST: the loop over tasks.

Each task: the student learns its images phase by phase, is evaluated on every class seen so far, and is frozen as
the next task's teacher; for methods that dream, a generator is trained by inverting it first. No image of a task
outlives the task.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import config as config_lib
from abd_jax import methods, metrics, report
from abd_jax.checkpoint import abstract_like
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.errors import UserError
from abd_jax.inversion import ConstantRate
from abd_jax.kit import make_kit
from abd_jax.methods import Method
from abd_jax.programs import Programs, make_programs
from abd_jax.session import Session
from abd_jax.sharding import Placement
from abd_jax.state import Classes, Context, Teacher, TrainState
from abd_jax.student import EpochIndices, predict_all
from abd_jax.tasks import Tasks, parse_class_order, split
from abd_jax.workdir import Workdir

PyTree = Any


def train_and_evaluate(config, workdir: str) -> dict:
  """Runs `config` in `workdir`, or what is left of it, and returns what stands in its results.json.

  Raises UserError for a mistake in either, session.Paused when told to stop before the end.
  """
  setup = make_setup(config)
  with Workdir(workdir, config.to_dict()) as files:
    if (results := files.read_results()) is not None:
      return results
    with Session(files, setup.abstract, config, _total_steps(setup)) as session:
      run = Run(setup, session)
      for task in range(session.position.task, setup.stream.tasks.num_tasks):
        run.learn(task)
        run.dream(task)
        run.freeze(task)
      results = _results(run)
    files.write_results(results)
  return results


class Setup(NamedTuple):
  """What a run is, before its first step."""

  config: Any
  method: Method
  stream: TaskStream
  place: Placement
  programs: Programs
  abstract: dict[str, PyTree]  # shapes, dtypes and placement of 'student' and 'generator'
  seed: int

  def dreams_after(self, task: int) -> bool:
    """Whether a generator is trained at the end of `task`: not after the last."""
    return self.method.dreams and task + 1 < self.stream.tasks.num_tasks


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
  return Setup(config, method, stream, place, programs, abstract, seed)


class Run:
  """The student, its generator and its teachers on their way through the tasks.

  Every method goes on from session.position, so it does nothing that an earlier process has done.
  """

  def __init__(self, setup: Setup, session: Session):
    self.setup, self.session = setup, session
    self.config, self.method, self.programs = setup.config, setup.method, setup.programs
    self.stream, self.tasks = setup.stream, setup.stream.tasks
    self.test_images, self.test_labels = self.stream.test(self.tasks.num_tasks - 1)
    self.student = session.states.get('student') or self.programs.new_student()
    self.generator, self.teachers = None, ()
    if self.method.dreams:
      self.generator = session.states.get('generator') or self.programs.new_generator(0)
    if (task := session.position.task) > 0:
      like = as_teacher(
        setup.abstract['student'], setup.abstract['generator'] if setup.dreams_after(task - 1) else None
      )
      self.teachers = (session.checkpoints.load_teacher(task - 1, like),)

  def learn(self, task: int) -> None:
    """Trains the student on one task, phase by phase, and adds a row to the accuracy matrix."""
    at, phases = self.session.position, self.method.phases(task)
    if at.phase >= len(phases):
      return
    images, labels = self.stream.task(task)
    context = self._context(task, images, labels)
    while at.phase < len(phases):
      phase = phases[at.phase]
      if at.step == 0 and phase.reset_optimizer:
        self.student = self.programs.reset_optimizer(self.student)
      key = (self.setup.seed, task, at.phase)
      inputs = EpochIndices(key, len(images), self.config.student.batch_size, phase)
      context = context.replace(teachers=self.teachers[: phase.teachers])
      self.student = self.session.run('student', self.programs.train[phase], self.student, context, inputs)
      if at.phase + 1 == len(phases):
        self.evaluate(task)
      at.phase, at.step = at.phase + 1, 0
      self.session.save('student', self.student)

  def evaluate(self, task: int) -> None:
    """Accuracy on the test images of every task so far, predicting among all classes seen."""
    seen = self.tasks.task_of_class[self.test_labels] <= task
    images, labels = self.test_images[seen], self.test_labels[seen]
    with self.session.clock('evaluate'):
      predict = partial(self.programs.predict, variables_of(self.student), classes=self._classes(task))
      predictions = predict_all(predict, images, self.config.eval_batch_size)
    row = metrics.accuracy_row(predictions, labels, self.tasks.task_of_class, task + 1)
    self.session.evaluated(row, float(np.mean(predictions == labels)))

  def dream(self, task: int) -> None:
    """Trains the generator against the student as it now is, and keeps a picture of what it dreams."""
    if not self.setup.dreams_after(task):
      return
    context = self._context(task).replace(teachers=(as_teacher(self.student, None),))
    if self.session.position.step == 0 and not self.config.inversion.warm_start:
      fresh = self.programs.new_generator(task)
      self.generator = fresh.replace(step=self.generator.step)
    inputs = ConstantRate(self.config.inversion)
    self.generator = self.session.run('generator', self.programs.invert, self.generator, context, inputs)
    dreams, labels = jax.device_get(self.programs.picture(variables_of(self.generator), context))
    if self.session.workdir.is_main:
      names = [self.stream.class_names[label] for label in labels]
      report.save_grid(dreams, names, self.session.workdir.dream_file(task))

  def freeze(self, task: int) -> None:
    """The student, and the generator that dreams of it, become the next task's teacher."""
    dreamed = self.setup.dreams_after(task)
    # A copy: the training step reuses the student's buffers.
    teacher = jax.tree.map(jnp.copy, as_teacher(self.student, self.generator if dreamed else None))
    self.session.checkpoints.save_teacher(task, teacher)
    self.teachers = (teacher,)
    at = self.session.position
    at.task, at.phase, at.step = task + 1, 0, 0
    if dreamed:
      self.session.save('generator', self.generator)

  def _classes(self, task: int) -> Classes:
    return self.setup.place.replicate(Classes(self.tasks.task_of_class, np.int32(task)))

  def _context(self, task: int, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> Context:
    """The task's images go to the devices once, padded to the largest task's number: one shape for all tasks."""
    if images is not None:
      missing = max(self.stream.sizes) - len(images)
      images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
      labels = np.pad(labels, (0, missing))
    context = Context(images, labels, self._classes(task), (), np.uint32(self.setup.seed))
    return self.setup.place.replicate(context)


def variables_of(state: TrainState) -> PyTree:
  return {'params': state.params, 'batch_stats': state.batch_stats}


def as_teacher(student: TrainState, generator: TrainState | None) -> Teacher:
  """A student's weights and statistics, with its generator's if there is one, without optimizer state."""
  dreamer = variables_of(generator) if generator else {}
  return Teacher(student.params, student.batch_stats, student.extra, dreamer)


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


def _total_steps(setup: Setup) -> int:
  config, sizes = setup.config, setup.stream.sizes
  learning = sum(
    phase.epochs * (size // config.student.batch_size)
    for task, size in enumerate(sizes)
    for phase in setup.method.phases(task)
  )
  return learning + config.inversion.steps * sum(map(setup.dreams_after, range(len(sizes))))


def _results(run: Run) -> dict:
  """The keys of results.json; the README documents them."""
  setup, session, tasks = run.setup, run.session, run.tasks
  counts = np.bincount(tasks.task_of_class[run.test_labels], minlength=tasks.num_tasks)
  return {
    'schema_version': 1,
    'method': setup.config.method,
    'class_order': {'names': list(setup.stream.class_names), 'original_ids': list(tasks.order)},
    'task_sizes': list(tasks.sizes),
    'test_images': counts.tolist(),
    **metrics.summary(session.position.accuracy, counts),
    'seconds': session.position.seconds,
    'seed': setup.seed,
    **report.environment(),
    'config': session.workdir.config,
  }
