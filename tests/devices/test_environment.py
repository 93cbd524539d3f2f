"""abd_jax.devices.environment: versions, device and commit of a run."""

import subprocess

from abd_jax.devices import environment as environment_lib


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
