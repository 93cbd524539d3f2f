"""experiments page: what it lists, and where it writes."""

import shutil

import pytest
from fakes import write

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import page
from experiments.paper import TABLES
from experiments.plan import plan

DATA = ('digits', 'cifar100_small', 'tiny_imagenet_small', 'cifar100_short=16')


@pytest.fixture
def results(tmp_path, monkeypatch):
  """A folder of results without the runs."""
  shutil.copytree(
    page.RESULTS, tmp_path / 'results', ignore=shutil.ignore_patterns(*(f'{name}.jsonl' for name in DATA))
  )
  monkeypatch.setattr(page, 'RESULTS', tmp_path / 'results')
  return tmp_path / 'results'


def test_what_has_not_run_is_one_line_for_each_table(results):
  text = page.page()
  lines = [line for line in text.splitlines() if line.startswith('- Table')]
  assert len(lines) == len(page.SHOWN)
  assert '- Table C, tiny_imagenet: not run: `python -m experiments table --table=C`' in lines
  assert '- Table 3, digits: not run: `python -m experiments table --table=3 --config=digits --trials=10`' in lines
  assert '## Table' not in text
  assert '| no crop ' in text and '| rank ' in text


def test_blocks_are_exchanged_and_nothing_else_or_nothing_is_written(results, tmp_path, monkeypatch):
  documents = {name: tmp_path / name for name in page.blocks()}
  for name, file in documents.items():
    file.parent.mkdir(exist_ok=True)
    marks = [f'<!-- {one}: python -m experiments page -->\nold\n<!-- end {one} -->' for one in page.blocks()[name]]
    file.write_text('\n'.join(['before', *marks, 'after']))
  monkeypatch.setattr(page, 'ROOT', tmp_path)
  monkeypatch.setattr(page, 'PAGE', tmp_path / 'page.md')
  monkeypatch.setattr(page, 'FIGURES', tmp_path / 'images')
  whole = documents['docs/compile.md'].read_text()
  documents['docs/compile.md'].write_text(whole.replace('<!-- end compiled -->', ''))
  with pytest.raises(UserError, match='put the marks back'):
    command.run(['page'])
  assert not (tmp_path / 'page.md').exists()
  documents['docs/compile.md'].write_text(whole)
  write(results, plan(TABLES['methods'], 'digits', 1)[0], 0.5)
  write(results, page.planned_runs('whole', 'cifar100')[0], 0.25)
  command.run(['page'])
  texts = {name: file.read_text() for name, file in documents.items()}
  assert all('\nold\n' not in text and text.startswith('before\n<!--') for text in texts.values())
  methods = texts['README.md'].partition('<!-- end methods -->')[0]
  assert '| Upper bound | none ' in methods and '| 50.0 ' in methods and 'Base' not in methods
  assert '| Base   | none   | 1 | 25.0             | 8.8 ± 0.1 |' in texts['README.md']
  assert 'Base' in (tmp_path / 'images/whole.svg').read_text()
  assert '| h100 ' in texts['docs/compile.md']
  assert page.page().count('| Always Be Dreaming ') > 4
  assert (tmp_path / 'page.md').read_text() == page.page()
  assert len(list((tmp_path / 'images').glob('*.svg'))) == 2 + 2 * 6
  command.run(['page'])
  assert texts == {name: file.read_text() for name, file in documents.items()}
