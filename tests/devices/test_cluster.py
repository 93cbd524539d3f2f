"""abd_jax.devices: a cluster or a device that is not there is one line."""

import socket

import jax
import pytest

from abd_jax.devices import backend, hosts
from abd_jax.errors import UserError


def one_line(error):
  assert '\n' not in str(error.value)
  return str(error.value)


def test_no_cluster_is_told():
  with pytest.raises(UserError, match=r'no cluster to be one of .*--config\.cluster\.coordinator') as error:
    hosts.join_cluster('', 0, -1)
  one_line(error)


@pytest.mark.parametrize('coordinator', ['host', 'host:', ':1', 'host:port', 'host:99999'])
def test_a_coordinator_is_an_address(coordinator):
  with pytest.raises(UserError, match='must be HOST:PORT') as error:
    hosts.join_cluster(coordinator, 2, 1)
  one_line(error)


def test_a_coordinator_that_does_not_answer_is_given_up(monkeypatch):
  monkeypatch.setattr(hosts, 'PATIENCE', 0.1)
  with socket.socket() as s:
    s.bind(('localhost', 0))  # does not listen
    port = s.getsockname()[1]
    with pytest.raises(UserError, match=rf'localhost:{port} has not answered .*rank 0') as error:
      hosts.join_cluster(f'localhost:{port}', 2, 1)
  one_line(error)


@pytest.mark.parametrize(
  'error', [RuntimeError("Unable to initialize backend 'x': no (set JAX_PLATFORMS='')"), AssertionError()]
)
def test_a_platform_that_is_not_there_is_told_before_anything_is_looked_at(learn, tmp_path, monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setenv('JAX_PLATFORMS', 'x')
  with pytest.raises(UserError, match='JAX_PLATFORMS=x') as told:
    backend.devices()
  assert '(set' not in one_line(told)
  with pytest.raises(UserError, match='JAX_PLATFORMS=x'):
    learn(tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
