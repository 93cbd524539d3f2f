"""abd_jax.report.page, from records made by hand, so that each oddity is one line."""

import base64
import io
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from abd_jax.report.page import costs, report
from abd_jax.report.runs import RunRecord, grouped
from abd_jax.report.tables import METRICS, picture

ODD = ('<script>alert(1)</script>', '🦊 "fox" & \'hound\'', '</svg><img src=x>', 'ünï')


def diagnosis(names, tasks, dreams=True):
  """What diagnosis.json might hold for two classes a task."""
  rng = np.random.default_rng(0)
  pair = lambda: {'new': 2.0, 'dreamed': 1.0 if dreams else None}
  layers = {name: {'mid': pair(), 'mmd2': pair(), 'dead': 0, 'features': 4} for name in ('stem', 'stage0_block0')}
  points = lambda: rng.random((9, 2)).tolist()
  entry = lambda t: {
    'task': t, 'dreams': 8, 'agreement': 0.5, 'judge_accuracy': 1.0, 'chance': 0.5 / (t + 1), 'confidence': 0.9,
    'class_confidence': [0.9, None] * (t + 1), 'histogram': [8, 0] * (t + 1), 'diversity': None,
    'nearest_dreamed': [0.1] * 5, 'nearest_unseen': [0.2] * 5, 'suspicious': 0.0, 'closer': 0.5,
    'pair_distances': [0.1, 0.2],
    'features': {'nearest_dreamed': [0.1] * 5, 'nearest_unseen': [0.2] * 5, 'suspicious': 0.125, 'closer': 0.375},
  }  # fmt: skip
  return {
    'class_names': list(names),
    'task_sizes': [2] * tasks,
    'distances': [{'task': t, 'images': {}, 'layers': layers} for t in range(1, tasks)],
    'cka': [{'task': t, 'layers': {'stem': 0.5, 'stage0_block0': None}} for t in range(1, tasks)],
    'plane': {'task': 1, 'old': points(), 'new': points()} | ({'dreamed': points()} if dreams else {}),
    'probe': {name: {'all': 0.5, 'by_task': [0.5] * tasks} for name in ('head', 'probe')},
    'carried': [{'task': t, 'by_class': [0.25, 0.75, None]} for t in range(1, tasks)] if dreams else [],
    'dreams': [entry(t) for t in range(tasks - 1)] if dreams else [],
    'kept_bytes': {'student': 1e6, 'images': 0},
    'kept_images': 0,
  }


def pictures(tasks, dreams=True):
  image = np.full((2, 8, 8, 1), 200, np.uint8)
  found = {f'real_{label}': image for label in range(2 * tasks)}
  for t in range(tasks - 1) if dreams else ():
    found |= {f'dreamed_{t}_{label}': image[: 2 - label % 2 * 2] for label in range(2 * t + 2)}
    found |= {f'nearest_dreamed_{t}': image, f'nearest_real_{t}': image}
  return found


def record(method='abd', trial=0, tasks=2, names=ODD, dreams=True, finished=True, look=True, **config):
  so_far = {'accuracy_matrix': [[0.9] * (t + 1) for t in range(tasks)], 'seen_accuracy': [0.9] * tasks}
  results = so_far | {
    **dict.fromkeys(METRICS, 0.9), 'forgetting': 0.1 if tasks > 1 else None, 'backward_transfer': None,
    'seconds': {'compile': 1.0, 'train': 2.0}, 'steps': {'student': 10, 'generator': 0}, 'commit': 'abc+',
    'versions': {'jax': '<1>'},
    'device': {'count': 1, 'kind': 'cpu', 'platform': 'cpu', 'cpu_cores': 2, 'cpu_model': '&'},
  }  # fmt: skip
  phase = {'task': 0, 'phase': 'learning', 'steps': 5, 'seconds': 1.5, 'peak_bytes': {'host': 5e8}}
  names = tuple(names[: 2 * tasks])
  return RunRecord(
    name='<i>run</i>',
    config={'method': method, 'trial': trial, 'seed': -1, 'tasks': tasks, 'task_sizes': (), 'data.name': 'd<b>'}
    | config,
    results=results if finished else so_far | {'seconds': {'learning': 1.5}},
    confusion=(list(names), np.eye(len(names), dtype=int)),
    phases=[phase],
    changed={'x': ('<u>', ())} | {name: (value, None) for name, value in {'method': method, **config}.items()},
    command="python '<here>'",
    diagnosis=diagnosis(names, tasks, dreams) if look else {},
    pictures=pictures(tasks, dreams) if look else {},
    note='' if look else 'No diagnosis: <no data>',
  )


def check(page):
  """Every tag closes, and none of them and no attribute fetches or runs something."""
  short = re.sub(r'<(details|figure) [^>]*>', r'<\1>', page.removeprefix('<!DOCTYPE html>'))
  closed = re.sub(r'<(meta|link|img|br)\b([^>]*)>', r'<\1\2/>', short)
  for node in ElementTree.fromstring(closed).iter():
    assert node.tag not in {'script', 'iframe', 'object', 'b', 'u', 'i', 'here'}
    for name, value in node.items():
      assert not name.startswith('on') and (name not in ('src', 'href') or value.startswith('data:')), value
      assert 'nan' not in value or name in ('alt', 'title'), value
  assert not re.search(r'https?://(?!www\.w3\.org/2000/svg)', page)
  return page


def test_a_page_escapes_everything_and_fetches_nothing():
  page = check(report([record()]))
  assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page and '🦊' in page and '<script' not in page
  assert 'Confusion after task 2' in page
  assert 'abd, 2</td><td class="n">0.50</td><td class="n">0.75</td>' in page
  for heading in ('Accuracy', 'Dreams', 'Where the features go', 'What the dreams are worth', 'How it was run'):
    assert f'<h2>{heading}</h2>' in page


@pytest.mark.parametrize('odd', [
  dict(tasks=1), dict(tasks=1, dreams=False, finished=False), dict(dreams=False), dict(finished=False),
  dict(look=False), dict(tasks=12, names=[f'class number {k}' for k in range(24)]),
])  # fmt: skip
def test_odd_runs_render(odd):
  page = check(report([record(**odd)]))
  assert ('<h2>Dreams</h2>' in page) == (odd.get('dreams', True) and odd.get('look', True) and odd.get('tasks', 2) > 1)


def test_runs_that_lack_accuracies_render():
  nothing = {'accuracy_matrix': [], 'seen_accuracy': [], 'seconds': {}}
  begun = record(finished=False, look=False)._replace(results=nothing, phases=[])
  assert 'No task is complete yet.' in check(report([begun]))
  untested = {'accuracy_matrix': [[None], [None, None]], 'seen_accuracy': [None, None]}  # without test images
  check(report([record()._replace(results=record().results | untested)]))


def names_of(*configs):
  """(name, number of runs) of each group of runs with these fields."""
  return [(group.name, len(group.runs)) for group in grouped([record(**one) for one in configs])]


def test_trials_are_one_group_and_other_configs_another():
  of = lambda trial: {'trial': trial, 'data.mean': (0.1 * trial,)}  # trials of a folder begin with other classes
  runs = [dict(of(t), lr=lr) for lr in (0.1, 0.2) for t in range(2)] + [dict(method='lwf', dreams=False)]
  assert names_of(*runs) == [('abd, lr=0.1', 2), ('abd, lr=0.2', 2), ('lwf', 1)]
  assert '90.0 ± 0.0' in check(report([record(**one) for one in runs]))


def test_a_sweep_has_short_names_that_differ():
  grid = itertools.product((0.1, 0.2), (1, 2), ('a', 'b'))
  sweep = names_of(*({'student.lr': lr, 'inversion.lr': 1e-3 * k, 'abd.balance': word} for lr, k, word in grid))
  assert len(set(sweep)) == 8
  assert sweep[0] == ('abd, student.lr=0.1, inversion.lr=0.001, balance=a', 1)
  alike = ({'student.lr': lr, 'student.epochs': 10 * k} for k, lr in enumerate((0.1, 0.2)))
  assert names_of(*alike) == [('abd, lr=0.1', 1), ('abd, lr=0.2', 1)]


def test_means_name_how_many_runs_they_are_of():
  begun = record(trial=2, finished=False)  # its seconds are by phase
  assert '2 of 3' in check(report([record(), record(trial=1), begun, record('lwf', dreams=False)]))
  text = costs(grouped([record(), record(trial=1), begun]))['seconds']
  assert all(cell in text for cell in ('<td class="n">2.0</td>', '<td class="n">1.5</td>')), text


def unknown(found):
  """The diagnosis without any number that too few images or classes leave unknown."""
  for layer in (layer for one in found['distances'] for layer in one['layers'].values()):
    nothing = {'new': None, 'dreamed': None}
    layer |= {'mid': nothing, 'mmd2': nothing, 'dead': None}
  for one in found['cka']:
    one['layers'] = dict.fromkeys(one['layers'])
  found['probe']['probe'] = {'all': None, 'by_task': [None] * len(found['task_sizes'])}
  for one in found['dreams']:
    one |= {'agreement': None, 'judge_accuracy': None}
  return found | {'plane': None}


def test_unknown_numbers_are_a_dash_or_left_out():
  run, none = record(), np.zeros((0, 8, 8, 1), np.uint8)
  page = check(report([run._replace(diagnosis=unknown(run.diagnosis), pictures=run.pictures | {'real_0': none})]))
  assert 'abd, 1</td><td class="n">-</td><td class="n">50.0</td><td class="n">-</td>' in page
  assert 'Probe and head' in page and '<td>-</td>' in page
  for gone in ('On a plane', 'Through the network', 'Linear CKA', 'Figure 2'):
    assert gone not in page
  check(report([record(trial=1), run._replace(diagnosis=unknown(diagnosis(ODD, 2)))]))


def test_a_trial_under_way_beside_one_that_is_finished():
  names = list('abcdef')
  begun = record(trial=1, tasks=3, names=names, finished=False)._replace(diagnosis=diagnosis(names, 1))
  for runs in ([record(tasks=3, names=names), begun], [begun, record(tasks=3, names=names)]):
    assert 'layer by layer' in check(report(runs))


@pytest.mark.parametrize('side, channels', [(8, 1), (8, 3), (64, 3)])
def test_pictures_are_embedded_and_small(side, channels):
  tag = picture(np.full((3, side, side, channels), 128, np.uint8), 'a "word"')
  shown = Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', tag)[1])))
  assert shown.height == min(side, 48) and shown.width >= 3 * shown.height
  assert 'alt="a &quot;word&quot;"' in tag
