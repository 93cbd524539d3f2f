"""What the documents say is what the code and the result files say."""

import importlib
import inspect
import itertools
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_imports import LAYERS

from abd_jax import methods
from abd_jax.commands import train
from abd_jax.config import default, flatten
from abd_jax.run.load import LoadedModel
from abd_jax.run.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
README, CONTRIBUTING, DOCS = ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'docs'
DOCUMENTS = (README, CONTRIBUTING, ROOT / 'CHANGELOG.md', *sorted(DOCS.glob('*.md')))


def of_all(pattern, flags=0):
  """(file, match) for every match in every document; a match is its one group, or its text."""
  return [(file.name, match) for file in DOCUMENTS for match in re.findall(pattern, file.read_text(), flags)]


def section(file, title):
  """What stands under a heading of the second level."""
  _, found, rest = file.read_text().partition(f'\n## {title}\n')
  assert found, (file.name, title)
  return rest.partition('\n## ')[0]


def blocks(file, language):
  return re.findall(rf'```{language}\n(.*?)```', file.read_text(), re.DOTALL)


# Numbers.


def test_pages_are_rendered_from_the_files_of_results():
  from experiments import page

  for file, text in page.rendered().items():
    assert file.read_text() == text, file


def test_the_picture_of_results_shows_the_numbers_of_the_table():
  words = [node.text for node in ElementTree.parse(DOCS / 'images/results.svg').iter() if node.tag.endswith('}text')]
  shown = {name: value for name, value in itertools.pairwise(words) if '±' in value and '.' in value[:4]}
  table = section(README, 'Digits in five tasks').partition('<!-- end methods -->')[0]
  rows = dict(re.findall(r'^\| ([^|]*?) +\| [\w +]+ \| ([^|]*?) +\|', table, re.MULTILINE))
  assert len(shown) > 10
  assert shown == {name: rows.get(name) for name in shown}


# Names of what there is in the code.


def resolve(name):
  """The object of a dotted name. Raises AttributeError if there is none."""
  parts, found = name.split('.'), None
  for k in range(len(parts), 0, -1):
    try:
      found = importlib.import_module('.'.join(parts[:k]))
    except ModuleNotFoundError:
      continue
    break
  for part in parts[k:]:
    found = getattr(found, part)
  return found


def test_every_dotted_name_exists():
  named = of_all(r'abd_jax(?:\.\w+)+')
  assert len(named) > 50
  for file, name in named:
    try:
      resolve(name)
    except AttributeError as error:
      raise AssertionError(f'{file}: {name}') from error


def test_every_field_of_the_config_exists():
  fields = flatten(default().to_dict())
  groups = {name.split('.')[0] for name in fields if '.' in name}
  named = of_all(rf'`((?:{"|".join(sorted(groups))})\.[a-z_]+)[`=]') + of_all(
    r'(?<!abd_jax/)(?<!abd_jax\.)config\.([a-z_.]*[a-z_])'
  )
  assert len(named) > 40
  files = re.compile(r'(.*\.)?(py|json)')
  assert [(file, name) for file, name in named if name not in {*fields, *groups} and not files.fullmatch(name)] == []


def test_architecture_draws_the_layers_of_the_package():
  drawing = blocks(DOCS / 'architecture.md', '')[0]
  layers = [cell.split() for line in drawing.splitlines() for cell in re.findall(r'\| (\w[\w ]*?) +\|', line)]
  assert layers == [list(layer) for layer in LAYERS]


def test_phases_are_of_methods_there_are():
  phases = section(DOCS / 'methods.md', 'Phases')
  named = [name for row in re.findall(r'^\| (`.*?`) \|', phases, re.MULTILINE) for name in re.findall(r'`(\w+)`', row)]
  assert {*named} - {'method'} <= {*methods.available()}


def test_every_key_of_a_manifest_is_documented():
  cells = re.findall(r'^\| (`.*?) \|', section(DOCS / 'results.md', 'Frozen models'), re.MULTILINE)
  documented = {key for cell in cells for key in re.findall(r'`(\w+)`', cell)}
  written = re.findall(r"^      '(\w+)':", inspect.getsource(Plan.manifest), re.MULTILINE)
  assert documented == {*written, 'files', 'checksum'}


def test_experiments_are_those_there_are():
  from experiments.__main__ import VERBS

  rows = re.findall(r'^\| `(\w+)[^`]*` \|', section(DOCS / 'running.md', 'Experiments'), re.MULTILINE)
  assert set(rows[1:]) == set(VERBS)  # without the head of the table
  assert {verb for _, verb in of_all(r'python -m experiments (\w+)')} <= {*VERBS}


def test_the_methods_of_a_loaded_model_exist():
  used = of_all(r'model\.(\w+)\(')
  assert len(used) >= 3 and all(hasattr(LoadedModel, name) for _, name in used)


def test_every_command_can_be_parsed(monkeypatch):
  """Those of training as the command itself does; of the others, their verb and options."""
  monkeypatch.setattr(train, 'learn', lambda config, workdir: None)
  monkeypatch.setattr(train, 'begin', lambda distributed, cluster: None)
  monkeypatch.chdir(ROOT)
  commands = of_all(r'^(?: {4})?(?:python -m abd_jax\.main|abd-jax (\w+)) (.*?)(?: {2,}#.*)?$', re.MULTILINE)
  assert len(commands) > 10
  for _, (verb, words) in commands:
    if verb in ('', 'train'):
      train.run(shlex.split(words))
    else:
      text = importlib.import_module(f'abd_jax.commands.{verb}').__doc__ or ''
      assert all(option in text for option in re.findall(r'--\w+(?=[= ]|$)', words)), (verb, words)


def test_contributing_shows_lwf_as_it_is():
  code, test = blocks(CONTRIBUTING, 'python')
  assert code in (ROOT / 'abd_jax/methods/lwf.py').read_text()
  assert test in (ROOT / 'tests/methods/test_methods.py').read_text()


# The documents themselves.


def anchors(file):
  """Those that GitHub gives to a document's headings."""
  headings = re.findall(r'^#+ (.*)$', file.read_text(), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('file', DOCUMENTS, ids=lambda file: file.name)
def test_links_resolve_and_lines_are_short(file):
  text = file.read_text()
  for link in re.findall(r'\]\(([^)]+)\)', text) + re.findall(r'src="([^"]+)"', text):
    path, _, anchor = link.partition('#')
    if not path.startswith('https://'):
      target = file.parent / path if path else file
      assert target.exists(), link
      assert not anchor or anchor in anchors(target), link
  assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith('|')] == []
  for path in re.findall(r'`((?:abd_jax|tests|configs|experiments|docs)/[\w/.]+)`', text):
    assert (ROOT / path).exists(), path


def test_the_readme_is_short():
  assert len(README.read_text().splitlines()) <= 110
