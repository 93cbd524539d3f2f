"""experiments page: what it lists, and where it writes."""

import shutil

import pytest
from fakes import write

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import page
from experiments.paper import SPLITS, TABLES
from experiments.plan import plan

DIAGNOSES = [f'diagnosis_{config}' for config in page.DIAGNOSED]
BLOCKS = ('methods', 'ablations', 'trials', 'steps', *DIAGNOSES, 'compiled', 'drill', 'long')
MARKED = '\n'.join(
  f'before {name}\n<!-- {name}: python -m experiments page -->\nold\n<!-- end {name} -->' for name in BLOCKS
)


@pytest.fixture
def results(tmp_path, monkeypatch):
  """A folder of results with what stands beside the runs, and no run."""
  shutil.copytree(page.RESULTS, tmp_path / 'results', ignore=shutil.ignore_patterns('runs'))
  monkeypatch.setattr(page, 'RESULTS', tmp_path / 'results')
  return tmp_path / 'results'


def test_what_has_not_run_is_one_line_for_each_table(results):
  text = page.page()
  lines = [line for line in text.splitlines() if line.startswith('- Table')]
  assert len(lines) == len(page.SHOWN)
  assert '- Table C, tiny_imagenet: not run: `python -m experiments table --table=C`' in lines
  assert '- Table 3, digits: not run: `python -m experiments table --table=3 --config=digits --trials=10`' in lines
  assert '## Table' not in text
  assert '| no crop ' in text and '| rank ' in text  # files of an earlier form


def test_what_has_run_is_shown_with_its_differences_machine_and_commit(results):
  planned = plan(TABLES['3'], 'digits', 3)
  for one in planned:
    if one.row.name in ('Full method', 'standard cross-entropy'):
      device = {'kind': 'cpu', 'cpu_model': 'A Chip'}
      accuracy = 0.8 - (0.2 + 0.01 * one.trial) * bool(one.row.overrides)
      write(results / 'runs', one, accuracy, device=device, commit='abcdef0123456+')
  text = page.page()
  (row,) = [line for line in text.splitlines() if line.startswith('| standard cross-entropy ') and 'abcdef0+' in line]
  assert '| -21.0 ± 0.6 (3), lower |' in row and '| A Chip |' in row and '`python -m abd_jax.main' in row
  table = text.partition('## Table 3, digits')[2].partition('\n## ')[0]
  assert 'not run' not in table and 'Upper bound' not in table
  assert '- Table 3, digits: 11 of 13 rows not run:' in text
  assert 'A `+` after a commit' in text


def test_runs_of_no_table_are_listed(results):
  one = plan(TABLES['3'], 'digits', 11)[-1]
  write(results / 'runs', one, 0.25)
  section = page.page().partition('## Runs of no table above')[2].partition('\n## ')[0]
  assert f'| {one.name} | 25.0 ' in section


def test_as_many_trials_are_shown_as_are_said(results):
  planned = [one for one in plan(TABLES['3'], 'digits', 11) if one.row.name == 'Full method']
  for one in planned:
    write(results / 'runs', one, 0.5 + 0.01 * one.trial)
  table = page.page().partition('## Table 3, digits')[2].partition('\n## ')[0]
  assert '| Full method ' in table and '| 10 | 54.5 ± 2.9 ' in table and 'trial=10' not in table


def test_damaged_files_are_named(results):
  (results / 'runs').mkdir()
  (results / 'runs' / 'digits-base-tasks=5-trial=0.json').write_text('{')
  assert '- digits-base-tasks=5-trial=0.json is damaged' in page.page()
  (results / 'search_digits.json').write_text('{')
  with pytest.raises(UserError, match=r'search_digits\.json is missing or damaged'):
    page.page()


def test_blocks_of_the_readme_are_exchanged_and_nothing_else(results):
  write(results / 'runs', plan(TABLES['methods'], 'digits', 1)[0], 0.5)
  rendered = lambda text: page.compiled(page.drilled(page.report(page.running(page.readme(text)))))
  text = rendered(MARKED)
  assert rendered(text) == text and '\nold\n' not in text
  outside = lambda text: [line for line in text.splitlines() if line.startswith(('before', '<!--'))]
  assert outside(text) == outside(MARKED)
  methods = text.partition('<!-- end methods -->')[0]
  assert '| Upper bound | none ' in methods and '| 50.0 ' in methods and 'Base' not in methods


@pytest.mark.parametrize(
  'mark', ['<!-- ablations: python -m experiments page -->', '<!-- end steps -->', '<!-- end diagnosis_digits -->']
)
def test_a_readme_without_a_mark_is_refused_before_anything_is_written(results, tmp_path, monkeypatch, mark):
  for name in ('README', 'PAGE', 'RUNNING', 'PICTURE', 'REPORT', 'COMPILED', 'DRILL', 'LONG'):
    monkeypatch.setattr(page, name, tmp_path / f'{name}.md')
  monkeypatch.setattr(page, 'FIGURES', tmp_path / 'images')
  for name in ('README', 'RUNNING', 'REPORT', 'COMPILED', 'DRILL'):
    (tmp_path / f'{name}.md').write_text(MARKED.replace(mark, ''))
  with pytest.raises(UserError, match='Put the marks back'):
    command.run(['page'])
  assert not (tmp_path / 'PAGE.md').exists()
  for name in ('README', 'RUNNING', 'REPORT', 'COMPILED', 'DRILL'):
    (tmp_path / f'{name}.md').write_text(MARKED)
  command.run(['page'])
  assert (tmp_path / 'PAGE.md').read_text() == page.page()
  block = lambda file, name: (tmp_path / file).read_text().partition(f'<!-- {name}:')[2].partition('<!-- end')[0]
  assert '| abd ' in block('RUNNING.md', 'steps') and 'old' not in block('RUNNING.md', 'steps')
  assert '| a command each ' in block('RUNNING.md', 'trials')
  assert '| h100 ' in block('COMPILED.md', 'compiled')
  assert '| all ' in block('DRILL.md', 'drill') and '| hundred tasks ' in block('DRILL.md', 'long')
  for config in page.DIAGNOSED:
    assert '| Always Be Dreaming ' in block('REPORT.md', f'diagnosis_{config}')
  assert len(list((tmp_path / 'images').glob('*.svg'))) == 2 * 6


def test_a_table_is_shown_wherever_it_has_a_config_of_its_own_or_digits():
  assert {*SPLITS} <= {config for _, config in page.SHOWN}
  assert {('small', 'cifar100_small'), ('orders', 'cifar100'), ('methods', 'digits'), ('3', 'digits')} <= {*page.SHOWN}
