"""The fault drill, in processes: kills and signals at random moments, two processes in one workdir. `make drill`."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import pytest
from conftest import REPO, RUN, assert_same_outcome, command

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get('DRILL_TIMES', '8'))
CHAINS, KILLS = 4, 6  # runs, and how often each is stopped at most
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 600.0  # seconds until a process has ended, on a machine that others use too


@pytest.fixture
def start(cli_env, tmp_path):
  """start() -> a process of the command of the fixture `finished`, in another workdir."""
  processes = []

  def begin():
    words = command(*RUN, f'--workdir={tmp_path / "run"}')
    processes.append(subprocess.Popen(words, env=cli_env, cwd=REPO, stderr=subprocess.PIPE, text=True))
    return processes[-1]

  yield begin
  for process in processes:
    process.kill()
    process.wait()
    process.stderr.close()


def ended(process):
  """(exit code, stderr) of a process that ends without a traceback through this package: Python may still start.

  Then its traceback may name the file by which pip finds this package, in another folder.
  """
  stderr = process.communicate(timeout=PATIENCE)[1]
  assert f'"{REPO / "abd_jax"}/' not in stderr, stderr
  return process.returncode, stderr


def stop(process, number):
  """Sends a signal, after which the process ends paused, stopped or complete; a kill says nothing."""
  process.send_signal(number)
  code, stderr = ended(process)
  assert code in (0, -number, 128 + number), stderr


def wait_until(process, happens):
  """Whether something happened before the process ended."""
  while process.poll() is None:
    with suppress(OSError):  # a file that is not there yet
      if happens():
        return True
    time.sleep(0.002)
  return False


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_bytes().count(b'\n')


@pytest.mark.parametrize('chain', range(CHAINS))
def test_a_chain_of_random_kills_ends_in_the_same_bits(chain, start, finished, tmp_path):
  """Any signal at any moment: while Python starts, compiles, learns, dreams, saves, draws or ends."""
  rng = random.Random(f'chain {chain}')
  begin = time.monotonic()
  process = start()
  wait_until(process, lambda: lines(tmp_path / 'run') > 1)
  to_learn = time.monotonic() - begin  # a kill before this moment leaves nothing to resume
  for _ in range(KILLS):
    time.sleep(rng.uniform(0, 1.5 * to_learn) if rng.random() < 0.8 else rng.uniform(0, 0.05))
    if process.poll() is None:
      stop(process, rng.choice(SIGNALS))
    process = start()
  code, stderr = ended(process)
  assert code == 0, stderr
  assert_same_outcome(tmp_path / 'run', finished[0])


@pytest.mark.parametrize('k', range(TIMES))
def test_kill_dash_nine_during_a_save_loses_nothing(k, start, finished, tmp_path):
  rng, workdir = random.Random(f'save {k}'), tmp_path / 'run'
  line = rng.randrange(1, lines(finished[0]) - 3)
  process = start()
  is_saving = lambda: lines(workdir) >= line and any(workdir.rglob('*.orbax-checkpoint-tmp*'))
  wait_until(process, is_saving)
  time.sleep(rng.random() * 0.003)
  if process.poll() is None:
    stop(process, signal.SIGKILL)
  code, stderr = ended(start())
  assert code == 0, stderr
  assert_same_outcome(workdir, finished[0])


@pytest.mark.parametrize('line', [0, 1, 10, 20])
def test_a_second_process_in_a_workdir_is_refused_and_the_first_is_undisturbed(line, start, finished, tmp_path):
  """At once, and after so many lines of the log."""
  first = start()
  log = tmp_path / 'run' / ('metrics.jsonl' if line else 'config.json')
  assert wait_until(first, lambda: log.exists() and log.read_bytes().count(b'\n') >= line)
  code, stderr = ended(start())
  assert code == 2 and stderr.startswith('error: ') and 'in use' in stderr and stderr.count('\n') == 1
  assert ended(first)[0] == 0
  assert_same_outcome(tmp_path / 'run', finished[0])
