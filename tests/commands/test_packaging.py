"""What a wheel of this package holds: all its folders, and the configs, so that it works from any folder."""

import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import REPO

from abd_jax.config import flatten, load_config, packaged_configs, reads
from abd_jax.errors import UserError

SETTINGS = tomllib.loads((REPO / 'pyproject.toml').read_text())['tool']['setuptools']


def test_the_list_of_packages_is_the_folders_there_are():
  folders = {file.parent.relative_to(REPO) for file in (REPO / 'abd_jax').rglob('*.py')}
  assert set(SETTINGS['packages']) == {'.'.join(folder.parts) for folder in folders} | {'abd_jax.configs'}
  assert SETTINGS['package-dir'] == {'abd_jax.configs': 'configs'}


def test_configs_are_found_by_name_and_by_path_from_any_folder(tmp_path, monkeypatch):
  by_path = load_config('configs/digits.py:tasks=5,trial=1').to_dict()
  assert packaged_configs() == REPO / 'configs'
  monkeypatch.chdir(tmp_path)
  assert load_config('digits:tasks=5,trial=1').to_dict() == by_path
  assert load_config('configs/digits.py:tasks=5,trial=1').to_dict() == by_path
  (tmp_path / 'digits.py').write_text((REPO / 'configs' / 'cifar10.py').read_text())
  assert load_config('digits.py').data.name == 'cifar10'  # a file of one's own comes first
  with pytest.raises(UserError, match=r"'digit' does not exist.* Did you mean '.*digits"):
    load_config('digit')


def test_quick_can_be_off():
  assert load_config('digits:quick=0') == load_config('digits')
  assert load_config('digits:quick=1') == load_config('digits:quick') != load_config('digits')
  assert (load_config('digits:quick').collapse, load_config('digits').collapse) == ('tell', 'stop')
  with pytest.raises(UserError, match='quick=1'):
    load_config('digits:quick=maybe')


def test_short_is_an_eighth_of_the_schedule_and_nothing_else():
  whole, short = (flatten(load_config(f'cifar100:{word}').to_dict()) for word in ('tasks=10', 'short'))
  different = {name: value for name, value in short.items() if value != whole[name] and reads('abd', name)}
  assert different == {'student.epochs': 31, 'student.milestones': (12, 18, 25), 'inversion.steps': 1250}
  second = load_config('cifar100_small:method=rdfcil,short=4')
  assert (second.student.epochs, second.student.milestones, second.rdfcil.finetune_epochs) == (8, (4, 6), 2)
  with pytest.raises(UserError, match='short=0: expected'):
    load_config('digits:short=0')


def test_tasks_that_a_config_lists_are_not_others_by_an_option():
  assert load_config('cifar100_small:tasks=4') == load_config('cifar100_small')
  with pytest.raises(UserError, match=r'tasks=2, but config.task_sizes=\(5, 5, 5, 5\)'):
    load_config('cifar100_small:tasks=2')


FIELDS = 'from abd_jax.config import default\ndef get_config(argument):\n  c = default()\n  {}\n  return c'


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('raise ValueError("no")', 'cannot be used'),
    ('x = ', 'cannot be used'),
    ('get_config = int', 'cannot be used'),
    (FIELDS.format('c.student.learning_rate = 0.5'), 'student.learning_rate is not a field'),
    (FIELDS.format('c.tsks = 3'), "tsks is not a field.* 'tasks'"),
    (FIELDS.format('del c.collapse'), 'lacks collapse'),
  ],
)
def test_a_config_file_that_does_not_work_is_refused_in_one_line(tmp_path, text, match):
  (tmp_path / 'mine.py').write_text(text)
  with pytest.raises(UserError, match=match):
    load_config(str(tmp_path / 'mine.py'))


@pytest.mark.slow
def test_a_built_wheel_runs_from_an_empty_folder(tmp_path):
  source = tmp_path / 'source'
  files = subprocess.run(['git', 'ls-files'], cwd=REPO, capture_output=True, text=True, check=True).stdout.split('\n')
  for name in filter(None, files):
    if name.startswith(('abd_jax/', 'configs/', 'pyproject', 'README', 'LICENSE')):
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_bytes((REPO / name).read_bytes())
  words = ['wheel', '-q', '--no-build-isolation', '--no-deps', '-w', str(tmp_path), str(source)]
  subprocess.run([sys.executable, '-m', 'pip', *words], check=True, capture_output=True)
  (wheel,) = tmp_path.glob('*.whl')
  zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
  env = os.environ | {'PYTHONPATH': str(tmp_path / 'site')}
  words = ['-m', 'abd_jax', 'train', '--config=digits:tasks=3', f'--workdir={tmp_path / "run"}']
  (tmp_path / 'empty').mkdir()
  done = subprocess.run([sys.executable, *words], cwd=tmp_path / 'empty', env=env, capture_output=True, text=True)
  assert done.returncode == 2 and '3 equal tasks' in done.stderr, done.stderr
