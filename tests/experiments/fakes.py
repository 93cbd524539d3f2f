"""Files of results that no run wrote, and runs of a moment."""

import json

from conftest import TINY

from experiments import plan, runs


def result(planned, accuracy, upper=1.0):
  """A result file's content: two tasks, everything right but for `accuracy` at the end."""
  matrix = [[upper], [accuracy, accuracy]]
  return dict.fromkeys(runs.KEPT) | {
    'schema_version': runs.SCHEMA,
    'method': planned.row.method,
    'test_images': [10, 10],
    'accuracy_matrix': matrix,
    'seen_accuracy': [upper, accuracy],
    'top5_accuracy_matrix': matrix,
    'final_accuracy': accuracy,
    'average_accuracy': (upper + accuracy) / 2,
    'forgetting': upper - accuracy,
    'final_top5_accuracy': accuracy,
    'seconds': {'train': 2.0},
    'steps': {'student': 100},
    'device': {'kind': 'cpu'},
    'commit': 'abcdef0123',
    'config': runs.fields_of(planned.load({})),
  }


def write(folder, planned, accuracy=0.5, **fields):
  """The file of a run's results, with other `fields`."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f'{planned.name}.json').write_text(json.dumps(result(planned, accuracy) | fields))


def tiny_runs(monkeypatch):
  """Planned runs on digits are of three tasks that take a moment, whatever their names say."""
  load = plan.load_config
  tiny = TINY | {'tasks': 3}
  monkeypatch.setattr(
    plan, 'load_config', lambda name, option='', fields=None: load(name, option, (fields or {}) | tiny)
  )
