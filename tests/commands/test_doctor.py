"""abd-jax doctor and what all commands share: findings with their remedies, verbs, a full disk."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from conftest import REPO

from abd_jax import __main__ as front
from abd_jax.commands import doctor, verbs


def test_what_is_well_has_no_remedy_and_data_are_counted(digits_data, tmp_path):
  found = [*doctor.findings('', Path('.'))]
  assert any('cpu device' in finding.text for finding in found)
  assert any('297 test' in finding.text and '1500 train' in finding.text for finding in found)
  assert not [finding for finding in found if finding.remedy]
  assert 'no prepared data set' in next(doctor.data(str(tmp_path))).text


def test_data_of_others_are_left_alone(digits_data, tmp_path):
  """Not told to be damaged, to be deleted."""
  from tensorflow_datasets.core import constants

  shutil.copytree(Path(constants.DATA_DIR) / 'digits', tmp_path / 'digits')
  info = next((tmp_path / 'digits').rglob('dataset_info.json'))
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  (finding,) = doctor.data(str(tmp_path))
  assert 'stored as tfrecord, which abd_jax does not use' in finding.text and not finding.remedy


def test_what_is_not_well_comes_with_its_remedy(digits_data, tmp_path, monkeypatch):
  from tensorflow_datasets.core import constants

  shutil.copytree(Path(constants.DATA_DIR) / 'digits', tmp_path / 'digits')
  (record,) = (tmp_path / 'digits').rglob('*train*array_record*')
  record.write_bytes(record.read_bytes()[:1000])
  (finding,) = doctor.data(str(tmp_path))
  assert '1500' in finding.remedy and 'Delete it' in finding.remedy
  (next((tmp_path / 'digits').rglob('dataset_info.json'))).write_text('{')
  assert 'Delete that folder' in next(doctor.data(str(tmp_path))).remedy
  monkeypatch.setattr(doctor, 'DISK', 1e9)
  monkeypatch.setattr(doctor, 'MEMORY', 1e9)
  memory, disk = doctor.space(tmp_path / 'not' / 'there')
  assert 'close other programs' in memory.remedy and 'make room' in disk.remedy


def test_steps_that_differ_are_pointed_out(monkeypatch):
  monkeypatch.setattr(doctor, 'self_test', lambda: doctor.EXPECTED | {'ABD, ce': 0.8})
  remedies = [finding.remedy for finding in doctor.steps()]
  assert 'requirements.txt' in remedies[0] and not any(remedies[1:])


def test_a_jax_that_cannot_be_imported_is_a_finding(tmp_path, cli_env):
  (tmp_path / 'jax').mkdir()
  (tmp_path / 'jax/__init__.py').write_text('raise RuntimeError("jaxlib is version 0.1, but this needs 0.2")')
  words = [sys.executable, '-m', 'abd_jax', 'doctor', f'--data_dir={tmp_path}']
  done = subprocess.run(
    words, env=cli_env | {'PYTHONPATH': f'{tmp_path}:{REPO}'}, cwd=tmp_path, capture_output=True, text=True
  )
  assert 'JAX cannot compute here. jaxlib is version 0.1' in done.stdout and done.returncode == 1, done
  assert 'Traceback' not in done.stderr and 'GB free' in done.stdout


@pytest.mark.slow
def test_the_steps_give_the_numbers_that_are_stored():
  jax.config.update('jax_default_prng_impl', 'rbg')  # which a run overrules too
  for name, value in doctor.self_test().items():
    assert value == pytest.approx(doctor.EXPECTED[name], abs=doctor.TOLERANCE), name


@pytest.mark.parametrize('verb', verbs())
def test_every_verb_has_help_and_takes_no_unknown_option(verb, capsys):
  assert front._run([verb, '--help']) == 0
  assert f'abd-jax {verb}' in capsys.readouterr().out
  assert front._run([verb, '--nothing=1']) == 2
  told = capsys.readouterr().err
  assert told.startswith('error: --nothing is not an option') and told.count('\n') == 1


def test_a_mistyped_verb_and_none_are_told(capsys):
  assert front._run(['pedict']) == 2 and "Did you mean 'predict'" in capsys.readouterr().err
  assert front._run([]) == 2 and front._run(['--help']) == 0
  text = capsys.readouterr().out
  assert all(f'  abd-jax {verb} ' in text for verb in verbs())


def test_errors_of_the_system_are_one_line_whatever_library_met_them(capsys, monkeypatch, tmp_path):
  def run(words):
    try:
      raise ValueError('RESOURCE_EXHAUSTED: write failed [No space left on device]')
    except ValueError as error:
      raise RuntimeError('cannot save') from error

  monkeypatch.setattr(doctor, 'run', run)
  assert front._run(['doctor']) == 2
  assert capsys.readouterr().err.startswith(
    'error: standard output, or what this command makes, cannot be written (No space left'
  )
  monkeypatch.setattr(doctor, 'run', lambda words: (tmp_path / 'there').read_text())
  assert front._run(['doctor']) == 2
  assert capsys.readouterr().err.startswith(f'error: {tmp_path / "there"}: No such file')
  monkeypatch.setattr(doctor, 'run', lambda words: 1 / 0)
  with pytest.raises(ZeroDivisionError):  # a mistake of ours is not hidden
    front._run(['doctor'])
