"""Two hosts, as on a pod: here two processes that meet over gloo and share a workdir."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, TINY

HOST = """
import json, sys
import jax
port, host, workdir, fields = sys.argv[1:]
if port != '0':
  jax.distributed.initialize(f'localhost:{port}', 2, int(host))
from absl import logging
from abd_jax.train import train_and_evaluate
from configs.digits import get_config
logging.set_verbosity(logging.ERROR)
config = get_config('tasks=3')
config.update_from_flattened_dict(json.loads(fields) | {'devices': 0})
results = train_and_evaluate(config, workdir)
assert len(jax.devices()) == (1 if port == '0' else 2)
"""


def start(env, port, host, workdir):
  words = [sys.executable, '-c', HOST, str(port), str(host), str(workdir), json.dumps(TINY)]
  return subprocess.Popen(words, env=env, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
  for process in processes:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_two_hosts_learn_what_one_does(tmp_path, cli_env, digits_data):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  finish(start(cli_env, 0, 0, tmp_path / 'one'))
  finish(*(start(cli_env, port, host, tmp_path / 'two') for host in (0, 1)))
  one, two = (
    [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
    for name in ('one', 'two')
  )
  assert len(one) == len(two)
  for ours, theirs in zip(one, two, strict=True):
    assert (ours['task'], ours['phase'], ours.get('step')) == (theirs['task'], theirs['phase'], theirs.get('step'))
    if 'ce' in ours:
      np.testing.assert_allclose(ours['ce'], theirs['ce'], rtol=1e-2, atol=1e-4)
  assert (tmp_path / 'two/results.json').exists() and (tmp_path / 'two/dreams/task_2.png').exists()
