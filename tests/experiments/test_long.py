"""experiments long: its measures, and runs of a size for a test."""

import json

import pytest

from experiments import __main__ as command
from experiments import long
from experiments.files import RESULTS, read_json
from experiments.synthetic import Shape, images_of


def test_images_of_a_class_are_alike_and_those_of_two_are_not():
  images, labels = images_of(Shape(3, 4, 1), 4, seed=1)
  assert images.shape == (12, 8, 8, 1) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
  distance = lambda a, b: abs(images[a].astype(float) - images[b]).mean()
  assert distance(0, 1) < distance(0, 4) / 2
  assert (images_of(Shape(3, 4, 1), 4, seed=2)[0] != images).any()


def test_growth_is_of_the_last_tasks_over_the_first_settled_ones():
  assert long.growth([9.0] * 10 + [2.0] * 90) == 0
  assert long.growth([9.0] * 10 + [2.0] * 50 + [2.5] * 40) == pytest.approx(0.25)
  assert long.growth([0.0] * 10 + [2.0] * 89 + [100.0]) == 0  # a hiccup is no growth


def test_what_is_measured_is_read_from_the_logs(tmp_path):
  lines = [
    {'task': 0, 'phase': 'learning', 'steps': 4, 'cpu_seconds': 2.0, 'peak_bytes': {'host': 2**20}},
    {'task': 0, 'phase': 'dreaming', 'steps': 2, 'cpu_seconds': 2.0, 'peak_bytes': {'host': 2**21}},
  ]
  (tmp_path / 'phases.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  assert long.measured(tmp_path) == {'learning': [500.0], 'dreaming': [1000.0], 'memory': [1.0]}
  (tmp_path / 'metrics.jsonl').write_text('{"loss": 1.0}\n{"loss": NaN}\n')
  assert not long.is_finite(tmp_path)


def test_runs_of_two_tasks(tmp_path, monkeypatch, capsys):
  few = {'tasks': 2, 'student.batch_size': 4, 'student.epochs': 2, 'inversion.steps': 4, 'teachers_kept': 1}
  monkeypatch.setattr(long, 'RUNS', {'some': (Shape(2, 4, 1), few), 'single': (Shape(8, 1, 1), few)})
  words = ['long', f'--runs={tmp_path}', f'--output={tmp_path / "long.json"}']
  command.run(words)
  runs = read_json(tmp_path / 'long.json')['runs']
  assert runs['some']['finite'] and runs['single']['classes'] == 8 and runs['some']['growth'] == {}
  assert runs['some']['disk']['frozen models'] == 1 and len(runs['some']['measured']['learning']) == 2
  assert '| some ' in capsys.readouterr().out


def test_the_memory_and_disk_of_the_stored_hundred_tasks_are_flat_after_the_tenth():
  """Times are measured again by hand on a machine of one's own: the stored ones come from a shared one."""
  one = read_json(RESULTS / 'long.json')['runs']['hundred_tasks']
  assert one['finite'] and len(one['measured']['learning']) == 100
  assert one['growth']['memory'] < 0.02
  assert one['disk']['frozen models'] == 1 and one['disk']['checkpoints'] <= 4


@pytest.mark.slow
def test_a_hundred_tasks_a_thousand_classes_and_classes_of_one_image(tmp_path):
  command.run(['long', f'--runs={tmp_path}', f'--output={tmp_path / "long.json"}'])
  runs = read_json(tmp_path / 'long.json')['runs']
  assert all(one['finite'] for one in runs.values())
  assert runs['hundred_tasks']['growth']['memory'] < 0.02
  assert runs['hundred_tasks']['disk']['frozen models'] == 1
