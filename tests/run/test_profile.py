"""config.profile: a trace of one chunk of each kind of step."""

import gzip
import json

from abd_jax.files import read_json


def test_a_chunk_of_each_kind_is_traced_and_nothing_else_changes(learn, learnt, tmp_path, capsys):
  traced, plain = learn(tmp_path, chunk_steps=2, profile=True), read_json(learnt() / 'results.json')
  assert traced['accuracy_matrix'] == plain['accuracy_matrix']
  assert not (learnt() / 'profile').exists()
  folder = tmp_path / 'profile'
  # Base on the first task, dreaming after it, learning with dreams from the second on.
  assert sorted(path.name for path in folder.iterdir()) == ['task_1_dreaming', 'task_1_learning', 'task_2_learning']
  for phase in folder.iterdir():
    assert len(list(phase.rglob('*.xplane.pb'))) == 1
    (trace,) = phase.rglob('*.trace.json.gz')
    assert json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  lines = capsys.readouterr().err.splitlines()
  assert sum(line.endswith(f'tensorboard --logdir {folder}') for line in lines) == 3
