"""abd_jax.report and abd_jax.run.environment: pictures, tables, and where a run ran."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from abd_jax.devices import environment as environment_lib
from abd_jax.report import pictures, tables


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('n, columns, rows', [(3, 3, 1), (8, 8, 1), (20, 8, 3)])
def test_grid_is_a_png_of_eight_columns(tmp_path, channels, n, columns, rows):
  images = np.random.default_rng(0).random((n, 8, 8, channels), np.float32)
  pictures.save_grid(images, [str(k) for k in range(n)], tmp_path / 'grid.png')
  with Image.open(tmp_path / 'grid.png') as grid:
    assert grid.format == 'PNG' and grid.mode == 'RGB'
    # 8 pixels eight times as large, 2 of gap, and 12 of caption above.
    assert grid.size == (columns * (64 + 2), rows * (64 + 12 + 2))


def test_grid_shows_each_image_in_its_place_and_its_own_colours(tmp_path):
  images = np.zeros((9, 8, 8, 3), np.float32)
  images[1] = 1, 0, 0.5
  images[8] = 0, 2, -1  # beyond [0, 1]: clipped
  pictures.save_grid(images, ['x'] * 9, tmp_path / 'grid.png')
  with Image.open(tmp_path / 'grid.png') as grid:
    middle = lambda row, column: grid.getpixel((column * 66 + 32, row * 78 + 12 + 32))
    assert [middle(0, 0), middle(0, 1), middle(1, 0)] == [(0, 0, 0), (255, 0, 128), (0, 255, 0)]
    assert middle(1, 1) == (255, 255, 255)  # no tenth image


def test_grid_of_large_images_is_not_enlarged(tmp_path):
  pictures.save_grid(np.zeros((2, 64, 64, 3)), ['a', 'a very long name of a class'], tmp_path / 'grid.png')
  with Image.open(tmp_path / 'grid.png') as grid:
    assert grid.size == (2 * 66, 64 + 14)


def test_table_is_aligned_markdown():
  text = tables.table(('a', 'wide'), [('long cell', '1'), ('x', '22')])
  assert text.splitlines() == [
    '| a         | wide |',
    '|-----------|------|',
    '| long cell | 1    |',
    '| x         | 22   |',
  ]


def test_table_refuses_a_row_of_another_length():
  with pytest.raises((ValueError, IndexError)):
    tables.table(('a', 'b'), [('1',)])


def test_summary_line_gives_fractions_as_percent_and_nothing_as_a_dash():
  results = dict(method='abd', final_accuracy=0.5, average_accuracy=0.123, forgetting=None, backward_transfer=-0.25)
  results['seconds'] = {'compile': 1.2, 'train': 2.0, 'invert': 0.0, 'evaluate': 0.4}
  assert tables.summary_line(results) == ['abd', '50.0', '12.3', '-', '-25.0', '4']
  widest = ['deep_inversion', '100.0', '100.0', '100.0', '-100.0', '86400']
  assert len(tables.table(tables.SUMMARY, [widest]).splitlines()[0]) <= 80


def test_environment_names_versions_device_and_commit(monkeypatch):
  here = environment_lib.environment()
  assert set(here) == {'versions', 'device', 'commit'}
  assert {'python', 'jax', 'flax', 'tensorflow-datasets'} <= set(here['versions'])
  assert here['device']['platform'] == 'cpu' and here['device']['count'] >= 1

  def no_git(*_, **__):
    raise FileNotFoundError('git')

  monkeypatch.setattr(subprocess, 'run', no_git)
  assert environment_lib.environment()['commit'] is None


def test_a_commit_is_marked_where_files_but_results_differ_from_it(tmp_path, monkeypatch):
  git = lambda *words: subprocess.run(['git', *words], cwd=tmp_path, check=True, capture_output=True)
  for file in ('abd_jax/report.py', 'experiments/results/old.json'):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text('')
  git('init')
  git('add', '.')
  git('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-m', 'a')
  monkeypatch.setattr(environment_lib, '__file__', str(tmp_path / 'abd_jax/report.py'))
  for file, marked in (('experiments/results/old.json', False), ('experiments/results/new.json', False), ('a', True)):
    (tmp_path / file).write_text('changed')
    assert environment_lib.environment()['commit'].endswith('+') == marked, file
  (tmp_path / 'site-packages').mkdir()  # of an environment inside a checkout of something else
  monkeypatch.setattr(environment_lib, '__file__', str(tmp_path / 'site-packages/environment.py'))
  assert environment_lib.environment()['commit'] is None
