"""READ FIRST: the loop over tasks.

Each task: the student learns its images phase by phase, is evaluated on every class seen so far, and is frozen as
the next task's teacher; for methods that dream, a generator is trained by inverting it first. No image of a task
outlives the task, but for those that a method with a memory picks.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.config import changed
from abd_jax.data import memory as memory_lib
from abd_jax.data.memory import PooledImages
from abd_jax.data.pipeline import StreamedPool
from abd_jax.devices import backend, hosts
from abd_jax.errors import UserError, disk_errors_told
from abd_jax.methods.types import Phase
from abd_jax.protocol import metrics
from abd_jax.report.figures import save_grid
from abd_jax.run import queue, upper_bound
from abd_jax.run import session as health
from abd_jax.run.plan import Plan, build, results_of
from abd_jax.run.precompile import precompile
from abd_jax.run.progress import EvalHistory, Progress
from abd_jax.run.schedule import BASE, NamedPhase, Schedule, no_longer_kept
from abd_jax.run.session import Session
from abd_jax.run.workdir import Workdir, check_path, fixed, names_another_folder, read_finished, resolve, with_found
from abd_jax.state import Classes, FrozenModel, PhaseData, TaskSnapshot, TrainState, freeze
from abd_jax.steps.inputs import ConstantRate, EpochIndices, StepInputs, StreamedImages
from abd_jax.steps.student import in_batches


def train_and_evaluate(config, workdir: str) -> dict:
  """Runs `config` in `workdir`, or what is left of it, and returns what stands in its results.json.

  Args:
    config: as of abd_jax.config.default, or of a file in configs/.
    workdir: a folder of its own; a finished run there is only read, and needs no data unless another folder of
      photographs is named.

  Raises:
    UserError: a mistake in either, in one line.
    Paused: told to stop before the end, by config.max_seconds or a signal; the same call resumes.
  """
  check_path(str(workdir))
  backend.devices()  # none is told before anything is looked at
  given = config
  config = hosts.all_or_none(lambda: resolve(with_found(workdir, given)))
  if config.trials > 1:
    raise UserError(f'config.trials={config.trials}: this runs one. abd_jax.commands.trials.learn_trials runs several.')
  results = read_finished(workdir, config.to_dict())
  if results is not None and not hosts.any_says(names_another_folder(workdir, config)):
    return results
  with disk_errors_told(config.data.dir or 'the folder of data sets'):
    plan = hosts.all_or_none(lambda: build(config))
  if results is not None:
    return results
  config = plan.config
  hosts.must_agree('config or data', lambda: [fixed(config.to_dict()), plan.test_counts()])
  with disk_errors_told(f'workdir {Path(workdir).absolute()}'), Workdir(workdir, config.to_dict()) as files:
    results = (_upper_bound if plan.method.offline else _task_after_task)(plan, files)
    results = files.write_results(results)
    schedule = plan.schedule
    files.remove_teachers(no_longer_kept(schedule.frozen_before(schedule.tasks.num_tasks, ''), config.teachers_kept))
  return results


def job(config, workdir: Path) -> queue.Job:
  """A run as a job of a queue, named after its workdir."""
  return queue.Job(
    workdir.name, lambda seconds: train_and_evaluate(changed(config, {'max_seconds': seconds}), str(workdir))
  )


def _task_after_task(plan: Plan, files: Workdir) -> dict:
  schedule = plan.schedule
  total_steps = schedule.total_steps(plan.stream.labels)
  with Session(files, plan, total_steps) as session:
    progress = session.progress
    _check_position(schedule, progress)
    learner = Learner(plan, session)
    if plan.lacks_old_tests():
      session.console.line('the test images of the classes learnt before are not at hand: only new ones are evaluated')
    with session.clock('train'):
      precompile(plan, progress, session.console)
    for task in range(progress.task, schedule.tasks.num_tasks):
      phases = schedule.phases_from(task, progress.phase)
      for phase, following in zip(phases, (*phases[1:], None), strict=True):
        kind, state = learner.run(task, phase)
        if following:
          progress.phase_done(following.name)
        else:
          progress.task_done()
        session.save(kind, state)
    return results_of(plan, files, progress.history, progress.seconds, learner.steps(), progress.stretches)


def _check_position(schedule: Schedule, progress: Progress) -> None:
  """Raises UserError for a place that this run does not have."""
  tasks = schedule.tasks.num_tasks
  names = ['', *(phase.name for phase in schedule.phases(progress.task))] if 0 <= progress.task < tasks else ['']
  if not 0 <= progress.task <= tasks or progress.phase not in names or progress.step < 0:
    raise UserError('the newest checkpoint stands where this run has no step. Choose another --workdir.')


def _upper_bound(plan: Plan, files: Workdir) -> dict:
  """For each task the row of a model of its own."""
  config, tasks = plan.config, plan.schedule.tasks
  root = Path(config.oracle_dir).absolute() if config.oracle_dir else files.path.parent / 'oracles'

  planned = upper_bound.plan(config, tasks, plan.seed, root)
  parts = queue.execute([job(*one) for one in planned], config.max_seconds).complete()
  labels, history, stretches = plan.stream.test_labels(tasks.num_tasks - 1), EvalHistory(), []
  for task, part in enumerate(parts):
    stretches += [one | {'task': task} for one in part.get('stretches', [])]  # earlier versions wrote none
    history.class_accuracy, history.class_top5_accuracy = part['class_accuracy'], part['class_top5_accuracy']
    history.accuracy.append(metrics.by_task(history.class_accuracy, labels, tasks.task_of_class))
    history.top5_accuracy.append(metrics.by_task(history.class_top5_accuracy, labels, tasks.task_of_class))
  total: Any = lambda name: {key: sum(part[name][key] for part in parts) for key in parts[0][name]}
  return results_of(plan, files, history, total('seconds'), total('steps'), stretches)


class Learner:
  """The student, its generator, its teachers and its memory on their way through the tasks.

  Starts from session.progress, so it does nothing that an earlier process has done.
  """

  def __init__(self, plan: Plan, session: Session):
    self.plan, self.session, self.config = plan, session, plan.config
    self.schedule, self.steps_of = plan.schedule, plan.steps
    self.stream, self.tasks = plan.stream, plan.schedule.tasks
    self.generator: Any = None  # a TrainState, for methods that invert
    if plan.method.inverts:
      self.generator = session.states.get('generator') or self.steps_of.new_generator(0)
    self.teachers: tuple[FrozenModel, ...] = ()
    self.memory = memory_lib.empty(self.stream.image_shape)
    frozen = self.schedule.frozen_before(session.progress.task, session.progress.phase)
    gone = no_longer_kept(frozen, self._kept())
    needed = frozen[-self.schedule.teachers_kept :]
    # Others may have gone while config.teachers_kept said so.
    there = lambda name: name == BASE or name in needed or self.session.teacher_store.has_traces(name)
    frozen = [name for name in frozen if name not in gone and there(name)]
    for name in frozen:  # also those of no more use here: they are part of what the run leaves
      if name != BASE:
        session.teacher_store.verify(name)
    for name in needed:
      load = partial(session.teacher_store.load, name)
      self._adopt(plan.base_snapshot() if name == BASE else load(plan.abstract_snapshot(name)))
    self.student: TrainState = session.states.get('student') or self._first_student()
    self._pooled: dict[int, PooledImages | StreamedPool] = {}  # of the task at hand
    # Only now, with all that can be damaged read, is anything written.
    self.stream.on_read(session.workdir.log_read)
    self._redraw(frozen)
    tested = self.stream.test_split(self.tasks.num_tasks - 1)
    self.test_labels = tested.labels
    self.test_images = tested if plan.streams else tested.decode()[0]

  def _kept(self) -> int:
    """How many of the newest frozen models stay while the run goes on; 0: all."""
    return max(self.config.teachers_kept, self.schedule.teachers_kept) if self.config.teachers_kept else 0

  def _first_student(self) -> TrainState:
    """Untrained, but for a run that starts from the model of another: that is its newest teacher."""
    student = self.steps_of.new_student()
    if not self.schedule.known:
      return student
    # A copy: the training step reuses the student's buffers.
    model = jax.tree.map(jnp.copy, self.teachers[0])
    return student.replace(params=model.params, batch_stats=model.batch_stats, extra=model.extra)

  def steps(self) -> dict[str, int]:
    """How many the student and the generator have taken, over the whole run."""
    return {'student': int(self.student.step), 'generator': int(self.generator.step) if self.generator else 0}

  def run(self, task: int, phase: NamedPhase) -> tuple[str, TrainState]:
    """What is left of one phase; returns which state it trained, and the state."""
    if phase.training:
      self.learn(task, phase, phase.training)
    else:
      self.dream(task)
    if phase.evaluates:
      self.evaluate(task, phase)
    if phase.frozen:
      self.freeze(task, phase)
    return ('student', self.student) if phase.training else ('generator', self.generator)

  def learn(self, task: int, phase: NamedPhase, training: Phase) -> None:
    """Trains the student on the rows of one phase."""
    begins = self.session.progress.step == 0
    if begins and phase.index == 0 and self.steps_of.start_task:
      self.student = self.steps_of.start_task(self.student, np.uint32(self.plan.seed), self._classes(task))
    if begins and training.reset_optimizer:
      self.student = self.steps_of.reset_optimizer(self.student)
    pooled = self._pool(task)
    rows = self.schedule.rows(task, phase.index, pooled.pool)
    key = (self.plan.seed, task, phase.index)
    indices = EpochIndices(key, rows, self.config.student.batch_size, training)
    data = self._phase_data(task, pooled).replace(teachers=self.teachers[: training.teachers])
    with self._inputs(indices, pooled) as inputs:
      self.student = self.session.run('student', phase.name, self.steps_of.train[training], self.student, data, inputs)

  def _inputs(self, indices: EpochIndices, pooled: PooledImages | StreamedPool) -> AbstractContextManager[StepInputs]:
    """Rows of what lies on the devices, or the images themselves."""
    if isinstance(pooled, PooledImages):
      return nullcontext(indices)
    mesh = self.plan.mesh
    return StreamedImages(indices, pooled, mesh.local_rows(indices.batch_size), mesh.split_steps)

  def evaluate(self, task: int, phase: NamedPhase) -> None:
    """Accuracy on the test images of every task so far, predicting among all classes seen."""
    of_task = self.tasks.task_of_class[self.test_labels]
    n = int(np.sum(of_task <= task))  # test images are sorted by task
    of_task, labels = of_task[:n], self.test_labels[:n]
    with self.session.clock('evaluate'):
      predict = partial(self.steps_of.predict, freeze(self.student), classes=self._classes(task))
      ranking = in_batches(predict, self.test_images, self.config.eval_batch_size, n)
    hits, hits_in_5 = ranking[:, 0] == labels, (ranking == labels[:, None]).any(1)
    classes = sum(self.tasks.sizes[: task + 1])
    self.session.progress.evaluated(
      metrics.accuracy_row(hits, of_task, task + 1),
      metrics.accuracy_row(hits_in_5, of_task, task + 1),
      metrics.accuracy_row(hits, labels, classes),
      metrics.accuracy_row(hits_in_5, labels, classes),
    )
    names = list(self.stream.class_names[:classes])
    if self._learning_steps(task) >= health.JUDGED:
      self.session.collapsed(phase.name, health.at_chance(hits, of_task == task, classes))
    complete = None not in self.session.progress.history.accuracy[-1]
    seen = float(np.mean(hits)) if complete else None
    self.session.evaluated(seen, names, metrics.confusion(labels, ranking[:, 0], classes))

  def _learning_steps(self, task: int) -> int:
    """Of the student, on one task."""
    pool = self._pool(task).pool
    return sum(self.schedule.phase_steps(task, phase, pool) for phase in self.schedule.phases(task))

  def dream(self, task: int) -> None:
    """Trains the generator against the student as it now is, and keeps a picture of what it dreams."""
    data = self._phase_data(task).replace(teachers=(freeze(self.student),))
    # Pixels are always optimised afresh: they are images of these classes, not a way to make any.
    warm = self.config.inversion.warm_start and self.config.inversion.what == 'generator'
    if self.session.progress.step == 0 and not warm:
      self.generator = self.steps_of.new_generator(task).replace(step=self.generator.step)
    inputs = ConstantRate(self.config.inversion)
    self.generator = self.session.run('generator', 'dreaming', self.steps_of.invert, self.generator, data, inputs)
    dreams, labels = self._draw(task, freeze(self.student, self.generator))
    if inputs.steps >= health.JUDGED:
      self.session.collapsed('dreaming', health.dead(dreams, labels, sum(self.tasks.sizes[: task + 1])))

  def _draw(self, task: int, model: FrozenModel) -> tuple[np.ndarray, np.ndarray]:
    """Writes the picture of what `model` is dreamed of after `task`: (images f[n, h, w, c], labels i[n])."""
    data = self._phase_data(task).replace(teachers=(model.replace(generator={}),))
    dreams, labels = jax.device_get(self.steps_of.picture(model.generator, data))
    if self.session.workdir.is_main:
      names = [self.stream.class_names[label] for label in labels]
      save_grid(dreams, names, self.session.workdir.dream_file(task))
    return dreams, labels

  def _redraw(self, names: list[str]) -> None:
    """Draws the pictures of dreams that are missing for frozen models."""
    for task in (int(name) for name in names if name.isdigit()):
      if self.schedule.dreams_after(task) and not self.session.workdir.dream_file(task).exists():
        abstract = self.plan.abstract_snapshot(str(task))
        self._draw(task, self.session.teacher_store.load(str(task), abstract).model)

  def freeze(self, task: int, phase: NamedPhase) -> None:
    """The student, and the generator if it has just dreamed of it, become the newest teacher; a memory is refreshed."""
    generator = None if phase.training else self.generator
    # A copy: the training step reuses the student's buffers.
    model, memory = jax.tree.map(jnp.copy, freeze(self.student, generator)), {}
    if self.plan.method.memory:
      pooled, last = self._pool(task), len(self.plan.method.phases(task)) - 1
      features = None
      if memory_lib.looks_at_features(self.plan.method.memory, pooled.pool):
        embed = partial(self.steps_of.embed, model)
        features = in_batches(embed, pooled.task_images, self.config.eval_batch_size)
      rows = self.schedule.kept_rows(task, min(phase.index, last), pooled.pool, features)
      memory = memory_lib.pad(pooled.take(rows), self.schedule.memory_size)
    self._remove_old(task, phase)
    snapshot = TaskSnapshot(model, memory)
    self.session.teacher_store.save(phase.frozen, snapshot, self.plan.manifest(task))
    self._adopt(snapshot)

  def _remove_old(self, task: int, phase: NamedPhase) -> None:
    """Makes room for a frozen model. Nothing goes that the newest checkpoint needs: it stands in this phase."""
    if old := no_longer_kept(self.schedule.frozen_before(task, phase.name), self._kept()):
      self.session.checkpoints.wait()
      self.session.workdir.remove_teachers(old)

  def _adopt(self, snapshot: TaskSnapshot) -> None:
    """Makes its model the newest teacher, and its memory the memory."""
    self.teachers = (snapshot.model, *self.teachers)[: self.schedule.teachers_kept]
    if snapshot.memory:
      self.memory = memory_lib.unpad(jax.device_get(snapshot.memory))
    self._pooled = {}

  def _pool(self, task: int) -> PooledImages | StreamedPool:
    """The task's images and the memory's: decoded and copied once, or left to be streamed."""
    if task not in self._pooled:
      # What is read is logged for good: a run that is killed now must not go on in the task before.
      self.session.checkpoints.wait()
      split = self.stream.task_split(task)
      if self.plan.streams:
        self._pooled = {task: StreamedPool(split, self.memory)}
      else:
        images, labels = split.decode()
        self._check_range(images)
        size = self.schedule.pool_size(self.stream.sizes)
        self._pooled = {task: memory_lib.gather(images, labels, self.memory, size)}
    return self._pooled[task]

  def _check_range(self, images: np.ndarray) -> None:
    """Raises UserError for values above white: the model would be trained on what it later refuses."""
    white, highest = self.config.data.max_value, int(images.max())
    if highest > white:
      raise UserError(
        f"images of '{self.stream.dataset.name}' have values up to {highest}, above config.data.max_value={white:g}. "
        'Set it to the value of white, in another --workdir.'
      )

  def _classes(self, task: int) -> Classes:
    return self.plan.mesh.replicate(Classes(self.tasks.task_of_class, np.int32(task)))

  def _phase_data(self, task: int, pooled: PooledImages | StreamedPool | None = None) -> PhaseData:
    """What all steps of a phase read, on the devices."""
    resident = isinstance(pooled, PooledImages)
    images, labels = (pooled.images, pooled.labels) if resident else (None, None)
    data = PhaseData(images, labels, self._classes(task), (), np.uint32(self.plan.seed))
    return self.plan.mesh.replicate(data)
