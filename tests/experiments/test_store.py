"""experiments.store: files of results."""

import subprocess
import sys

import pytest
from conftest import REPO

from abd_jax.errors import UserError
from experiments.store import read_runs, write


def test_files_are_written_with_their_folder_or_refused_in_one_line(tmp_path):
  write(tmp_path / 'new' / 'file.json', '{"a": 1}')
  assert (tmp_path / 'new' / 'file.json').read_text() == '{"a": 1}'
  with pytest.raises(UserError, match='cannot write'):
    write(tmp_path / 'new' / 'file.json' / 'below', '')


def test_processes_that_add_runs_at_once_lose_none_and_a_repeated_run_replaces_its_line(tmp_path, cli_env):
  code = 'import sys; from pathlib import Path; from experiments.store import add_run\n'
  code += '[add_run(Path(sys.argv[1]), f"{sys.argv[2]}-{k % 20}", {"k": k}) for k in range(40)]'
  words = [sys.executable, '-c', code, str(tmp_path / 'digits.jsonl')]
  both = [subprocess.Popen([*words, name], env=cli_env, cwd=REPO) for name in 'ba']
  assert [process.wait() for process in both] == [0, 0]
  runs = read_runs(tmp_path / 'digits.jsonl')
  assert list(runs) == sorted(f'{name}-{k}' for name in 'ab' for k in range(20))
  assert all(content == {'k': int(name[2:]) + 20} for name, content in runs.items())
