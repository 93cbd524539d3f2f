"""abd_jax.run.schedule: names, frozen models and step counts, without an image."""

import numpy as np
import pytest

from abd_jax import methods
from abd_jax.config import default
from abd_jax.data.memory import ExemplarPolicy, join
from abd_jax.methods.types import Method, Phase
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.schedule import Schedule, TeacherId

TASKS = Tasks(tuple(range(6)), (2, 2, 2))
LABELS = lambda task: np.repeat(np.array([2 * task, 2 * task + 1], np.int32), 50)


def schedule_of(method, memory_size=0, inversion_steps=7, per_class=0, **fields):
  config = default()
  config.update_from_flattened_dict({'student.epochs': 3} | {k.replace('__', '.'): v for k, v in fields.items()})
  config.method = method
  if method == 'dgr':
    config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  return Schedule(methods.get(config), TASKS, 0, 32, inversion_steps, memory_size, per_class=per_class)


@pytest.mark.parametrize(
  ('method', 'first', 'later', 'last'),
  [
    ('base', ['learning:0'], ['learning:1'], ['learning:2']),
    ('abd', ['learning:', 'dreaming:0'], ['learning:', 'dreaming:1'], ['learning:2']),
    (
      'rdfcil',
      ['learning:', 'dreaming:0'],
      ['learning:', 'learning_2:', 'dreaming:1'],
      ['learning:', 'learning_2:2'],
    ),
    ('e2e', ['learning:0'], ['learning:1_phase_0', 'learning_2:1'], ['learning:2_phase_0', 'learning_2:2']),
    ('dgr', ['learning:0'], ['learning:1'], ['learning:2']),  # what dreams is trained with the student
  ],
)
def test_phases_by_name_and_the_models_they_freeze(method, first, later, last):
  schedule = schedule_of(method, memory_size=12)
  folder = lambda phase: phase.frozen.folder if phase.frozen else ''
  of = lambda task: [f'{phase.name}:{folder(phase)}' for phase in schedule.phases(task)]
  assert [of(0), of(1), of(2)] == [first, later, last]
  for task in range(3):
    student = [phase for phase in schedule.phases(task) if phase.training]
    assert [phase.evaluates for phase in student] == [False] * (len(student) - 1) + [True]
    assert not any(phase.evaluates for phase in schedule.phases(task) if not phase.training)


def test_frozen_models_before_each_phase_the_newest_last():
  e2e, abd = schedule_of('e2e', memory_size=12), schedule_of('abd')
  assert e2e.teachers_kept == 2 and abd.teachers_kept == 1
  folders = lambda schedule, *place: [one.folder for one in schedule.frozen_before(*place)]
  assert folders(e2e, 0, '') == [] and folders(e2e, 1, 'learning') == ['0']
  assert folders(e2e, 1, 'learning_2') == ['0', '1_phase_0']
  assert folders(e2e, 2, '') == ['0', '1_phase_0', '1'] and folders(e2e, 3, '')[-2:] == ['2_phase_0', '2']
  assert folders(abd, 0, 'dreaming') == [] and folders(abd, 1, '') == folders(abd, 1, 'dreaming') == ['0']
  for one in e2e.frozen_before(3, ''):
    assert TeacherId.of_folder(one.folder) == one
  assert TeacherId.of_folder('1_phase_0.new') is None


def test_total_steps_by_hand():
  assert schedule_of('base').total_steps(LABELS) == 3 * 3 * 3  # tasks, epochs, batches of 32 in 100 images
  assert schedule_of('abd').total_steps(LABELS) == 27 + 2 * 7  # no dreaming after the last task
  # Rehearsal draws as many as the task has: 6 batches from the second task on.
  assert schedule_of('rehearsal', memory_size=12).total_steps(LABELS) == 3 * (3 + 6 + 6)
  # Stage one of e2e takes the 12 in; stage two has them alone: less than a batch, so one.
  assert schedule_of('e2e', memory_size=12).total_steps(LABELS) == 3 * (3 + (3 + 1) + (3 + 1))


def test_rows_and_memory_are_functions_of_seed_task_and_phase():
  draw = lambda pool, rng: rng.permutation(len(pool.labels))[:5]
  phase = Phase(loss=None, epochs=1, lr=0.1, data=draw)
  random = ExemplarPolicy(lambda n, features, rng, count: rng.permutation(n)[:count])
  make = lambda seed: Schedule(Method((phase,), (phase,), memory=random), TASKS, seed, 32, 0, 4)
  pool = join(LABELS(0), np.zeros(0, np.int32))
  rows = lambda seed, task: make(seed).rows(task, 0, pool).tolist()
  kept = lambda seed, task: make(seed).kept_rows(task, 0, pool, None).tolist()
  for of in (rows, kept):
    assert of(0, 0) == of(0, 0) and len({str(of(*where)) for where in ((0, 0), (1, 0), (0, 1))}) == 3
  assert len(kept(0, 0)) == 4


def test_a_pool_holds_the_largest_task_and_the_memory_rounded_up():
  assert schedule_of('rehearsal', memory_size=12).pool_size((100, 300)) == 512
  assert schedule_of('base').pool_size((100, 256)) == 256


@pytest.mark.parametrize('method', ['rehearsal', 'lwf_coreset', 'e2e', 'bic'])
def test_so_many_images_of_each_class_from_the_first_task_to_the_last(method):
  """Class 3 has 4 images, fewer than the 10 of each."""
  schedule, stored = schedule_of(method, 60, per_class=10, bic__held_out=0.3), np.zeros(0, np.int32)
  for task in range(3):
    labels = LABELS(task)[: 54 if task == 1 else 100]
    for phase in [phase for phase in schedule.phases(task) if phase.frozen]:
      pool = join(labels, stored)
      features = np.random.default_rng(task).normal(size=(len(labels), 3))
      stored = pool.labels[schedule.kept_rows(task, phase.index, pool, features)]
      assert np.bincount(stored).tolist() == [10, 10, 10, 4, 10, 10][: 2 * task + 2]
