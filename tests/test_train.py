"""Whole runs: how often steps are traced, and that accuracy comes from the dreams."""

import dataclasses
import shutil
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest

from abd_jax import losses, methods
from abd_jax.data.memory import unpad
from abd_jax.data.sources import TaskStream
from abd_jax.errors import Paused, UserError
from abd_jax.files import checksum_of_arrays, read_json
from abd_jax.methods import class_gaussians
from abd_jax.run import session
from abd_jax.run.checkpoint import Checkpoints
from abd_jax.run.load import load_snapshot, load_teacher
from abd_jax.run.plan import build
from abd_jax.run.schedule import TeacherId
from abd_jax.state import FrozenModel, TrainState, freeze
from abd_jax.steps import chunks, student
from abd_jax.steps.student import in_batches
from abd_jax.train import train_and_evaluate
from configs.digits import get_config


def digits_config(argument='', **overrides):
  config = get_config(argument)
  config.update_from_flattened_dict({'devices': 1, **{k.replace('__', '.'): v for k, v in overrides.items()}})
  return config


def count_traces(monkeypatch, config):
  """Names of the student's and inversion's step kinds, one entry per trace."""
  traces, real_get, real_prior = [], methods.get, losses.smoothness

  def counting(name, phase):
    loss = phase.loss
    return dataclasses.replace(phase, loss=lambda inputs: (traces.append(name), loss(inputs))[1])

  def get(config):
    method = real_get(config)
    if method.first == method.later:  # one kind of step, as for Base
      phases = tuple(counting('student', phase) for phase in method.first)
      return dataclasses.replace(method, first=phases, later=phases)
    first = tuple(counting('first', phase) for phase in method.first)
    return dataclasses.replace(method, first=first, later=tuple(counting('later', phase) for phase in method.later))

  noted = lambda name, function: lambda *args: (traces.append(name), function(*args))[1]
  monkeypatch.setattr(methods, 'get', get)
  monkeypatch.setattr(student, 'embed_by_both', noted('features', student.embed_by_both))
  monkeypatch.setattr(
    class_gaussians, 'quadratic_discriminant', noted('end of task', class_gaussians.quadratic_discriminant)
  )
  monkeypatch.setattr(losses, 'smoothness', lambda *args: (traces.append('inversion'), real_prior(*args))[1])
  return traces


@pytest.mark.parametrize(
  ('method', 'expected'),
  [
    ('class_gaussians', ['first', 'inversion', 'later', 'features', 'end of task']),
    pytest.param('lwf', ['first', 'later'], marks=pytest.mark.slow),
    pytest.param('base', ['student'], marks=pytest.mark.slow),
    # Two phases, which differ in their data and in what they train.
    pytest.param('e2e', ['first', 'later', 'later'], marks=pytest.mark.slow),
    pytest.param('rdfcil', ['first', 'inversion', 'later', 'later'], marks=pytest.mark.slow),
  ],
)
def test_each_kind_of_step_is_traced_once_over_all_tasks(tmp_path, monkeypatch, tiny_config, method, expected):
  config = tiny_config(method, task_sizes=(2, 1, 2, 1), tasks=4)
  traces = count_traces(monkeypatch, config)
  results = train_and_evaluate(config, str(tmp_path))
  assert [len(row) for row in results['accuracy_matrix']] == [1, 2, 3, 4]
  assert sorted(traces) == sorted(expected)


class Ran(NamedTuple):
  """What a phase was given and what it made, on the host."""

  kind: str  # 'student' or 'generator'
  before: TrainState
  teachers: tuple[FrozenModel, ...]
  after: TrainState


@pytest.fixture
def ran(monkeypatch):
  """The phases of the runs of a test, in order."""
  phases, run = [], chunks.run
  copied = lambda tree: jax.tree.map(np.array, tree)  # steps reuse the buffers

  def noting(step, state, data, *others):
    before, teachers = copied((state, data.teachers))
    for last in run(step, state, data, *others):
      yield last
    phases.append(Ran('generator' if data.images is None else 'student', before, teachers, copied(last[0])))

  monkeypatch.setattr(chunks, 'run', noting)
  return phases


def assert_equal_trees(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('method', ['base', 'abd'])
def test_a_task_is_on_disk_before_the_images_of_the_next_are_read(tmp_path, learn, monkeypatch, method):
  """Else a run killed in between would read the task before once more, against its promise."""
  events = []

  def noted(owner, name):
    call = getattr(owner, name)
    # Noted when it returns: a save begins by waiting for the one before.
    monkeypatch.setattr(owner, name, lambda *args: (call(*args), events.append(name))[0])

  noted(Checkpoints, 'save'), noted(Checkpoints, 'wait'), noted(TaskStream, 'task')
  learn(tmp_path, method=method)
  reads = [k for k, event in enumerate(events) if event == 'task']
  assert len(reads) == 3 and {events[k - 1] for k in reads} == {'wait'}


def test_what_is_dreamed_of_is_the_student_that_has_just_learnt(tmp_path, learn, ran):
  """And both together teach the next task."""
  learn(tmp_path)
  assert [phase.kind for phase in ran] == ['student', 'generator', 'student', 'generator', 'student']
  for k in (0, 2):
    learning, dreaming, following = ran[k : k + 3]
    assert_equal_trees(dreaming.teachers, (freeze(learning.after),))
    assert_equal_trees(freeze(following.before), freeze(learning.after))
    assert_equal_trees(following.teachers, (freeze(learning.after, dreaming.after),))
  backbones = [phase.teachers[0].params['backbone'] for phase in ran if phase.kind == 'generator']
  assert checksum_of_arrays(backbones[0]) != checksum_of_arrays(backbones[1])


@pytest.mark.parametrize(
  ('fields', 'afresh'),
  [
    ({}, False),
    ({'inversion__warm_start': False}, True),
    ({'inversion__what': 'pixels', 'inversion__pixel_images': 32}, True),
  ],
  ids=['kept', 'fresh', 'pixels'],
)
def test_a_generator_goes_on_from_task_to_task_unless_each_is_to_have_its_own(
  tmp_path, learn, tiny_config, ran, fields, afresh
):
  """Pixels are images of a task's own classes, so they are always new."""
  learn(tmp_path, **fields)
  first, second = (phase for phase in ran if phase.kind == 'generator')
  new = build(tiny_config(**fields)).steps.new_generator
  assert_equal_trees(first.before, jax.device_get(new(0)))
  assert checksum_of_arrays(first.after.params) != checksum_of_arrays(first.before.params)
  assert int(second.before.step) == 6  # what is drawn at random goes on
  assert_equal_trees(second.before, jax.device_get(new(1)).replace(step=np.int32(6)) if afresh else first.after)


def test_a_memory_holds_training_images_that_the_model_of_their_own_task_chose(tmp_path, learn, tiny_config):
  fields = dict(method='e2e', memory__size=26)
  learn(tmp_path, **fields)
  plan = build(tiny_config(**fields))
  memories = {}
  for name in ('0', '1_phase_0', '1', '2_phase_0', '2'):
    frozen = load_teacher(tmp_path, TeacherId.of_folder(name))[2]
    memories[name] = unpad(jax.device_get(frozen.memory))
    if name in ('1', '2'):  # the second stage changed the model, not the memory
      jax.tree.map(np.testing.assert_array_equal, memories[name], memories[f'{name}_phase_0'])
      continue
    task = int(name[0])
    images, labels = plan.stream.task(task).decode()
    features = in_batches(partial(plan.steps.embed, frozen.model), images, 320)
    for c in (2 * task, 2 * task + 1):
      mine, kept = np.flatnonzero(labels == c), memories[name].images[memories[name].labels == c]
      distances = np.linalg.norm(features[mine] - features[mine].mean(0), axis=1)
      np.testing.assert_array_equal(kept, images[mine[np.argsort(distances, kind='stable')[: len(kept)]]])
  counts = {name: np.bincount(memory.labels).tolist() for name, memory in memories.items()}
  assert counts['0'] == [13, 13] and counts['1'] == [6, 6, 7, 7] and counts['2'] == [4, 4, 4, 4, 5, 5]
  for c in range(4):  # cut, the best first
    of_class = [memories[name].images[memories[name].labels == c] for name in (('0', '1')[c // 2], '2')]
    np.testing.assert_array_equal(of_class[1], of_class[0][: len(of_class[1])])


@pytest.fixture
def optimized():
  """Compiled as users do: these runs are long."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


SHORT = dict(
  task_sizes=(2, 2), student__epochs=6, student__milestones=(3, 5), inversion__batch_size=32, inversion__steps=100,
  model__blocks=(1, 1), model__widths=(8, 16), generator__start=(2, 2, 16), generator__widths=(16, 8),
)  # fmt: skip


@pytest.mark.parametrize('fields', [SHORT, pytest.param({}, marks=pytest.mark.slow)], ids=['short', 'full'])
def test_accuracy_comes_from_the_dreams(tmp_path, request, fields):
  """The control: an untrained generator's images carry nothing of the old classes."""
  if not fields:
    request.getfixturevalue('optimized')
  (dreaming, _), (control, newest) = (
    (np.mean(row[:-1]), row[-1])
    for k, steps in enumerate(({}, {'inversion__steps': 0}))
    for row in train_and_evaluate(digits_config(**fields | steps), str(tmp_path / str(k)))['accuracy_matrix'][-1:]
  )
  assert newest >= 0.9 and control <= 0.5  # it did learn the last task
  assert dreaming >= control + 0.3


@pytest.mark.slow
def test_the_demo_remembers_and_its_baselines_do_not(tmp_path, optimized):
  final = {
    method: train_and_evaluate(digits_config(f'method={method}'), str(tmp_path / method))['final_accuracy']
    for method in ('abd', 'lwf', 'base')
  }
  assert final['abd'] >= 0.72 and final['lwf'] <= 0.25 and final['base'] <= 0.25


@pytest.mark.parametrize('method', ['abd', pytest.param('e2e', marks=pytest.mark.slow)])
def test_frozen_models_are_bounded_while_a_run_goes_on_and_it_resumes_from_anywhere(tmp_path, learn, learnt, method):
  fields = {'method': method, 'memory__size': 26} if method == 'e2e' else {}
  path, most = tmp_path / 'bounded', 0
  while True:
    try:
      learn(path, **fields, chunk_steps=10, teachers_kept=1, max_seconds=1e-9)  # stops after each chunk
      break
    except Paused:
      most = max(most, sum(file.is_dir() for file in (path / 'teachers').glob('*')))
  assert most == {'abd': 2, 'e2e': 3}[method]  # those that a phase may ask for, and the new one
  assert sorted(file.name for file in (path / 'teachers').iterdir()) == ['2', '2.json']
  ours, theirs = (read_json(one / 'results.json')['accuracy_matrix'] for one in (path, learnt(**fields)))
  assert ours == theirs
  ours, theirs = (checksum_of_arrays(load_snapshot(one, 2)[2]) for one in (path, learnt(**fields)))
  assert ours == theirs


def test_other_devices_and_versions_on_resuming_are_told_and_stand_in_the_results(tmp_path, learn, monkeypatch, capsys):
  with pytest.raises(Paused):
    learn(tmp_path, max_seconds=1e-9)
  here = session.environment()
  other = {'device': here['device'] | {'count': 3}, 'versions': here['versions'] | {'jax': '9.9'}}
  monkeypatch.setattr(session, 'environment', lambda count: here | other)
  results = learn(tmp_path)
  assert results['device']['count'] == 1  # config.devices, of however many there are
  assert [(one['task'], one['phase'], one['step'], one['device']['count']) for one in results['stretches']] == [
    (0, '', 0, 1),
    (0, '', 5, 3),
  ]
  assert [one['versions']['jax'] for one in results['stretches']] == [here['versions']['jax'], '9.9']
  assert 'other devices, versions or code than before' in capsys.readouterr().err


def test_how_many_frozen_models_are_kept_may_change_on_the_way(tmp_path, learn, learnt):
  teachers = tmp_path / 'run' / 'teachers'
  while not (teachers / '1.json').exists():
    with pytest.raises(Paused):
      learn(tmp_path / 'run', chunk_steps=10, max_seconds=1e-9)
  shutil.rmtree(teachers / '0')
  with pytest.raises(UserError, match=r'teachers/0 cannot be read .*is missing'):  # something is left: it has been lost
    learn(tmp_path / 'run', chunk_steps=10)
  (teachers / '0.json').unlink()  # as teachers_kept=1 would have had it
  results = learn(tmp_path / 'run', chunk_steps=10)
  assert results['accuracy_matrix'] == read_json(learnt() / 'results.json')['accuracy_matrix']
  assert sorted(file.name for file in teachers.iterdir()) == ['1', '1.json', '2', '2.json']
