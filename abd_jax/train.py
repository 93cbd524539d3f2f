"""READ FIRST: the loop over tasks.

Each task: the student learns its images phase by phase, is evaluated on every class seen so far, and is frozen as
the next task's teacher; for methods that dream, a generator is trained by inverting it first. No image of a task
outlives the task, but for those that a method with a memory picks.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.config import changed
from abd_jax.data import memory as memory_lib
from abd_jax.data.memory import Pool
from abd_jax.devices import backend, hosts
from abd_jax.errors import UserError, system_errors_explained
from abd_jax.methods.types import Phase, TaskEnd
from abd_jax.protocol import metrics
from abd_jax.protocol.metrics import Evaluation
from abd_jax.run import queue
from abd_jax.run.checkpoint import KINDS
from abd_jax.run.plan import Plan, build, results_of
from abd_jax.run.progress import Progress
from abd_jax.run.schedule import NamedPhase
from abd_jax.run.session import Session
from abd_jax.run.workdir import Workdir, check_path, fixed, read_finished, resolve
from abd_jax.state import Classes, FrozenModel, PhaseData, TaskSnapshot, TrainState, freeze
from abd_jax.steps import chunks
from abd_jax.steps.inputs import EpochIndices, StepInputs, StreamedImages, inversion_inputs, rows_of_task
from abd_jax.steps.student import in_batches


def train_and_evaluate(config, workdir: str, on_metrics: Callable[[dict], None] | None = None) -> dict:
  """Runs `config` in `workdir`, or resumes it there, and returns the content of its results.json.

  Args:
    config: from abd_jax.load_config or abd_jax.config.default.
    workdir: the run's own folder. A finished run is only read, and needs no data unless data.dir is another folder.
    on_metrics: called with each line of metrics.jsonl as it is written, on the first host; not for an upper bound.

  Raises:
    UserError: a mistake in either, in one line.
    Paused: config.max_seconds are over, or a signal came. The same call resumes.
  """
  check_path(str(workdir))
  backend.devices()  # raises if there is no device
  given = config
  config = hosts.all_or_none(lambda: resolve(given, workdir))
  if config.trials > 1:
    raise UserError(f'config.trials={config.trials}: expected 1. `abd-jax train` runs several trials.')
  results, same_data = read_finished(workdir, config)
  if results is not None and same_data:
    return results
  with system_errors_explained(config.data.dir or 'the folder of data sets'):
    plan = hosts.all_or_none(lambda: build(config))
  if results is not None:  # data.dir is another folder, and `build` found the same images there
    return results
  config, tasks = plan.config, plan.schedule.tasks.num_tasks
  hosts.must_agree('config or data', lambda: [fixed(config.to_dict()), plan.test_counts()])
  with system_errors_explained(f'workdir {Path(workdir).absolute()}'), Workdir(workdir, config.to_dict()) as files:
    files.on_metrics = on_metrics
    results = _upper_bound(plan, files) if plan.method.offline else _learn_tasks(plan, files)
    results = files.write_results(results)
    files.remove_teachers(plan.superseded(tasks, ''))
  return results


def job(config, workdir: Path) -> queue.Job:
  """A run as a job of a queue, named after its workdir."""
  return queue.Job(
    workdir.name, lambda seconds: train_and_evaluate(changed(config, {'max_seconds': seconds}), str(workdir))
  )


def _learn_tasks(plan: Plan, files: Workdir) -> dict:
  """The loop over tasks and their phases. Begins at the newest checkpoint."""
  schedule, config = plan.schedule, plan.config
  with Session(files, plan) as session:
    progress = session.progress
    frozen = schedule.frozen_before(progress.task, progress.phase)
    learner = Learner(plan, session.states, session.load_teachers(frozen, schedule.teachers_kept))
    # By now everything that may be damaged has been read.
    plan.stream.on_read(partial(files.append, 'reads.jsonl'))
    if 0 in plan.tests_at_hand():  # `build` checks that its own tasks have some
      session.console.line('the test images of the classes learnt before are missing: only new classes are evaluated')
    for task, phase in schedule.from_place(progress.task, progress.phase):
      if phase.index == 0:
        # The last task is on disk before the next one's images are read, so it is never read again.
        session.checkpoints.wait()
      with learner.begin(task, phase, progress.step) as (step, data, inputs), session.phase(phase):
        step, left = session.traced(step, phase), range(progress.step, inputs.steps)
        for state, measured, done in chunks.run(
          step, learner.states[phase.kind], data, inputs, left, config.chunk_steps
        ):
          learner.states[phase.kind] = state
          session.chunk_done(phase, state, measured, done, inputs)
          session.save(phase, state, at_end=False)
      if phase.evaluates:
        with session.clock('evaluate'):
          if thin := learner.end_task(task):
            session.console.line(thin)
          found, collapse = learner.evaluate(task)
        progress.history.add(found)
        session.collapsed(phase, collapse)
        session.evaluated(found)
      if phase.training is None:
        dreams, labels, collapse = learner.picture(task)
        files.write_dreams(task, dreams, [plan.stream.class_names[label] for label in labels])
        session.collapsed(phase, collapse)
      if phase.frozen:
        old = plan.superseded(task, phase.name, schedule.teachers_kept)
        session.store_teacher(phase.frozen, learner.freeze(task, phase), old)
      progress.task, progress.phase, progress.step = *schedule.after(task, phase), 0
      session.save(phase, learner.states[phase.kind])
    return results_of(plan, progress, learner.steps())


def _upper_bound(plan: Plan, files: Workdir) -> dict:
  """Each row of the accuracy matrix comes from a fresh model, trained on all classes so far."""
  config, tasks = plan.config, plan.schedule.tasks
  root = Path(config.oracle_dir).absolute() if config.oracle_dir else files.path.parent / 'oracles'

  planned = queue.upper_bound(config, tasks, plan.seed, root)
  parts = queue.execute([job(*one) for one in planned], config.max_seconds).complete()
  labels, progress = plan.stream.test_labels(tasks.num_tasks - 1), Progress()
  history = progress.history
  for task, part in enumerate(parts):
    progress.stretches += [one | {'task': task} for one in part['stretches']]
    history.class_accuracy, history.class_top5_accuracy = part['class_accuracy'], part['class_top5_accuracy']
    history.accuracy.append(metrics.by_task(history.class_accuracy, labels, tasks.task_of_class))
    history.top5_accuracy.append(metrics.by_task(history.class_top5_accuracy, labels, tasks.task_of_class))
    history.task_aware_accuracy.append([None] * (task + 1))  # a model that knows one task cannot say
  total: Any = lambda name: {key: sum(part[name][key] for part in parts) for key in parts[0][name]}
  progress.seconds = total('seconds')
  return results_of(plan, progress, total('steps'))


class Learner:
  """The owner of everything that is learnt: student, generator, teachers and memory.

  states: kind -> what is trained; at first the newest saved ones, if any. frozen: the models that were frozen so far,
  the newest last.
  """

  def __init__(self, plan: Plan, states: dict[str, TrainState], frozen: list[TaskSnapshot]):
    self.plan, self.config, self.schedule = plan, plan.config, plan.schedule
    self.stream, self.tasks = plan.stream, plan.schedule.tasks
    self.states = dict(states)
    if plan.method.inverts and 'generator' not in states:
      self.states['generator'] = plan.steps.new_generator(0)
    self.teachers: tuple[FrozenModel, ...] = ()
    self.memory = memory_lib.empty(self.stream.image_shape)
    for snapshot in frozen:
      self._adopt(snapshot)
    if 'student' not in states:
      self.states['student'] = self._first_student()
    self._pooled: dict[int, Pool] = {}  # of the current task
    tested = self.stream.test(self.tasks.num_tasks - 1)
    self.test_labels = tested.labels
    self.test_images = tested if plan.streams else tested.decode()[0]

  def _first_student(self) -> TrainState:
    """A fresh one, its trunk pretrained if the config says so. If the run extends another: that one's last model."""
    student = self.plan.steps.new_student()
    if not self.schedule.known:
      return self.plan.pretrained(student)
    model = jax.tree.map(jnp.copy, self.teachers[0])  # a copy: the training step reuses the student's buffers
    kept = {name: getattr(model, name) for name in ('params', 'batch_stats', 'extra', 'statistics')}
    return student.replace(**kept)

  def steps(self) -> dict[str, int]:
    """How many steps the student and the generator have taken, over the whole run."""
    return dict.fromkeys(KINDS, 0) | {kind: int(state.step) for kind, state in self.states.items()}

  @property
  def student(self) -> TrainState:
    return self.states['student']

  @contextmanager
  def begin(self, task: int, phase: NamedPhase, step: int) -> Iterator[tuple[chunks.Chunk, PhaseData, StepInputs]]:
    """Gives (compiled step, what all steps read, inputs of each step) of a phase. Step 0 makes the phase's resets."""
    if phase.training:
      data = self._begin_learning(task, phase.index, phase.training, step)
      with self._inputs(task, phase.index, phase.training) as inputs:
        yield self.plan.steps.train[phase.training], data, inputs
    else:
      yield self.plan.steps.invert, self._begin_dreaming(task, step), inversion_inputs(self.config.inversion)

  def _begin_learning(self, task: int, index: int, phase: Phase, step: int) -> PhaseData:
    steps = self.plan.steps
    if step == 0 and index == 0 and steps.start_task:
      self.states['student'] = steps.start_task(self.student, np.uint32(self.plan.seed), self._classes(task))
    if step == 0 and phase.reset_optimizer:
      self.states['student'] = steps.reset_optimizer(self.student)
    return self._phase_data(task, self._pool(task)).replace(teachers=self.teachers[: phase.teachers])

  def _begin_dreaming(self, task: int, step: int) -> PhaseData:
    """Inversion of the student as it now is."""
    # Pixels always start anew: they are images of these classes, not a way to make images.
    warm = self.config.inversion.warm_start and self.config.inversion.what == 'generator'
    if step == 0 and not warm:
      step_count = self.states['generator'].step
      self.states['generator'] = self.plan.steps.new_generator(task).replace(step=step_count)
    return self._phase_data(task).replace(teachers=(freeze(self.student),))

  def _inputs(self, task: int, index: int, phase: Phase) -> AbstractContextManager[StepInputs]:
    """Each step's rows of the images on the devices, or the images themselves."""
    pooled, mesh = self._pool(task), self.plan.mesh
    rows = self.schedule.rows(task, index, pooled)
    indices = EpochIndices((self.plan.seed, task, index), rows, self.config.student.batch_size, phase)
    if not pooled.streams:
      return nullcontext(indices)
    return StreamedImages(indices, pooled, mesh.local_rows(indices.batch_size), mesh.split_steps)

  def end_task(self, task: int) -> str:
    """Brings the method's statistics, if it keeps any, up to the student; says what is thin about them, or ''."""
    steps = self.plan.steps
    if not steps.end_task:
      return ''
    pooled, data, batches = self._pool(task), self._phase_data(task), itertools.count()
    new = freeze(self.student, self.states.get('generator'))
    # The model of the task before, which the statistics are of: whatever was frozen during this task is newer.
    old = self.teachers[sum(phase.freeze_after for phase in self.plan.method.later[:-1])] if task else new
    old = None if self.plan.method.still else old
    embed = lambda images: steps.embed_by_both(old, new, images, data, np.int32(next(batches)))
    by_old, by_new = in_batches(embed, pooled.task_images, self.config.eval_batch_size)
    labels = pooled.labels[~pooled.is_memory]
    rows = self.plan.mesh.replicate(rows_of_task(labels, by_old, by_new, max(self.stream.sizes)))
    told = TaskEnd(**rows, classes=data.classes, statistics=self.student.statistics)
    self.states['student'] = self.student.replace(statistics=steps.end_task(told))
    return metrics.thin(labels, by_new[:, 0])

  def evaluate(self, task: int) -> tuple[Evaluation, str]:
    """(the student on the test images of every task so far, why it has collapsed; '' if it has not)."""
    of_task = self.tasks.task_of_class[self.test_labels]
    n, classes = int(np.sum(of_task <= task)), sum(self.tasks.sizes[: task + 1])  # test images are sorted by task
    predict = partial(self.plan.steps.predict, freeze(self.student), classes=self._classes(task))
    logits = in_batches(predict, self.test_images, self.config.eval_batch_size, n)
    found = metrics.evaluate(logits[:, :classes], self.test_labels[:n], self.tasks.task_of_class[:classes])
    pool, phases = self._pool(task), self.schedule.phases(task)
    judged = sum(self.schedule.phase_steps(task, phase, pool) for phase in phases) >= metrics.JUDGED
    return found, metrics.at_chance(found.hits, of_task[:n] == task, classes) if judged else ''

  def picture(self, task: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(images f[n, h, w, c], labels i[n]) that the generator dreams of the student after `task`.

    The third value is why the generator has collapsed; '' if it has not.
    """
    data = self._phase_data(task).replace(teachers=(freeze(self.student),))
    dreams, labels = jax.device_get(self.plan.steps.picture(self.states['generator'].variables, data))
    judged = self.config.inversion.steps >= metrics.JUDGED
    return dreams, labels, metrics.dead(dreams, labels, sum(self.tasks.sizes[: task + 1])) if judged else ''

  def freeze(self, task: int, phase: NamedPhase) -> TaskSnapshot:
    """Makes the student the newest teacher, with the generator that dreams of it; refreshes the memory."""
    generator = None if phase.training else self.states['generator']
    # A copy: the training step reuses the student's buffers.
    model, memory = jax.tree.map(jnp.copy, freeze(self.student, generator)), {}
    if self.plan.method.memory:
      pooled, last = self._pool(task), len(self.plan.method.phases(task)) - 1
      features = None
      if memory_lib.looks_at_features(self.plan.method.memory, pooled):
        embed = partial(self.plan.steps.embed, model)
        features = in_batches(embed, pooled.task_images, self.config.eval_batch_size)
      rows = self.schedule.kept_rows(task, min(phase.index, last), pooled, features)
      memory = memory_lib.pad(pooled.take(rows), self.schedule.memory_size)
    snapshot = TaskSnapshot(model, memory)
    self._adopt(snapshot)
    return snapshot

  def _adopt(self, snapshot: TaskSnapshot) -> None:
    """Makes its model the newest teacher, and its memory the memory."""
    self.teachers = (snapshot.model, *self.teachers)[: self.schedule.teachers_kept]
    if snapshot.memory:
      self.memory = memory_lib.unpad(jax.device_get(snapshot.memory))
    self._pooled = {}

  def _pool(self, task: int) -> Pool:
    """The task's images and the memory's: decoded and copied once, or left on disk to be streamed."""
    if task not in self._pooled:
      source = self.stream.task(task)
      if self.plan.streams:
        self._pooled = {task: memory_lib.streamed(source, self.memory)}
      else:
        images, labels = source.decode()
        self._check_range(images)
        size = self.schedule.pool_size(self.stream.sizes)
        self._pooled = {task: memory_lib.gather(images, labels, self.memory, size)}
    return self._pooled[task]

  def _check_range(self, images: np.ndarray) -> None:
    """Raises UserError for values above white: `predict` would refuse such images."""
    white, highest = self.config.data.max_value, int(images.max())
    if highest > white:
      raise UserError(
        f"images of '{self.stream.dataset.name}' have values up to {highest}, above config.data.max_value={white:g}. "
        'Set it to the value of white, in another --workdir.'
      )

  def _classes(self, task: int) -> Classes:
    return self.plan.mesh.replicate(Classes(self.tasks.task_of_class, np.int32(task)))

  def _phase_data(self, task: int, pooled: Pool | None = None) -> PhaseData:
    """What all steps of a phase read, on the devices."""
    images, labels = (None, None) if pooled is None or pooled.streams else (pooled.images, pooled.padded_labels())
    data = PhaseData(images, labels, self._classes(task), (), np.uint32(self.plan.seed))
    return self.plan.mesh.replicate(data)
