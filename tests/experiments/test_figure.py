"""experiments figure: drawn from the results of runs, and from measurements of frozen models."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from fakes import tiny_runs, write

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import store
from experiments.paper import TABLES
from experiments.plan import plan


def test_figures_are_drawn_from_the_files_of_results(tmp_path, capsys):
  first, left = (planned := plan(TABLES['methods'], 'digits', trials=1))[:3], planned[3:]
  for one in first:
    write(tmp_path, one, 0.5 if one.row.method == 'base' else 1.0, seconds={'train': 6.0})
  words = ['--config=digits', '--max_runs=0', '--trials=1', f'--output={tmp_path}']
  command.run(['figure', '--figure=A', f'--results={tmp_path}', *words])
  assert '- not run: Naive Rehearsal' in capsys.readouterr().out
  command.run(['figure', '--figure=D', f'--results={tmp_path}', *words])
  omega, seconds = (tmp_path / f'figure_{name}_digits_5_tasks.csv' for name in 'AD')
  assert omega.read_text().splitlines()[:3] == ['method,1,2', 'Upper bound,100,100', 'Base,100,75']
  assert seconds.read_text().splitlines()[2] == 'Base,0.06'
  for file in tmp_path.glob('*.svg'):
    assert len(ElementTree.parse(file).getroot()) > 10
  capsys.readouterr()
  command.run(['figure', f'--results={tmp_path}', *words, '--print_commands'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(left) and all('experiments table --table=methods' in line for line in lines)
  with pytest.raises(UserError, match='no finished run'):
    command.run(['figure', f'--results={tmp_path / "none"}', *words])


ABD, MEASURED = 'digits-abd-tasks=5-trial=0', 'results/diagnosis_digits.jsonl'


@pytest.fixture
def ask(tmp_path, monkeypatch, compile_once, digits_data, capsys):
  """ask(figure, *words) -> what is printed of tiny runs in tmp_path."""
  tiny_runs(monkeypatch)
  places = [f'--{name}={tmp_path / name}' for name in ('runs', 'output', 'results')]

  def run(figure, *words):
    capsys.readouterr()
    command.run(['figure', f'--figure={figure}', '--config=digits', '--trials=1', *places, *words])
    return capsys.readouterr().out

  return run


def test_models_are_measured_once_and_figures_need_no_workdir_after(ask, diagnosed, tmp_path):
  shutil.copytree(diagnosed, tmp_path / 'runs' / ABD)  # as the command would leave it
  printed = ask('2', f'--only={ABD}')
  found = json.loads((diagnosed / 'diagnosis' / 'diagnosis.json').read_text())
  final = found['distances'][0]['layers']['stage2_block0']['mid']
  (row,) = [line for line in printed.splitlines() if line.startswith('| Always Be Dreaming')]
  cells = [cell.strip() for cell in row.split('|')[2:-1]]
  assert cells == [*(f'{value:.2f}' for value in (final['dreamed'], final['new'], final['dreamed'] / final['new'])),
                   'below 1']  # fmt: skip
  assert '- not measured: digits-deep_inversion-tasks=5-trial=0' in printed
  shutil.rmtree(tmp_path / 'runs')
  for figure, names in (('2', ['']), ('B', ['']), ('C', ['_abd']), ('probe', [''])):
    assert (ask(figure, '--max_runs=0') == printed) == (figure == '2')
    for name in names:
      drawing = ElementTree.parse(tmp_path / 'output' / f'figure_{figure}_digits_5_tasks{name}.svg').getroot()
      assert len(drawing) > 3
  assert f'{100 * found["probe"]["probe"]["all"]:.1f}' in ask('probe', '--max_runs=0')
  commands = ask('C', '--print_commands').splitlines()
  assert len(commands) == 4 and all(' figure --figure=C ' in line and '--results=' in line for line in commands)


def test_what_ran_with_another_config_or_is_damaged_is_not_drawn(ask, diagnosed, tmp_path):
  shutil.copytree(diagnosed, tmp_path / 'runs' / ABD)
  ask('2', f'--only={ABD}')
  (content,) = store.read_runs(tmp_path / MEASURED).values()
  content['config']['inversion.lr'] = 7.0
  store.add_run(tmp_path / MEASURED, ABD, content)
  with pytest.raises(UserError, match='no finished run of digits in 5 tasks'):
    ask('2', '--max_runs=0')
  (tmp_path / MEASURED).write_text('{')
  with pytest.raises(UserError, match=r'diagnosis_digits\.jsonl, line 1'):
    ask('2', '--max_runs=0')


def test_runs_that_lack_are_begun_and_resumed(ask, tmp_path):
  with pytest.raises(UserError, match='no finished run'):
    ask('2', f'--only={ABD}', '--max_seconds=0.01')
  assert (tmp_path / 'runs' / ABD / 'config.json').exists() and not (tmp_path / MEASURED).exists()
