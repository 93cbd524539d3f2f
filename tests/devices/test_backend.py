"""abd_jax.devices: a missing cluster, device or memory is one line; the facts of a run; freed memory is kept."""

import socket
import subprocess

import jax
import pytest

from abd_jax.devices import environment as environment_lib
from abd_jax.devices import hosts
from abd_jax.errors import UserError


@pytest.mark.parametrize(
  ('coordinator', 'match'),
  [('', r'found none .*--config\.cluster\.coordinator')]
  + [(address, 'expected HOST:PORT') for address in ('host', 'host:', ':1', 'host:port', 'host:99999')],
)
def test_without_a_cluster_or_an_address_the_user_is_told(coordinator, match):
  with pytest.raises(UserError, match=match):
    hosts.join_cluster(coordinator, 2 if coordinator else 0, 1 if coordinator else -1)


def test_a_coordinator_that_does_not_answer_is_given_up(monkeypatch):
  monkeypatch.setattr(hosts, 'PATIENCE', 0.1)
  with socket.socket() as s:
    s.bind(('localhost', 0))  # does not listen
    port = s.getsockname()[1]
    with pytest.raises(UserError, match=rf'localhost:{port} has not answered .*rank 0'):
      hosts.join_cluster(f'localhost:{port}', 2, 1)


@pytest.mark.parametrize(
  'error', [RuntimeError("Unable to initialize backend 'x': no (set JAX_PLATFORMS='')"), AssertionError()]
)
def test_a_missing_platform_ends_a_run_before_it_begins(learn, tmp_path, monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setenv('JAX_PLATFORMS', 'x')
  with pytest.raises(UserError, match='JAX_PLATFORMS=x') as raised:
    learn(tmp_path / 'run')
  assert '(set' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('there', 'images', 'match'),
  [(1, 0, None), (2, 1, None), (0.25, 0, 'has 0.2.*config.data.device_mib'), (4, 6, 'at least 6.5 GiB .* has 4.0')],
)
def test_too_little_memory_is_one_line_with_both_numbers(monkeypatch, there, images, match):
  """In GiB."""
  gib = environment_lib.GIB
  monkeypatch.setattr(environment_lib, '_physical', lambda: int(there * gib))
  if not match:
    return environment_lib.check_memory(images * gib)
  with pytest.raises(UserError, match=match):
    environment_lib.check_memory(images * gib)


def test_a_run_asks_for_the_memory_of_its_images(tiny_config, monkeypatch):
  from abd_jax.run import plan

  asked = []
  monkeypatch.setattr(plan, 'check_memory', asked.append)
  built = plan.build(tiny_config())
  tests = len(built.stream.test_labels(2))
  assert asked == [(2 * 512 + tests) * 64]  # a task of 300 images is padded to 512
  assert plan.build(tiny_config(data__device_mib=0)).image_bytes() == 0
  assert environment_lib._physical() > 2**28


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
  (tmp_path / 'site-packages').mkdir()  # installed inside the checkout of something else
  monkeypatch.setattr(environment_lib, '__file__', str(tmp_path / 'site-packages/environment.py'))
  assert environment_lib.environment()['commit'] is None
