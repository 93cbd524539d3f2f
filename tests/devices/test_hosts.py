"""Two hosts, as on a pod: here two processes that meet over gloo and share a workdir."""

import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPO, TINY, command, log_records

HOST = """
import json, sys
import jax
port, host, workdir, method, fields = sys.argv[1:]
if port != '0':
  jax.distributed.initialize(f'localhost:{port}', 2, int(host))
from absl import logging
from abd_jax.train import train_and_evaluate
from configs.digits import get_config
logging.set_verbosity(logging.ERROR)
config = get_config('tasks=3,method=' + method)
config.update_from_flattened_dict(json.loads(fields) | {'devices': 0})
results = train_and_evaluate(config, workdir)
assert len(jax.devices()) == (1 if port == '0' else 2)
"""


def start(env, port, host, workdir, method, **fields):
  words = [sys.executable, '-c', HOST, str(port), str(host), str(workdir), method, json.dumps(TINY | fields)]
  return subprocess.Popen(words, env=env, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def assert_as_good_as_same(path, reference, least):
  """Every record that both log is of the same steps and nearly the same numbers; these are at least so many."""
  ours, theirs = log_records(path), log_records(reference)
  assert [set(record) for record in ours] == [set(record) for record in theirs]
  compared = 0
  for one, other in zip(ours, theirs, strict=True):
    for name, value in one.items():
      if isinstance(value, str | int):
        assert other[name] == value
      elif 'accuracy' in name:  # a test image more or less, of at least 59
        np.testing.assert_allclose(other[name], value, atol=0.06)
      else:
        np.testing.assert_allclose(other[name], value, rtol=2e-2, atol=1e-4, err_msg=str(one))
        compared += 1
  assert compared >= least
  assert (path / 'results.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'fields'), [('abd', {}), ('e2e', {}), ('abd', {'data.device_mib': 0})])
def test_two_hosts_learn_what_one_does(tmp_path, cli_env, digits_data, method, fields):
  """Losses of learning and dreaming, accuracies; a memory chosen by features; each host streaming its own rows."""
  port = free_port()
  finish(start(cli_env, 0, 0, tmp_path / 'one', method))
  finish(*(start(cli_env, port, host, tmp_path / 'two', method, **fields) for host in (0, 1)))
  assert_as_good_as_same(tmp_path / 'two', tmp_path / 'one', least=30 if method == 'abd' else 15)
  assert (tmp_path / 'two/dreams/task_2.png').exists() == (method == 'abd')


@pytest.mark.slow
def test_two_hosts_killed_are_resumed_by_two_or_by_one(tmp_path, cli_env, digits_data):
  """kill -9 of both, in the second task, after a save every chunk."""
  finish(start(cli_env, 0, 0, tmp_path / 'one', 'abd'))
  two, port, saves = tmp_path / 'two', free_port(), {'checkpoint_seconds': 1e-3}
  processes = [start(cli_env, port, host, two, 'abd', **saves) for host in (0, 1)]
  log = two / 'metrics.jsonl'
  while not (log.exists() and '"task": 1' in log.read_text()):
    assert all(process.poll() is None for process in processes)
    time.sleep(0.05)
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  assert not (two / 'results.json').exists()
  shutil.copytree(two, tmp_path / 'alone')
  port = free_port()
  finish(*(start(cli_env, port, host, two, 'abd') for host in (0, 1)))
  finish(start(cli_env, 0, 0, tmp_path / 'alone', 'abd'))
  for resumed in (two, tmp_path / 'alone'):
    assert_as_good_as_same(resumed, tmp_path / 'one', least=30)


JOIN = """
import sys
import jax
jax.distributed.initialize(f'localhost:{sys.argv[1]}', 2, int(sys.argv[2]))
from abd_jax.errors import UserError
"""


def said_by_both(cli_env, script, words=lambda host: []):
  """The lines that two hosts print: processes that run `script` with a port, their rank, and `words` of their own."""
  port = free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', JOIN + script, str(port), str(host), *words(host)],
      env=cli_env, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    for host in (0, 1)
  ]  # fmt: skip
  return [process.communicate(timeout=120)[0].splitlines() for process in processes]


AGREE = """
import abd_jax
from abd_jax.devices.hosts import barrier, must_agree, word_of_main
def full():
  raise OSError(28, 'No space left on device')
if sys.argv[2] == '1':
  print(abd_jax.load_model(sys.argv[3]).task)  # without the other host
barrier('both')
must_agree('config', lambda: {'lr': 0.1})
try:
  must_agree('config', lambda: {'lr': 0.1 + int(sys.argv[2])})
except UserError as error:
  print(error)
try:
  word_of_main(full)
except Exception as error:
  print(type(error).__name__, error)
"""


def test_hosts_read_alone_must_agree_and_share_the_main_hosts_errors(learnt, cli_env):
  said = said_by_both(cli_env, AGREE, lambda host: [str(learnt('base'))])
  assert '2' in said[1]
  assert all('another config than process 0' in lines[-2] for lines in said)
  assert [lines[-1].partition(' ')[0] for lines in said] == ['OSError', 'UserError']
  assert all('No space left' in lines[-1] for lines in said)


WORKDIR = """
from abd_jax.run import workdir
workdir.SHARED_WITHIN = 0.5
try:
  workdir.Workdir(sys.argv[3], {'a': int(sys.argv[4])})
except UserError as error:
  print(error)
"""


@pytest.mark.parametrize(
  ('places', 'values', 'words'),
  [
    (('.', '.'), (2, 1), ['config.a=1, not 2'] * 2),  # although the second host's config agrees
    (('0', '1'), (1, 1), ['process 1 of this run cannot begin', 'is not the same folder on every host']),
  ],
)
def test_all_hosts_refuse_what_one_refuses(tmp_path, cli_env, places, values, words):
  """The main host alone checks lock and config. The other would wait for ever for its answer or its saves."""
  (tmp_path / 'config.json').write_text('{"a": 1}')
  said = said_by_both(cli_env, WORKDIR, lambda host: [str(tmp_path / places[host]), str(values[host])])
  assert all(expected in lines[-1] for lines, expected in zip(said, words, strict=True))


def test_a_mistake_on_one_host_ends_all_of_them_at_once(tmp_path, cli_env):
  """The second one's data are missing. JAX alone would have both wait for five minutes."""
  cluster = [f'--config.cluster.coordinator=localhost:{free_port()}', '--config.cluster.count=2']
  words = [*command('--config=configs/digits.py:quick', *cluster, f'--workdir={tmp_path / "run"}')]
  own = ['--config.data.name=elsewhere']
  began = time.monotonic()
  processes = [
    subprocess.Popen(
      [*words, f'--config.cluster.rank={k}', *own * k], env=cli_env, cwd=REPO, stderr=subprocess.PIPE, text=True
    )
    for k in (0, 1)
  ]
  said = [process.communicate(timeout=240)[1] for process in processes]
  assert [process.returncode for process in processes] == [2, 2] and time.monotonic() - began < 120, said
  assert 'process 1 of this run cannot begin' in said[0] and 'Traceback' not in ''.join(said), said
  assert [f'process {k}, of 0 to 1: 1 of 2 devices' in said[k] for k in (0, 1)] == [True, True], said
