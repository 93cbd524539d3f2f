"""python -m experiments: one command, a verb for each experiment, and mistakes in one line."""

import subprocess
import sys

import pytest
from conftest import REPO

from abd_jax.errors import Paused, UserError
from experiments import __main__ as command
from experiments.options import OPTIONS


def test_alone_it_lists_the_verbs_and_starts_nothing(cli_env):
  words = [sys.executable, '-m', 'experiments']
  done = subprocess.run(words, env=cli_env, cwd=REPO, capture_output=True, text=True)
  assert done.returncode == 2 and not done.stderr
  listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith('  ')]
  assert listed == list(command.VERBS)


def test_a_mistake_is_one_line_and_no_traceback(cli_env):
  words = [sys.executable, '-m', 'experiments', 'table', '--table=7']
  done = subprocess.run(words, env=cli_env, cwd=REPO, capture_output=True, text=True)
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: argument --table: invalid choice: '7'")


def test_the_list_comes_before_jax_is_imported(cli_env):
  code = "import sys, experiments.__main__; print('jax' in sys.modules)"
  done = subprocess.run([sys.executable, '-c', code], env=cli_env, cwd=REPO, capture_output=True, text=True)
  assert done.stdout.strip() == 'False', done.stderr


@pytest.mark.parametrize('verb', command.VERBS)
def test_every_verb_has_help(verb, capsys):
  with pytest.raises(SystemExit) as end:
    command.run([verb, '--help'])
  assert end.value.code == 0
  text = capsys.readouterr().out
  assert f'python -m experiments {verb}' in text
  assert {word.strip('[],') for word in text.split() if word.startswith('[--')} - {'--help'} or verb == 'page'


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ('tabel', "'tabel' is not an experiment. Did you mean 'table'"),
    ('table', 'which table'),
    ('table --table=7', "invalid choice: '7'"),
    ('table --tabel=3', 'unrecognized arguments: --tabel=3'),
    ('table --table=1 --config=digit', "--config='digit' has no splits for table 1. Did you mean 'digits'"),
    ('table --table=1 --config=digits --only=nothing', 'is not a run'),
    ('table --table=1 --rows=abd', 'not allowed with'),
    ('table --table=1 --trials=0', "'0' must be a whole number of at least 1"),
    ('table --table=1 --max_runs=x', "'x' must be a whole number of at least 0"),
    ('table --table=1 --max_seconds=-1', "'-1' must be a number of at least 0"),
    ('table --rows=abd', '--rows needs --config'),
    ('table --rows=abd,lfw --config=digits', "'lfw' is not a method. Did you mean 'lwf'"),
    ('table --rows=abd --config=digts', "no configs/digts.py: --config='digts'. Did you mean 'digits'"),
    ('figure --figure=E', "invalid choice: 'E'"),
    ('figure --config=digits --tasks=7', '--tasks=7 is not a split'),
    ('figure --config=nothing', "--config='nothing' has no splits"),
    ('search --config=digits --grid student.lr', '--grid student.lr needs values'),
    ('search --config=digits:methd=abd --grid student.lr=1', "'methd'"),
    ('search --config=nothing', 'no configs/nothing.py'),
    ('search --settings=digit', "invalid choice: 'digit'"),
    ('search --settings=digits --config=digits', 'leave out --config'),
    ('search --settings=digits --grid student.lr=1', 'not allowed with'),
    ('search --folds=1', "'1' must be a whole number of at least 2"),
    ('hardware --rounds=0', "'0' must be a whole number of at least 1"),
    ('hardware --rows=none', "'none' is not a method"),
    ('hardware --steps=dream', "got 'dream'"),
    ('page now', 'unrecognized arguments: now'),
    ('demo --max=1', 'unrecognized arguments: --max=1'),
  ],
)
def test_mistakes(words, message):
  with pytest.raises(UserError) as error:
    command.run(words.split())
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_pause_is_one_line_and_no_mistake(monkeypatch, capsys):
  def pause(words):
    raise Paused('paused (max_seconds=1) after task 1')

  monkeypatch.setattr(command, 'run', pause)
  monkeypatch.setattr(sys, 'argv', ['experiments', 'demo'])
  command.cli()
  assert capsys.readouterr().err == 'paused (max_seconds=1) after task 1\n'


def test_options_have_help():
  assert all(option['help'] for option in OPTIONS.values())
