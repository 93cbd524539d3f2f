"""python -m experiments: one command, a verb for each experiment, and mistakes in one line."""

import re
import subprocess
import sys

import pytest
from conftest import REPO, refused

from abd_jax.errors import Paused
from experiments import __main__ as command


def run(cli_env, *words):
  return subprocess.run([sys.executable, *words], env=cli_env, cwd=REPO, capture_output=True, text=True)


def test_alone_it_lists_the_verbs_and_starts_nothing(cli_env):
  done = run(cli_env, '-X', 'importtime', '-m', 'experiments')
  assert done.returncode == 2 and not re.search(r'\| +jax$', done.stderr, re.MULTILINE)
  listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith('  ')]
  assert listed == list(command.VERBS)


def test_a_mistake_is_one_line_and_no_traceback(cli_env):
  done = run(cli_env, '-m', 'experiments', 'table', '--table=7')
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: argument --table: invalid choice: '7'")


@pytest.mark.parametrize('verb', command.VERBS)
def test_every_verb_has_help(verb, capsys):
  with pytest.raises(SystemExit) as end:
    command.run([verb, '--help'])
  assert end.value.code == 0
  text = capsys.readouterr().out
  assert f'python -m experiments {verb}' in text


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ('tabel', "Did you mean 'table'"),
    ('table', 'which table'),
    ('table --tabel=3', 'unrecognized arguments: --tabel=3'),
    ('table --table=1 --config=digit', "Did you mean 'digits'"),
    ('table --table=1 --config=digits --only=nothing', 'is not a run'),
    ('table --table=1 --rows=abd', 'not allowed with'),
    ('table --table=1 --trials=0', "expected a whole number of at least 1, got '0'"),
    ('table --table=1 --max_seconds=-1', "expected a number of at least 0, got '-1'"),
    ('table --rows=abd', '--rows needs --config'),
    ('table --rows=abd,lfw --config=digits', "Did you mean 'lwf'"),
    ('table --rows=abd --config=digts', "Did you mean 'digits'"),
    ('figure --figure=E', "invalid choice: 'E'"),
    ('figure --config=digits --tasks=7', 'expected --tasks to be one of 5'),
    ('search --config=digits --grid student.lr', '--grid student.lr needs values'),
    ('search --config=digits:methd=abd --grid student.lr=1', "'methd'"),
    ('search --settings=digits --config=digits', 'leave out --config'),
    ('hardware --full --rows=none', "'none' is not a method"),
    ('hardware --topology=h100 --steps=dream', "got 'dream'"),
  ],
)
def test_mistakes(words, message):
  with refused(message):
    command.run(words.split())


def test_a_pause_is_one_line_and_no_mistake(monkeypatch, capsys):
  def pause(words):
    raise Paused('paused (max_seconds=1) after task 1')

  monkeypatch.setattr(command, 'run', pause)
  monkeypatch.setattr(sys, 'argv', ['experiments', 'demo'])
  command.cli()
  assert capsys.readouterr().err == 'paused (max_seconds=1) after task 1\n'
