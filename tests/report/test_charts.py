"""abd_jax.report: charts as SVG, the picture of dreams, and tables as text."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from abd_jax.report import charts, tables
from abd_jax.report.charts import Series
from abd_jax.report.figures import save_grid


@pytest.mark.parametrize('channels', [1, 3])
def test_grid_is_a_png_that_shows_each_image_in_its_place(tmp_path, channels):
  images = np.zeros((9, 8, 8, channels), np.float32)
  images[1] = (1, 0, 0.5)[:channels]
  images[8] = (0, 2, -1)[:channels]  # beyond [0, 1]: clipped
  save_grid(images, ['x'] * 9, tmp_path / 'grid.png')
  with Image.open(tmp_path / 'grid.png') as grid:
    # Eight columns, 8 pixels eight times as large, 2 of gap, and 12 of caption above.
    assert (grid.format, grid.mode, grid.size) == ('PNG', 'RGB', (8 * 66, 2 * 78))
    middle = lambda row, column: grid.getpixel((column * 66 + 32, row * 78 + 12 + 32))
    assert middle(0, 0) == (0, 0, 0) and middle(1, 1) == (255, 255, 255)  # no tenth image
    if channels == 3:
      assert [middle(0, 1), middle(1, 0)] == [(255, 0, 128), (0, 255, 0)]
  assert [file.name for file in tmp_path.iterdir()] == ['grid.png']


def test_summary_line_gives_fractions_as_percent_and_nothing_as_a_dash():
  results = dict(method='deep_inversion', seconds={'compile': 2, 'train': 86400}, **dict.fromkeys(tables.METRICS, 1.0))
  widest = tables.summary_line(results)
  assert widest == ['deep_inversion', *['100.0'] * len(tables.METRICS), '86402']
  row = tables.summary_line(results | {'average_accuracy': 0.123, 'forgetting': None, 'backward_transfer': -0.25})
  assert row[1:5] == ['100.0', '12.3', '-', '-25.0']
  assert len(tables.table(tables.SUMMARY, [widest]).splitlines()[0]) <= 80


def test_curves_are_means_with_a_band_of_one_deviation():
  series = Series('a', [[1.0, 2.0, None], [3.0, 2.0]], 0)
  mean, std = series.mean_std()
  np.testing.assert_allclose(mean[:2], [2, 2])
  np.testing.assert_allclose(std[:2], [1, 0])
  assert np.isnan(mean[2])
  drawing = charts.curves([series], ['1', '2', '3'], 'x', 'y', 't', top=4)
  points = re.search(r'<polyline points="([^"]+)"', drawing)[1].split()
  assert len(points) == 2 and points[0].split(',')[1] == points[1].split(',')[1]
  assert len(re.search(r'<polygon points="([^"]+)"', drawing)[1].split()) == 4
  # y = 2 of 4 lies in the middle of the frame.
  assert float(points[0].split(',')[1]) == charts.TOP + 90


def test_a_curve_beneath_another_shows_on_both_of_its_sides():
  lines = [[1.0, 2.0, None], [1.0, 3.0, None], [1.0, 2.0, None], [1.0, 2.001, None], [1.0, 2.0, 2.0]]
  drawing = charts.curves([Series(str(k), [line], k) for k, line in enumerate(lines)], ['1', '2', '3'], 'x', 'y', 't')
  assert re.findall(r'fill="none" stroke="[^"]+" stroke-width="(\d+)"', drawing) == ['8', '2', '5', '2', '2']


def test_bars_stand_on_zero_and_reach_their_value():
  drawing = charts.bars([Series('a', [[4.0]], 0), Series('b', [[-2.0]], 1)], ['x'], 'y', 't')
  sizes = [float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)" fill="var', drawing)]
  assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.01)
  drawing = charts.bars([Series('a', [[0.1], [9.0], [0.2]], 0)], ['x'], 'y', 't')  # a deviation reaches below 0
  assert '>-' not in drawing and '>10<' in drawing


def test_points_are_turned_to_lie_flat_and_keep_their_distances():
  line = [[k, 2.0 * k] for k in range(5)]
  drawing = charts.scatter([('a', line, 0), ('b', [[0.0, 0.5]], 1)], 't')
  path = re.search(r'<path d="([^"]+)" fill="var\(--c0', drawing)[1]
  at = np.array([[float(word) for word in point.split()] for point in re.findall(r'M([\d.]+ [\d.]+)', path)])
  assert np.ptp(at[:, 1]) < 0.1 * np.ptp(at[:, 0])
  np.testing.assert_allclose(np.linalg.norm(np.diff(at, axis=0), axis=1), np.linalg.norm(at[1] - at[0]), atol=0.3)
  ElementTree.fromstring(charts.scatter([('a', [[1.0, 1.0]] * 3, 0)], 't'))  # all in one place


def test_long_names_do_not_leave_the_picture():
  names = [f'a very long name {k}' for k in range(12)]
  drawing = charts.bars([Series('a', [[1.0] * 12], 0)], names, 'y', 't')
  turned = re.findall(r'<text x="([\d.]+)" [^>]*rotate[^>]*>([^<]+)<', drawing)
  assert len(turned) == 12
  assert all(len(words) * charts.CHARACTER * np.cos(np.radians(35)) < float(x) for x, words in turned)


@pytest.mark.parametrize(('names', 'written', 'turned'), [
  ([str(k) for k in range(10)], 10, False), ([f'class_{k}' for k in range(20)], 20, True),
  ([f'class_{k}' for k in range(100)], 20, True),
])  # fmt: skip
def test_every_column_of_a_matrix_has_its_name_where_there_is_room(names, written, turned):
  drawing = charts.heat(np.eye(len(names)).tolist(), names, names, 't', ('true', 'predicted'))
  heights = [float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', drawing)]
  assert heights.count(max(heights)) == written and ('rotate' in drawing) == turned


def test_a_chart_as_a_file_of_its_own_has_fixed_colours():
  drawing = charts.standalone(charts.curves([Series('<a>', [[1.0]], 0)], ['1'], 'x', 'y', 't'))
  assert 'var(' not in drawing and '#0072B2' in drawing
  assert ElementTree.fromstring(drawing).get('width') == '360'
  looks = [(charts.colour(look), charts.dash(look)) for look in range(18)]
  assert len(set(looks)) == 18 and (charts.colour(charts.GREY), charts.dash(charts.GREY)) not in looks
