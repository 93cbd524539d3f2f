"""abd-jax extend: new classes for a finished run's model, from that model alone."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import assert_same_outcome, snapshot, until_complete
from made_up import prepare
from PIL import Image

from abd_jax.commands import extend, report
from abd_jax.config import changed
from abd_jax.errors import Paused, UserError
from abd_jax.run.extend import extended_config, old_stream, open_stream, read_base
from abd_jax.run.load import load_model
from abd_jax.run.plan import build
from abd_jax.run.schedule import BASE, TeacherId
from abd_jax.train import train_and_evaluate

MEMORY = ('bic', 'rehearsal')


@pytest.fixture
def base(learnt):
  """base(method='abd') -> the workdir of a finished run of six digits."""
  return lambda method='abd': learnt(method, **({'memory__size': 90} if method in MEMORY else {}))


def bar(label, seed, side=8):
  """A grey picture of noise with a bar at a height that tells the class."""
  pixels = np.random.default_rng(seed).integers(0, 5, (side, side), np.uint8)
  pixels[2 * label : 2 * label + 2] += 11
  return Image.fromarray(pixels)


@pytest.fixture(scope='module')
def letters(tmp_path_factory):
  """Config fields of the data set 'letters', with a class for each digit not learnt yet; also 'few', 'clash', 'large'.

  Bars of 8x8, but for 'large'.
  """
  import tensorflow_datasets as tfds

  root = tmp_path_factory.mktemp('letters')
  examples = lambda classes, side, count: [(bar(i % classes, i, side), i % classes) for i in range(count)]
  # 'clash' has the first digit of trial 0.
  for name, names, side in (('letters', 'abcd', 8), ('few', 'abc', 8), ('clash', 'a7c', 8), ('large', 'abc', 16)):
    features = tfds.features.Image(shape=(side, side, 1)), tfds.features.ClassLabel(names=list(names))
    train, test = (examples(len(names), side, count) for count in (300, 40))
    prepare(root, train, *features, test, name)
  return {'data.name': 'letters', 'data.dir': str(root), 'devices': 1}


@pytest.fixture
def letters_config(base, letters):
  """make(method='abd', **fields) -> the config that teaches the digits' model letters."""
  return lambda method='abd', **fields: extended_config(str(base(method)), letters | fields)


@pytest.mark.parametrize('method', ['abd', pytest.param('rdfcil', marks=pytest.mark.slow)])
def test_new_classes_are_learnt_dreamed_old_ones_kept_and_all_evaluated(
  base, letters, letters_config, compile_once, tmp_path, method
):
  before, config = snapshot(base(method)), letters_config(method)
  assert config.task_sizes == (2, 2, 2, 4) and config.tasks == 4
  results = train_and_evaluate(config, str(tmp_path / 'more'))
  old = read_base(base(method)).results
  assert results['task_sizes'] == [2, 2, 2, 4] and results['class_order']['names'][6:] == ['a', 'b', 'c', 'd']
  assert results['accuracy_matrix'][:3] == old['accuracy_matrix'] and len(results['accuracy_matrix'][3]) == 4
  assert results['test_images'] == [*old['test_images'], 40] and len(results['class_accuracy']) == 10
  assert snapshot(base(method)) == before
  # Task 3's model is there again, now with a generator trained against it.
  assert load_model(tmp_path / 'more', 2).can_dream and not load_model(base(method)).can_dream
  assert load_model(tmp_path / 'more').class_names == tuple(results['class_order']['names'])
  images = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1), np.uint8)
  again, features = (load_model(*where).features(images) for where in ((tmp_path / 'more', 2), (base(method),)))
  np.testing.assert_array_equal(again, features)
  assert (tmp_path / 'more' / 'dreams' / 'task_3.png').exists() and results['steps']['generator'] == 6
  report.run([str(tmp_path / 'more')])
  page = (tmp_path / 'more/report.html').read_text()
  assert f'<td class="n">{100 * results["final_accuracy"]:.1f}</td>' in page
  # This run can be extended too. Its test images are those of both data sets, each under its own class.
  with pytest.raises(UserError, match="class 'a' already"):
    extended_config(str(tmp_path / 'more'), letters)
  stream, digits = old_stream(read_base(tmp_path / 'more')), open_stream(read_base(base(method)).config, None)
  jax.tree.map(np.testing.assert_array_equal, stream.test(2).decode(), digits.test(2).decode())
  images, labels = stream.test(3).decode()
  jax.tree.map(np.testing.assert_array_equal, (images[:179], labels[:179]), digits.test(2).decode())
  rows = images[179:, ..., 0].mean(2)  # f[n, 8]: a letter is a bar of two rows, at a height that tells the class
  np.testing.assert_array_equal(labels[179:], 6 + rows.argmax(1) // 2)
  assert np.bincount(labels[179:]).tolist() == [0] * 6 + [10] * 4


def test_the_head_grows_and_all_that_was_learnt_is_kept_bit_by_bit(base, letters_config):
  plan = build(letters_config(**{'data.name': 'few'}))
  grown, old = jax.device_get(plan.base_snapshot()).model, read_base(base()).snapshot.model
  fresh = jax.device_get(plan.steps.new_student())
  for name, width in (('kernel', (4,)), ('bias', ())):
    ours, before, new = (one.params['head'][name] for one in (grown, old, fresh))
    assert ours.shape == (*width, 9) and before.shape == (*width, 10)
    np.testing.assert_array_equal(ours, np.concatenate([before[..., :6], new[..., 6:]], -1))
    assert np.all(before[..., 6:9] != new[..., 6:])
  for part in (lambda model: model.params['backbone'], lambda model: model.batch_stats):
    jax.tree.map(np.testing.assert_array_equal, part(grown), part(old))
  assert plan.schedule.start == (2, 'dreaming')
  assert plan.schedule.frozen_before(3, '') == [BASE, TeacherId(2)]
  # Going on with its own digits, those that it has not learnt keep their rows.
  same = build(extended_config(str(base()), {'task_sizes': (2, 2, 2, 4)})).base_snapshot().model
  np.testing.assert_array_equal(same.params['head']['kernel'], old.params['head']['kernel'])


def test_a_memory_is_taken_over_and_grows_with_the_classes_if_it_keeps_so_many_of_each(
  learnt, base, letters, letters_config, compile_once
):
  config = letters_config('rehearsal')
  assert len(build(config).base_snapshot().memory['labels']) == 90
  assert build(changed(config, {'method': 'base'})).base_snapshot().memory == {}
  each = str(learnt('rehearsal', memory__per_class=15))
  memory = build(extended_config(each, letters)).base_snapshot().memory
  assert memory['images'].shape == (15 * 10, 8, 8, 1)
  assert np.bincount(memory['labels'] + 1).tolist() == [15 * 4, *[15] * 6]
  for other in ({'memory.per_class': 10}, {'memory.per_class': 0, 'memory.size': 90}):
    with pytest.raises(UserError, match='keeps 90 images'):
      build(extended_config(each, letters | other))


def test_a_cluster_is_joined_before_the_base_is_read(tmp_path):
  """Reading it starts JAX's devices, after which no cluster can be joined."""
  words = [str(tmp_path / 'no run'), f'--workdir={tmp_path / "more"}', '--config.cluster.coordinator=nowhere']
  with pytest.raises(UserError, match=r'cluster.coordinator.*nowhere'):
    extend.run(words)


@pytest.mark.slow
def test_an_extended_run_paused_anywhere_resumes_to_the_same_end(letters_config, compile_once, tmp_path):
  train_and_evaluate(letters_config(), str(tmp_path / 'whole'))
  paused = letters_config(max_seconds=1e-9)
  _, pauses = until_complete(lambda: train_and_evaluate(paused, str(tmp_path / 'more')))
  assert pauses >= 4
  assert_same_outcome(tmp_path / 'more', tmp_path / 'whole')


def test_without_their_test_images_old_classes_are_not_evaluated_and_another_method_may_go_on(
  base, letters, compile_once, tmp_path
):
  shutil.copytree(base('lwf'), tmp_path / 'run')
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  stored['data']['name'] = 'gone'
  stored |= {'devices': 8, 'max_seconds': 60.0}
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(stored))
  config = extended_config(str(tmp_path / 'run'), {name: letters[name] for name in ('data.name', 'data.dir')}, 'base')
  assert config.devices == config.max_seconds == 0  # where and how long the base ran is not taken over
  results = train_and_evaluate(changed(config, {'devices': 1}), str(tmp_path / 'more'))
  before = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['test_images'] == [*before['test_images'], 40]
  assert (results['method'], before['method']) == ('base', 'lwf')
  *old, new = results['accuracy_matrix'][3]
  assert old == [None] * 3 and new > 0 and results['new_accuracy'][3] == new
  assert results['final_accuracy'] is results['average_accuracy'] is results['forgetting'] is None
  assert results['seen_accuracy'] == [*before['seen_accuracy'], None] and None not in before['seen_accuracy']
  assert results['class_accuracy'][:6] == [None] * 6
  assert json.loads((tmp_path / 'more' / 'results.json').read_text()) == results
  report.run([str(tmp_path / 'more')])
  assert '<h2>Accuracy</h2>' in (tmp_path / 'more/report.html').read_text()


def bars(folder, names):
  """A folder of photographs: 30 and 6 bars of each class."""
  for split, count in (('train', 30), ('test', 6)):
    for label, name in enumerate(names):
      (folder / split / name).mkdir(parents=True)
      for i in range(count):
        bar(label, [label, i, count]).save(folder / split / name / f'{i}.png')
  return folder


def test_folders_of_photographs_extend_one_another(compile_once, tiny_config, tmp_path):
  old, new, one = (bars(tmp_path / names, list(names)) for names in ('abcd', 'xy', 'z'))
  found = {'data__mean': (), 'data__std': (), 'data__max_value': 16.0, 'data__name': 'image_folder'}
  fields = found | {'student__batch_size': 16, 'inversion__batch_size': 8, 'task_sizes': (2, 2)}
  train_and_evaluate(tiny_config('base', **fields, data__dir=str(old)), str(tmp_path / 'run'))
  config = extended_config(str(tmp_path / 'run'), {'data.dir': str(new), 'devices': 1})
  results = train_and_evaluate(config, str(tmp_path / 'more'))
  assert results['class_order']['names'][4:] == ['x', 'y'] and results['test_images'] == [12, 12, 12]
  assert len(results['accuracy_matrix'][2]) == 3 and None not in results['accuracy_matrix'][2]
  ours, theirs = (json.loads((tmp_path / name / 'config.json').read_text())['data'] for name in ('more', 'run'))
  assert ours['mean'] == theirs['mean'] and ours['fingerprint'] != theirs['fingerprint']
  # A single class can be taught to a run, but makes none of its own.
  assert extended_config(str(tmp_path / 'run'), {'data.dir': str(one)}).task_sizes == (2, 2, 1)
  with pytest.raises(UserError, match="'z' is the only class"):
    build(tiny_config('base', **fields | {'task_sizes': ()}, data__dir=str(one)))
  # Old photographs that have changed are no tests of what was learnt, nor may a run go on with them.
  base = read_base(tmp_path / 'run')
  assert old_stream(base) is not None
  first, second = sorted((old / 'train' / 'a').iterdir())[:2]
  first.write_bytes(second.read_bytes())
  assert old_stream(base) is None
  with pytest.raises(UserError, match='are not those'):
    open_stream(changed(base.config, {'extends': str(base.workdir), 'data.fingerprint': ''}), base)
  assert old_stream(base) is None  # also where a copy of them has just been prepared


@pytest.mark.slow
@pytest.mark.parametrize('method', ['bic', 'dgr'])
def test_the_next_classes_of_its_own_data_and_a_memory_that_is_kept(base, compile_once, tmp_path, method):
  config = extended_config(str(base(method)), {'task_sizes': (2, 2, 2, 3, 1)})
  results = train_and_evaluate(config, str(tmp_path / 'more'))
  old = read_base(base(method)).results
  assert results['class_order'] == old['class_order'] and results['task_sizes'] == [2, 2, 2, 3, 1]
  assert sum(results['test_images']) == 297 and len(results['accuracy_matrix']) == 5
  # All its own classes learnt, what came of it can be taught others.
  with pytest.raises(UserError, match='has learnt all classes'):
    extended_config(str(tmp_path / 'more'), {})


@pytest.mark.parametrize(
  ('method', 'match'), [('bic', 'keeps 0 images'), ('rdfcil', 'other parameters'), ('oracle', 'extends no model')]
)
def test_another_method_that_cannot_go_on_is_refused(base, letters, compile_once, tmp_path, method, match):
  config = extended_config(str(base()), letters, method)
  with pytest.raises(UserError, match=match):
    train_and_evaluate(config, str(tmp_path / method))
  assert not (tmp_path / method / 'metrics.jsonl').exists()


@pytest.mark.parametrize(
  ('fields', 'match'),
  [
    ({'data.name': 'clash'}, "'7' .* 'clash'"),
    ({'data.name': 'large'}, r'\(8, 8, 1\) .*\(16, 16, 1\)'),
    ({'data.name': 'lettres'}, "'letters'"),
    ({'task_sizes': (2, 2, 3)}, r'task_sizes.*\(2, 2, 2\)'),
    ({'task_sizes': (2, 2, 2, 'x')}, "config.task_sizes=.* 'x'"),
    ({'task_sizes': (2, 2, 2, 5)}, "5 new classes, but 'letters' has 4"),
    ({'data.mean': (0.1,)}, 'config.data.mean'),
    ({'class_order': '2,1,0'}, 'config.class_order'),
  ],
)
def test_data_and_fields_that_do_not_fit_are_refused_in_one_line(base, letters, fields, match):
  before = snapshot(base())
  with pytest.raises(UserError, match=match):
    extended_config(str(base()), letters | fields)
  assert snapshot(base()) == before


def test_photographs_without_the_name_of_their_data_set_are_refused_and_left_alone(base, letters, tmp_path):
  """The base has not learnt all digits, so `extend` would prepare those, in the folder of the photographs."""
  more = bars(tmp_path / 'more', 'xy')
  before = snapshot(more)
  with pytest.raises(UserError, match=r"no prepared copy of 'digits'.*data\.name=image_folder"):
    extended_config(str(base()), {'data.dir': str(more)})
  assert snapshot(more) == before


def test_a_run_that_is_not_finished_and_no_run_are_refused(learn, tmp_path):
  with pytest.raises(Paused):
    learn(tmp_path / 'run', method='lwf', max_seconds=1e-9)
  for path, match in ((tmp_path / 'run', 'is not finished'), (tmp_path, 'holds no run')):
    before = snapshot(path)
    with pytest.raises(UserError, match=match):
      extended_config(str(path), {})
    assert snapshot(path) == before
