"""config.profile: a trace of one chunk of each kind of step."""

import gzip
import json


def test_a_chunk_of_each_kind_is_traced_and_nothing_else_changes(learn, tmp_path, capsys):
  plain, traced = learn(tmp_path / 'plain', chunk_steps=2), learn(tmp_path / 'traced', chunk_steps=2, profile=True)
  assert traced['accuracy_matrix'] == plain['accuracy_matrix']
  assert not (tmp_path / 'plain' / 'profile').exists()
  folder = tmp_path / 'traced' / 'profile'
  # Base on the first task, dreaming after it, learning with dreams from the second on.
  assert sorted(path.name for path in folder.iterdir()) == ['task_1_dreaming', 'task_1_learning', 'task_2_learning']
  for phase in folder.iterdir():
    assert len(list(phase.rglob('*.xplane.pb'))) == 1
    (trace,) = phase.rglob('*.trace.json.gz')
    assert json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  lines = capsys.readouterr().err.splitlines()
  assert sum(line.endswith(f'tensorboard --logdir {folder}') for line in lines) == 3
