"""Results that no run wrote, and runs that take a moment."""

from conftest import TINY

from experiments import plan, runs, store


def result(planned, accuracy, upper=1.0):
  """Results of two tasks, all correct except for `accuracy` at the end."""
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
  """Adds the line of a run's results, with other `fields`."""
  store.add_run(folder / planned.file, planned.name, result(planned, accuracy) | fields)


def names(folder):
  """The runs that have results in a folder, by file and name."""
  return [name for file in sorted(folder.glob('*.jsonl')) for name in store.read_runs(file)]


def tiny_runs(monkeypatch):
  """Planned runs on digits have three tasks that take a moment, whatever their names say."""
  load, tiny = plan.load_config, TINY | {'tasks': 3}
  monkeypatch.setattr(plan, 'load_config', lambda name, **fields: load(name, **fields | tiny))
