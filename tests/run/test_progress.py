"""abd_jax.run.progress: where a run stands has one owner."""

import ast
import json
from pathlib import Path

import pytest

from abd_jax.errors import UserError
from abd_jax.run import progress as progress_lib
from abd_jax.run.progress import Progress, progress_from


def test_a_run_step_by_step():
  progress = Progress()
  progress.step_done(5)
  assert (progress.task, progress.phase, progress.step) == (0, '', 5)
  progress.phase_done('dreaming')
  assert (progress.task, progress.phase, progress.step) == (0, 'dreaming', 0)
  progress.step_done(3)
  progress.task_done()
  assert (progress.task, progress.phase, progress.step) == (1, '', 0)


def test_what_is_saved_comes_back_and_saves_are_numbered_over_all_kinds():
  progress = Progress()
  progress.evaluated([0.5], [0.9], [0.4, 0.6], [0.9, 0.9])
  progress.spent('train', 3.0, compiling=1.0)
  first = progress.next_save('student', 'a')
  second = json.loads(json.dumps(progress.next_save('generator', 'b')))
  assert second['checksums'] == {'student': 'a', 'generator': 'b'}
  assert first['saves'] == {'student': 1} and second['saves'] == {'student': 1, 'generator': 2}
  back = progress_from(second, 'here')
  assert back == progress and back.seconds == {'compile': 1.0, 'train': 2.0, 'invert': 0.0, 'evaluate': 0.0}


@pytest.mark.parametrize('change', [{'schema_version': 1}, {'phase': None, 'stage': 3}])
def test_progress_of_another_version_is_refused(change):
  saved = {name: value for name, value in (Progress().next_save('student', 'a') | change).items() if value is not None}
  with pytest.raises(UserError, match='here was written by another version'):
    progress_from(saved, 'here')


@pytest.mark.parametrize(
  'change',
  [{'history': []}, {'history': {}}, {'task': '1'}, {'step': None}, {'saves': [1]}, {'seconds': {}}, {'stretches': {}}],
)
def test_progress_of_another_shape_is_damaged(change):
  with pytest.raises(UserError, match='here is damaged'):
    progress_from(Progress().next_save('student', 'a') | change, 'here')
  with pytest.raises(UserError, match='here was written by another version'):
    progress_from([], 'here')


def test_progress_that_did_not_know_of_devices_is_read():
  saved = Progress(task=2).next_save('student', 'a')
  del saved['stretches']
  assert progress_from(saved | {'schema_version': 2}, 'here').task == 2


def test_devices_and_versions_are_noted_where_they_change():
  progress, one = Progress(), {'device': {'count': 1}, 'versions': {'jax': '1'}}
  assert not progress.runs_on(one) and not progress.runs_on(one)
  progress.task_done()
  two = one | {'device': {'count': 2}}
  assert progress.runs_on(two) and not progress.runs_on(two)
  progress.task_done()
  assert progress.runs_on(two | {'versions': {'jax': '2'}})
  noted = [(one['task'], one['device']['count'], one['versions']['jax']) for one in progress.stretches]
  assert noted == [(0, 1, '1'), (1, 2, '1'), (2, 2, '2')]


def test_what_progress_of_earlier_versions_did_not_note_is_no_change():
  progress = Progress(stretches=[{'task': 0, 'phase': '', 'step': 0, 'device': {'count': 1}}])
  assert not progress.runs_on({'device': {'count': 1}, 'versions': {'jax': '1'}})
  assert progress.runs_on({'device': {'count': 2}, 'versions': {'jax': '1'}})


def test_nobody_else_writes_it():
  """No assignment to an attribute of Progress outside its own file."""
  owned = set(Progress.__dataclass_fields__) - {'step', 'task', 'phase'}
  package = Path(progress_lib.__file__).parents[1]
  for file in package.rglob('*.py'):
    for node in ast.walk(ast.parse(file.read_text())):
      targets = (
        node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
      )
      for target in targets:
        if isinstance(target, ast.Attribute) and 'progress' in ast.unparse(target.value):
          assert file.name == 'progress.py', f'{file}:{node.lineno}'
        if isinstance(target, ast.Attribute) and target.attr in owned and file.name != 'progress.py':
          assert ast.unparse(target.value) in ('self', 'history'), f'{file}:{node.lineno}'
