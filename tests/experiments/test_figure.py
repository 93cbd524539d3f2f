"""experiments figure: curves and bars of the same files that the tables use."""

from xml.etree import ElementTree

import pytest
from fakes import write

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments.paper import TABLES
from experiments.plan import plan


def test_figures_are_drawn_from_the_files_of_results(tmp_path, capsys):
  for one in plan(TABLES['methods'], 'digits', trials=1)[:3]:
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
  assert len(lines) == 12 and all('experiments table --table=methods' in line for line in lines)
  with pytest.raises(UserError, match='no finished run'):
    command.run(['figure', f'--results={tmp_path / "none"}', *words])
