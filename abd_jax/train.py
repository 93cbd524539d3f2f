"""READ FIRST: the loop over tasks.

Each task: the student learns its images phase by phase, is evaluated on every class seen so far, and is frozen as
the next task's teacher; for methods that dream, a generator is trained by inverting it first. No image of a task
outlives the task.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import config as config_lib
from abd_jax import methods, metrics, report
from abd_jax.checkpoint import abstract_like
from abd_jax.data.sources import Dataset, TaskStream, open_dataset
from abd_jax.errors import UserError
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
  config_lib.check(config)
  method = methods.get(config)
  data = open_dataset(config.data.name, config.data.dir, folds=config.data.folds, fold=config.data.fold)
  order = parse_class_order(config.class_order, data.num_classes, config.trial)
  sizes = split(data.num_classes, config.tasks, config.first_task_classes, tuple(config.task_sizes))
  stream = TaskStream(data, Tasks(order, sizes))
  place = Placement(_devices(config.devices))
  _check_batches(config, stream.sizes, place.size)
  with Workdir(workdir, config.to_dict()) as files:
    return files.read_results() or _run(config, method, data, stream, place, files)


def _run(config, method: Method, data: Dataset, stream: TaskStream, place: Placement, files: Workdir) -> dict:
  """The loop: what is left of a run whose parts fit together."""
  seed = config.seed if config.seed >= 0 else config.trial
  kit = make_kit(config, data.num_classes, data.image_shape, place.constrain)
  programs = make_programs(config, kit, method, data.image_shape, seed, place)
  abstract = {
    'student': abstract_like(programs.new_student, place.replicated),
    'generator': abstract_like(lambda: programs.new_generator(0), place.replicated),
  }
  with Session(files, abstract, config, _total_steps(config, method, stream.sizes)) as session:
    run = Run(config, method, stream, place, programs, session, abstract, seed)
    for task in range(session.position.task, stream.tasks.num_tasks):
      run.learn(task)
      if method.dreams and task + 1 < stream.tasks.num_tasks:
        run.dream(task)
      run.freeze(task)
    results = _results(config, method, stream, session, seed)
  files.write_results(results)
  return results


class Run:
  """The student, its generator and its teachers on their way through the tasks.

  Every method goes on from session.position, so it does nothing that an earlier process has done.
  """

  def __init__(self, config, method: Method, stream: TaskStream, place: Placement, programs: Programs,
               session: Session, abstract: dict[str, PyTree], seed: int):  # fmt: skip
    self.config, self.method, self.stream, self.place = config, method, stream, place
    self.programs, self.session, self.seed = programs, session, seed
    self.tasks = stream.tasks
    self.test_images, self.test_labels = stream.test(self.tasks.num_tasks - 1)
    self.student = session.states.get('student') or programs.new_student()
    self.generator, self.teachers = None, ()
    if method.dreams:
      self.generator = session.states.get('generator') or programs.new_generator(0)
    if session.position.task > 0:
      like = as_teacher(abstract['student'], abstract['generator'] if method.dreams else None)
      self.teachers = (session.checkpoints.load_teacher(session.position.task - 1, like),)

  def learn(self, task: int) -> None:
    """Trains the student on one task, phase by phase, and adds a row to the accuracy matrix."""
    at, phases = self.session.position, self.method.phases(task)
    if at.phase >= len(phases):
      return
    images, labels = self.stream.task(task)
    context = self._context(task, (), images, labels)
    while at.phase < len(phases):
      phase = phases[at.phase]
      if at.step == 0 and phase.reset_optimizer:
        self.student = self.programs.reset_optimizer(self.student)
      inputs = EpochIndices((self.seed, task, at.phase), len(images), self.config.student.batch_size, phase)
      chunk, size = self.programs.train[phase], self.config.student.batch_size * (1 + phase.dreams)
      context = context.replace(teachers=self.teachers[: phase.teachers])
      self.student = self.session.run('student', 'learning', chunk, self.student, context, inputs, inputs.steps, size)
      if at.phase + 1 == len(phases):
        self.evaluate(task)
      at.phase, at.step = at.phase + 1, 0
      self.session.save('student', self.student)

  def evaluate(self, task: int) -> None:
    """Accuracy on the test images of every task so far, predicting among all classes seen."""
    with self.session.clock('evaluate'):
      seen = self.tasks.task_of_class[self.test_labels] <= task
      variables = {'params': self.student.params, 'batch_stats': self.student.batch_stats}
      predictions = predict_all(
        self.programs.predict,
        variables,
        self.test_images[seen],
        self._classes(task),
        self.config.eval_batch_size,
      )
      labels = self.test_labels[seen]
      row = metrics.accuracy_row(predictions, labels, self.tasks.task_of_class, task + 1)
    self.session.evaluated(row, float(np.mean(predictions == labels)))

  def dream(self, task: int) -> None:
    """Trains the generator against the student as it now is, and keeps a picture of what it dreams."""
    inversion, at = self.config.inversion, self.session.position
    teacher = as_teacher(self.student, None)
    context = self._context(task, (teacher,))
    if at.step == 0 and not inversion.warm_start:
      fresh = self.programs.new_generator(task)
      self.generator = fresh.replace(step=self.generator.step)
    self.generator = self.session.run(
      'generator', 'dreaming', self.programs.invert, self.generator, context,
      lambda start, stop: np.full(stop - start, inversion.lr, np.float32), inversion.steps, inversion.batch_size,
    )  # fmt: skip
    dreams, labels = jax.device_get(self.programs.picture(variables_of(self.generator), context))
    names = [self.stream.class_names[label] for label in labels]
    if self.session.workdir.is_main:
      report.save_grid(dreams, names, self.session.workdir.dream_file(task))

  def freeze(self, task: int) -> None:
    """The student, and the generator that dreams of it, become the next task's teacher."""
    # A copy: the training step reuses the student's buffers.
    dreamed = self.method.dreams and task + 1 < self.tasks.num_tasks
    teacher = jax.tree.map(jnp.copy, as_teacher(self.student, self.generator if dreamed else None))
    self.session.checkpoints.save_teacher(task, teacher)
    self.teachers = (teacher,)
    at = self.session.position
    at.task, at.phase, at.step = task + 1, 0, 0
    if dreamed:
      self.session.save('generator', self.generator)

  def _classes(self, task: int) -> Classes:
    return self.place.replicate(Classes(self.tasks.task_of_class, np.int32(task)))

  def _context(self, task: int, teachers: tuple[Teacher, ...], images=None, labels=None) -> Context:
    """The task's images go to the devices once, padded to the largest task's number: one shape for all tasks."""
    if images is not None:
      missing = max(self.stream.sizes) - len(images)
      images = self.place.replicate(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))))
      labels = self.place.replicate(np.pad(labels, (0, missing)))
    seed = self.place.replicate(np.uint32(self.seed))
    return Context(images, labels, self._classes(task), teachers, seed)


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


def _total_steps(config, method: Method, sizes: tuple[int, ...]) -> int:
  learning = sum(
    phase.epochs * (size // config.student.batch_size)
    for task, size in enumerate(sizes)
    for phase in method.phases(task)
  )
  return learning + method.dreams * config.inversion.steps * (len(sizes) - 1)


def _results(config, method: Method, stream: TaskStream, session: Session, seed: int) -> dict:
  """The keys of results.json; the README documents them."""
  tasks, at = stream.tasks, session.position
  counts = np.bincount(tasks.task_of_class[stream.test(tasks.num_tasks - 1)[1]], minlength=tasks.num_tasks)
  return {
    'schema_version': 1,
    'method': config.method,
    'class_order': {'names': list(stream.class_names), 'original_ids': list(tasks.order)},
    'task_sizes': list(tasks.sizes),
    'test_images': counts[: tasks.num_tasks].tolist(),
    **metrics.summary(at.accuracy, counts),
    'seconds': at.seconds,
    'seed': seed,
    **report.environment(),
    'config': session.workdir.config,
  }
