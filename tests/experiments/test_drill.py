"""experiments drill: a short form of it, and that it would notice."""

import json
import os
import shutil

import pytest

from abd_jax.errors import Paused, UserError
from experiments import __main__ as command
from experiments import drill, faults, kills, lab
from experiments.files import RESULTS, read_json

# Threads of a library that a fault leaves behind: orbax's that meet a loop it has closed.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnhandledThreadExceptionWarning', 'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Runs that the tests of this file share."""
  return lab.Lab(tmp_path_factory.mktemp('drill'))


@pytest.fixture(autouse=True)
def compiled():
  with lab.compiled_once():
    yield


def test_the_short_form_ends_without_a_traceback_a_wrong_result_or_a_loss(place, capsys):
  words = ['drill', '--quick', f'--runs={place.root}', f'--output={place.root / "drill.json"}']
  with pytest.raises(Paused):
    command.run([*words, '--max_seconds=0.01'])
  assert not (place.root / 'drill.json').exists()
  command.run(words)
  found = read_json(place.root / 'drill.json')
  kinds = {one['kind'] for one in found['cases']}
  assert len(found['cases']) >= 24 and len(kinds) >= 15 and any(kind.startswith('SIGKILL') for kind in kinds)
  assert {one['outcome'] for one in found['cases']} == {'equal', 'refused'}
  assert str(place.root) not in (place.root / 'drill.json').read_text()
  assert capsys.readouterr().out.startswith('| fault ')


def flipped_value(workdir):
  """A result is changed and sealed again, as no flipped bit can."""
  faults._rewrite(workdir / 'results.json', lambda one: one | {'final_accuracy': one['final_accuracy'] + 0.01})


def test_a_wrong_result_is_noticed(place, tmp_path):
  case = faults.read_again(place, 'kind', 'name', flipped_value, 'run again')
  assert case.try_it(tmp_path).outcome == 'wrong'
  workdir = place.copy_finished(tmp_path / 'more')
  flipped_value(workdir)
  assert lab.difference(workdir, place.finished('abd')) == 'results: final_accuracy'


def test_files_that_a_refusal_changes_are_a_loss_and_another_error_is_a_traceback(place, tmp_path):
  workdir = place.copy_finished(tmp_path)

  def spoils():
    (workdir / 'metrics.jsonl').unlink()
    raise UserError('refused')

  assert place.judge(workdir, 'abd', spoils).outcome == 'lost'
  assert lab.judged(lambda: {}['x']).outcome == 'traceback'


@pytest.mark.parametrize(
  ('code', 'outcome'),
  [
    ('pass', 'equal'),
    ('import sys; sys.exit("error: one line")', 'refused'),
    ('1 / 0', 'traceback'),
    ('import sys; sys.exit(3)', 'traceback'),
    ('print("one", file=__import__("sys").stderr); print("two", file=__import__("sys").stderr)', 'traceback'),
    ('import os; os._exit(143)', 'refused'),
  ],
)
def test_how_a_process_ended(place, code, outcome):
  import sys

  assert kills.ended(kills.start(place, [sys.executable, '-c', code])).outcome == outcome


def test_a_fault_that_ended_badly_is_told_and_kept(place, tmp_path, monkeypatch, capsys):
  bad = lab.Case('a kind', 'a name', lambda folder: lab.Verdict('wrong', f'{folder}/x differs'))
  monkeypatch.setattr(drill, 'cases', lambda lab, few: [bad])
  words = ['drill', f'--runs={tmp_path}', f'--output={tmp_path / "drill.json"}']
  with pytest.raises(UserError, match='1 faults ended otherwise, the first: a kind, a name'):
    command.run(words)
  assert (tmp_path / 'cases/a_kind_a_name.scratch').is_dir() and 'a kind, a name: wrong' in capsys.readouterr().err
  (one,) = json.loads((tmp_path / 'drill.json').read_text())['cases']
  assert one['outcome'] == 'wrong' and str(tmp_path) not in one['told']
  shutil.rmtree(tmp_path / 'cases')


def test_every_stage_and_signal_and_place_has_its_cases(place, monkeypatch):
  cases = drill.cases(place, few=False)
  assert len(cases) >= 300 and len({drill._slug(case) for case in cases}) == len(cases)
  stages = {case.kind for case in cases if case.kind.startswith('SIG')}
  assert len(stages) == 3 * (len(kills.STAGES) + 1)
  assert sum(case.kind.startswith('SIG') for case in cases) >= 30


def test_the_stored_drill_has_no_bad_end():
  found = read_json(RESULTS / 'drill.json')
  assert len(found['cases']) >= 300
  assert {one['outcome'] for one in found['cases']} == {'equal', 'refused'}
  assert os.sep + 'tmp' not in json.dumps(found) and '/work' not in json.dumps(found)
