"""abd_jax.run.progress: where a run stands."""

import json

import pytest

from abd_jax.errors import UserError
from abd_jax.run.progress import Progress, progress_from


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


def test_progress_of_another_version_is_refused():
  with pytest.raises(UserError, match='here has schema 1, expected'):
    progress_from(Progress().next_save('student', 'a') | {'schema_version': 1}, 'here')


def test_devices_and_versions_are_noted_where_they_change():
  progress, one = Progress(), {'device': {'count': 1}, 'versions': {'jax': '1'}}
  assert not progress.runs_on(one) and not progress.runs_on(one)
  progress.move_to(progress.task + 1, '')
  two = one | {'device': {'count': 2}}
  assert progress.runs_on(two) and not progress.runs_on(two)
  progress.move_to(progress.task + 1, '')
  assert progress.runs_on(two | {'versions': {'jax': '2'}})
  noted = [(one['task'], one['device']['count'], one['versions']['jax']) for one in progress.stretches]
  assert noted == [(0, 1, '1'), (1, 2, '1'), (2, 2, '2')]
