"""metrics.csv, TensorBoard's event files and the confusion matrices of a run, resumed or not."""

import csv
import json
import struct

import numpy as np
import pytest

from abd_jax.errors import Paused, UserError
from abd_jax.run.logs import MetricWriters, confusion_file, read_confusion, write_confusion


def events(folder):
  """(tag, step, value or None for a picture) of every event in a TensorBoard folder, read off the TFRecord frames."""
  from tensorboardX.proto.event_pb2 import Event

  found = []
  for file in sorted((folder / 'tensorboard').iterdir()):
    content = file.read_bytes()
    while content:
      (length,) = struct.unpack('<Q', content[:8])
      event = Event.FromString(content[12 : 12 + length])
      content = content[16 + length :]
      for value in event.summary.value:
        found.append((value.tag, event.step, value.simple_value if value.HasField('simple_value') else None))
  return found


def rows(folder):
  with (folder / 'metrics.csv').open(newline='') as file:
    return [row for row in csv.DictReader(file) if row['metric'] != 'images_per_second']


@pytest.fixture
def run(learnt):
  """(workdir, results) of a finished run."""
  return learnt(), json.loads((learnt() / 'results.json').read_text())


def test_a_callback_and_the_csv_have_every_value_of_the_log(learn, tmp_path):
  heard = []
  results = learn(tmp_path, on_metrics=heard.append)
  table = rows(tmp_path)
  records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert heard == records
  losses = [(r['task'], r['phase'], r['step'], r['loss']) for r in records if 'loss' in r]
  read = [row for row in table if row['metric'] == 'loss']
  assert [(int(r['task']), r['phase'], int(r['step']), float(r['value'])) for r in read] == losses and losses
  last = [float(r['value']) for r in table if r['phase'] == 'evaluating' and r['task'] == '2'][:-1]
  assert last == results['accuracy_matrix'][-1]


def test_tensorboard_shows_scalars_dreams_and_confusion(run):
  path, results = run
  found = events(path)
  pictures = [tag for tag, _, value in found if value is None]
  assert pictures.count('dreams') == 2 and pictures.count('confusion') == 3
  seen = [value for tag, _, value in found if tag == 'evaluating/seen_accuracy']
  np.testing.assert_allclose(seen, results['seen_accuracy'], rtol=1e-6)
  steps = [step for tag, step, _ in found if tag.endswith('/ce') or tag.endswith('/content')]
  assert steps == sorted(set(steps))  # of all phases in a row
  assert max(step for _, step, _ in found) == sum(results['steps'].values())


def test_a_resumed_run_has_no_point_twice(run, learn, tmp_path):
  path, _ = run
  for _ in range(3):
    with pytest.raises(Paused):
      learn(tmp_path, max_seconds=0.001)
  results = learn(tmp_path)
  assert rows(tmp_path) == rows(path)
  drop = lambda all_events: [event for event in all_events if 'images_per_second' not in event[0]]
  assert drop(events(tmp_path)) == drop(events(path))
  phases = [json.loads(line) for line in (tmp_path / 'phases.jsonl').read_text().splitlines()]
  assert sum(one['steps'] for one in phases) == sum(results['steps'].values())
  assert all(one['seconds'] >= 0 and one['peak_bytes']['host'] > 1e7 for one in phases)


def test_a_full_disk_is_told_where_events_are_written(tmp_path, monkeypatch):
  full = lambda path: open('/dev/full', 'wb', buffering=0)  # noqa: SIM115
  monkeypatch.setattr('tensorboardX.record_writer.open_file', full)
  with pytest.raises(OSError, match='No space left'):
    MetricWriters(tmp_path)


def test_confusion_files_keep_odd_names(run, tmp_path):
  path, results = run
  names, counts = read_confusion(path / 'confusion' / 'task_3.csv')
  assert names == results['class_order']['names'][:6]
  np.testing.assert_allclose(counts.diagonal() / counts.sum(1), results['class_accuracy'])
  odd = ['a,"b"', '<b>🦊</b>']
  write_confusion(tmp_path / 'c' / 'x.csv', odd, np.array([[1, 2], [3, 4]]))
  assert read_confusion(tmp_path / 'c' / 'x.csv')[0] == odd
  (tmp_path / 'c' / 'x.csv').write_text('true,a,b\na,1\n')
  with pytest.raises(UserError):
    read_confusion(tmp_path / 'c' / 'x.csv')


def test_what_cannot_be_shown_does_not_end_a_run(tmp_path):
  """A confusion matrix that is cut off."""
  write_confusion(file := confusion_file(tmp_path, 0), ['a', 'b'], np.array([[1, 2], [3, 4]]))
  file.write_text(file.read_text()[:-3])
  writers = MetricWriters(tmp_path)
  writers.write({'task': 0, 'phase': 'evaluating', 'accuracy': [0.5], 'seen_accuracy': 0.5})
  writers.close()
  assert (tmp_path / 'metrics.csv').read_text().count('\n') == 3
