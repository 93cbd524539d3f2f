"""abd_jax.run.progress: where a run stands."""

import pytest

from abd_jax.errors import UserError
from abd_jax.run.progress import Progress, progress_from


def test_progress_of_another_version_is_refused():
  with pytest.raises(UserError, match='here has schema 1, expected'):
    progress_from(Progress().next_save('student', 'a') | {'schema_version': 1}, 'here')
