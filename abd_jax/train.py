"""READ FIRST: the loop over tasks.

Each task: the student learns its images phase by phase, is evaluated on every class seen so far, and is frozen as
the next task's teacher; for methods that dream, a generator is trained by inverting it first. No image of a task
outlives the task, but for those that a method with a memory picks.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax import memory as memory_lib
from abd_jax import metrics, oracle, report
from abd_jax.inversion import ConstantRate
from abd_jax.memory import Memory, Pool
from abd_jax.session import Measured, Session
from abd_jax.setup import Setup, as_teacher, make_setup, total_steps, variables_of
from abd_jax.state import Classes, Context, Frozen, Teacher, TrainState
from abd_jax.student import EpochIndices, in_batches
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
    results = (_upper_bound if setup.method.offline else _task_after_task)(setup, files)
    files.write_results(results)
  return results


def _task_after_task(setup: Setup, files: Workdir) -> dict:
  with Session(files, setup.abstract, setup.config, total_steps(setup)) as session:
    run = Run(setup, session)
    for task in range(session.position.task, setup.stream.tasks.num_tasks):
      run.learn(task)
      run.dream(task)
      run.freeze(task)
    steps = {'student': int(run.student.step), 'generator': int(run.generator.step) if run.generator else 0}
    at = session.position
    return _results(setup, files, run.test_labels, at.measured, at.seconds, steps)


def _upper_bound(setup: Setup, files: Workdir) -> dict:
  """For each task the row of a model of its own."""
  config, tasks = setup.config, setup.stream.tasks
  root = Path(config.oracle_dir).absolute() if config.oracle_dir else files.path.parent / 'oracles'
  parts = oracle.run(config, tasks, setup.seed, root, train_and_evaluate)
  _, labels = setup.stream.test(tasks.num_tasks - 1)
  measured = Measured()
  for part in parts:
    measured.class_accuracy, measured.class_top5_accuracy = part['class_accuracy'], part['class_top5_accuracy']
    measured.accuracy.append(metrics.by_task(measured.class_accuracy, labels, tasks.task_of_class))
    measured.top5_accuracy.append(metrics.by_task(measured.class_top5_accuracy, labels, tasks.task_of_class))
  total = lambda name: {key: sum(part[name][key] for part in parts) for key in parts[0][name]}
  return _results(setup, files, labels, measured, total('seconds'), total('steps'))


class Run:
  """The student, its generator, its teachers and its memory on their way through the tasks.

  Every method goes on from session.position, so it does nothing that an earlier process has done.
  """

  def __init__(self, setup: Setup, session: Session):
    self.setup, self.session = setup, session
    self.config, self.method, self.programs = setup.config, setup.method, setup.programs
    self.stream, self.tasks = setup.stream, setup.stream.tasks
    self.student = session.states.get('student') or self.programs.new_student()
    self.generator = None
    if self.method.inverts:
      self.generator = session.states.get('generator') or self.programs.new_generator(0)
    self.teachers, self.memory = (), memory_lib.empty(self.stream.image_shape)
    for name in setup.frozen_before(session.position.task, session.position.phase):
      self._adopt(session.checkpoints.load_teacher(name, setup.abstract_frozen(name)))
    # Only now, with all that can be damaged read, is anything written.
    self.stream.on_read(session.workdir.log_read)
    self.test_images, self.test_labels = self.stream.test(self.tasks.num_tasks - 1)

  def learn(self, task: int) -> None:
    """Trains the student on one task, phase by phase, and adds a row to the accuracy matrix."""
    at, phases = self.session.position, self.method.phases(task)
    if at.phase >= len(phases):
      return
    if at.phase == at.step == 0 and self.method.start_task:
      self.student = self.programs.start_task(self.student, np.uint32(self.setup.seed), self._classes(task))
    images, labels = self.stream.task(task)
    while at.phase < len(phases):
      phase, pool = phases[at.phase], memory_lib.join(images, labels, self.memory)
      if at.step == 0 and phase.reset_optimizer:
        self.student = self.programs.reset_optimizer(self.student)
      rows = self.setup.rows(task, at.phase, pool)
      inputs = EpochIndices((self.setup.seed, task, at.phase), rows, self.config.student.batch_size, phase)
      context = self._context(task, pool).replace(teachers=self.teachers[: phase.teachers])
      self.student = self.session.run('student', self.programs.train[phase], self.student, context, inputs)
      if at.phase + 1 == len(phases):
        self.evaluate(task)
      elif phase.freeze_after:
        self._freeze(task, at.phase, None)
      at.phase, at.step = at.phase + 1, 0
      self.session.save('student', self.student)

  def evaluate(self, task: int) -> None:
    """Accuracy on the test images of every task so far, predicting among all classes seen."""
    seen = self.tasks.task_of_class[self.test_labels] <= task
    images, labels = self.test_images[seen], self.test_labels[seen]
    with self.session.clock('evaluate'):
      predict = partial(self.programs.predict, as_teacher(self.student, None), classes=self._classes(task))
      ranking = in_batches(predict, images, self.config.eval_batch_size)
    hits, hits_in_5 = ranking[:, 0] == labels, (ranking == labels[:, None]).any(1)
    tasks, classes = self.tasks.task_of_class[labels], sum(self.tasks.sizes[: task + 1])
    measured = self.session.position.measured
    measured.accuracy.append(metrics.accuracy_row(hits, tasks, task + 1))
    measured.top5_accuracy.append(metrics.accuracy_row(hits_in_5, tasks, task + 1))
    measured.class_accuracy = metrics.accuracy_row(hits, labels, classes)
    measured.class_top5_accuracy = metrics.accuracy_row(hits_in_5, labels, classes)
    self.session.evaluated(float(np.mean(hits)))

  def dream(self, task: int) -> None:
    """Trains the generator against the student as it now is, and keeps a picture of what it dreams."""
    if not self.setup.dreams_after(task):
      return
    context = self._context(task).replace(teachers=(as_teacher(self.student, None),))
    # Pixels are always optimised afresh: they are images of these classes, not a way to make any.
    warm = self.config.inversion.warm_start and self.config.inversion.what == 'generator'
    if self.session.position.step == 0 and not warm:
      fresh = self.programs.new_generator(task)
      self.generator = fresh.replace(step=self.generator.step)
    inputs = ConstantRate(self.config.inversion)
    self.generator = self.session.run('generator', self.programs.invert, self.generator, context, inputs)
    dreams, labels = jax.device_get(self.programs.picture(variables_of(self.generator), context))
    if self.session.workdir.is_main:
      names = [self.stream.class_names[label] for label in labels]
      report.save_grid(dreams, names, self.session.workdir.dream_file(task))

  def freeze(self, task: int) -> None:
    """The student, and the generator that dreams of it, become the next task's teacher; a memory is refreshed."""
    at, dreamed = self.session.position, self.setup.dreams_after(task)
    self._freeze(task, len(self.method.phases(task)) - 1, self.generator if dreamed else None)
    at.task, at.phase, at.step = task + 1, 0, 0
    if dreamed:
      self.session.save('generator', self.generator)

  def _freeze(self, task: int, phase: int, generator: TrainState | None) -> None:
    # A copy: the training step reuses the student's buffers.
    teacher = jax.tree.map(jnp.copy, as_teacher(self.student, generator))
    memory = {}
    if self.method.memory:
      memory = memory_lib.pad(self._refreshed_memory(task, phase, teacher), self.setup.memory_size)
    frozen = Frozen(teacher, memory)
    self.session.checkpoints.save_teacher(self.setup.frozen_name(task, phase), frozen)
    self._adopt(frozen)

  def _adopt(self, frozen: Frozen) -> None:
    """Makes it the newest teacher, and its memory the memory."""
    self.teachers = (frozen.teacher, *self.teachers)[: self.setup.teachers_kept]
    if frozen.memory:
      self.memory = memory_lib.unpad(jax.device_get(frozen.memory))

  def _refreshed_memory(self, task: int, phase: int, teacher: Teacher) -> Memory:
    pool = memory_lib.join(*self.stream.task(task), self.memory)
    embed = lambda images: in_batches(partial(self.programs.embed, teacher), images, self.config.eval_batch_size)
    return self.setup.refresh(task, phase, pool, embed)

  def _classes(self, task: int) -> Classes:
    return self.setup.place.replicate(Classes(self.tasks.task_of_class, np.int32(task)))

  def _context(self, task: int, pool: Pool | None = None) -> Context:
    """The images go to the devices once, padded to one number for all tasks."""
    images = labels = None
    if pool:
      missing = self.setup.pool_size - len(pool.labels)
      images = np.pad(pool.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
      labels = np.pad(pool.labels, (0, missing))
    context = Context(images, labels, self._classes(task), (), np.uint32(self.setup.seed))
    return self.setup.place.replicate(context)


def _results(
  setup: Setup, files: Workdir, test_labels: np.ndarray, measured: Measured, seconds: dict, steps: dict
) -> dict:
  """The keys of results.json; the README documents them."""
  tasks = setup.stream.tasks
  counts = np.bincount(tasks.task_of_class[test_labels], minlength=tasks.num_tasks).tolist()
  return {
    'schema_version': 1,
    'method': setup.config.method,
    'class_order': {'names': list(setup.stream.class_names), 'original_ids': list(tasks.order)},
    'task_sizes': list(tasks.sizes),
    'test_images': counts,
    **metrics.summary(measured.accuracy, counts),
    'top5_accuracy_matrix': measured.top5_accuracy,
    'final_top5_accuracy': metrics.final_accuracy(measured.top5_accuracy, counts),
    'class_accuracy': measured.class_accuracy,
    'class_top5_accuracy': measured.class_top5_accuracy,
    'seconds': seconds,
    'steps': steps,
    'seed': setup.seed,
    **report.environment(),
    'config': files.config,
  }
