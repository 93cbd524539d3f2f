"""What the documents say is what the code and the result files say."""

import importlib
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_imports import STORIES

from abd_jax import methods
from abd_jax.config import default, flatten
from abd_jax.run.checkpoint import describe
from abd_jax.run.load import LoadedModel

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

  text = page.README.read_text()
  assert page.readme(text) == text
  assert page.PAGE.read_text() == page.page()
  assert page.running(page.RUNNING.read_text()) == page.RUNNING.read_text()
  assert page.PICTURE.read_text() == page.picture()
  assert page.report(page.REPORT.read_text()) == page.REPORT.read_text()
  for name, drawing in page.figures_of_models().items():
    assert (page.FIGURES / name).read_text() == drawing, name
  assert page.compiled(page.COMPILED.read_text()) == page.COMPILED.read_text()
  assert page.drilled(page.DRILL.read_text()) == page.DRILL.read_text()
  assert page.LONG.read_text() == page.long.picture(page.read_json(page.RESULTS / 'long.json'))


def test_trials_together_ended_in_the_bits_that_the_document_says():
  found = json.loads((ROOT / 'experiments/results/trials_cpu.json').read_text())
  assert 'all in the same bits (`python -m experiments trials`)' in ' '.join((DOCS / 'running.md').read_text().split())
  assert found['differing'] == {} and found['device']['cpu_cores'] == 2


def test_what_another_cpu_changed():
  read = lambda folder, k: json.loads(
    (ROOT / f'experiments/results/{folder}/digits-abd-tasks=5-trial={k}.json').read_text()
  )
  pairs = [(read('runs', k), read('other_cpu', k)) for k in range(10)]
  assert {(one['device']['cpu_model'], two['device']['cpu_model'][:5]) for one, two in pairs} == {('AMD EPYC', 'Intel')}
  difference = np.array([100 * (two['final_accuracy'] - one['final_accuracy']) for one, two in pairs])
  text = ' '.join(section(DOCS / 'determinism.md', 'Two CPUs').split())
  apart = abs(difference)
  assert f'are {apart.mean():.1f} points apart on average, {apart.max():.1f} at most' in text
  error = difference.std(ddof=1) / len(difference) ** 0.5
  assert f'their mean moves by {difference.mean():.1f} ± {error:.1f} points' in text


def test_what_extending_kept_of_old_classes():
  def accuracies(name):
    """Of the classes of the first two tasks, in three trials, percent."""
    runs = [json.loads((ROOT / f'experiments/results/extend/photos_{k}{name}.json').read_text()) for k in range(3)]
    return [100 * np.average(run['accuracy_matrix'][-1][:2], weights=run['test_images'][:2]) for run in runs]

  of = {name: accuracies(name) for name in ('', '_abd', '_base')}
  words = [f'{np.mean(values):.1f} ± {np.std(values):.1f} %' for values in of.values()]
  text = ' '.join(section(DOCS / 'using.md', 'Teach it more: extend').split())
  assert f'{words[0]} before, {words[1]} after `extend`, and {words[2]} after the same step without dreams' in text


def test_what_the_readme_says_of_its_tables():
  from experiments import page

  text = ' '.join(section(README, 'Digits in five tasks').split())
  of = {row['method']: row for row in page.gathered('methods', 'digits')[0]}
  assert 'Ten trials (class orders and seeds 0 to 9)' in text and {row['n'] for row in of.values()} == {10}
  others = {name for name, row in of.items() if row['replay'] != 'coreset'} - {'Upper bound', 'Always Be Dreaming'}
  assert 'ahead of every other data-free method by more than that; dreaming by pixels' in text
  assert {name for name in others if not of[name]['lower']} == {'the same, pixels optimised'}
  assert of['LwF.MC']['accuracy'] < of['DeepInversion']['accuracy'] and 'LwF.MC falls behind DeepInversion' in text
  far = lambda name: abs(of[name]['difference']) > 2 * of[name]['difference_se']
  assert far('BiC') and not far('E2E') and 'Always Be Dreaming comes level with E2E' in text
  best = of['Naive Rehearsal']['accuracy']
  assert of['Upper bound']['accuracy'] - best < 5 and best > max(of['E2E']['accuracy'], of['BiC']['accuracy'])

  points = {one['name']: one for one in page.read_json(page.RESULTS / 'digits_methods_settings.json')['points']}
  mean = lambda name: 100 * np.mean(points[name]['accuracy'])
  gain = mean('DeepInversion, no crop') - mean('DeepInversion')
  assert f'without it DeepInversion gains {gain:.0f} points' in text

  rows = page.gathered('3', 'digits')[0]
  lower = lambda reference: {row['method'] for row in rows if row['reference'] == reference and row['lower']}
  assert len(lower('Full method')) == len(lower('Full method, released weight')) == 3
  assert "Under the paper's weight of Eq. 11 three of the five" in text and 'three do, and no real-data' in text
  assert 'no synthetic-data distillation' not in lower('Full method')
  (free,) = (row for row in rows if row['method'] == 'no real-data distillation, released weight')
  assert free['difference'] > 0


def test_what_the_readme_says_of_photographs():
  from experiments import page

  text = ' '.join(section(README, 'CIFAR-100').split())
  of = {row['method']: row for row in page.gathered('small', 'cifar100_small')[0]}
  assert 'In three trials' in text and {row['n'] for row in of.values()} == {3}
  ends = lambda name: f'at {of[name]["accuracy"]:.1f} ± {of[name]["accuracy_std"]:.1f} %'
  for name, words in (('Always Be Dreaming', 'Dreaming ends'), ('R-DFCIL', 'R-DFCIL'), ('Upper bound', 'upper bound')):
    assert f'{words} {ends(name)}' in text
  behind = of['LwF.MC']
  assert f'LwF.MC {ends("LwF.MC")} (a paired {-behind["difference"]:.1f} ± {behind["difference_se"]:.1f} points' in text
  rest = {name for name, row in of.items() if row['replay'] != 'coreset'}
  rest -= {'Always Be Dreaming', 'R-DFCIL', 'LwF.MC', 'Upper bound'}
  low, high = (end(of[name]['accuracy'] for name in rest) for end in (min, max))
  assert f'the others without stored images at {low:.0f} to {high:.0f} %' in text
  assert all(of[name]['lower'] for name in rest | {'LwF.MC'}) and 'each by more than two standard errors' in text
  ablations = [row for row in page.gathered('3', 'cifar100_small')[0] if row['method'].startswith(('no ', 'standard'))]
  assert len(ablations) == 10 and all(row['lower'] and row['n'] == row['pairs'] == 3 for row in ablations)
  of_papers = lambda row: "paper's weight" in row['method']
  both = [sorted(-row['difference'] for row in ablations if of_papers(row) == papers) for papers in (False, True)]
  released, papers = (f'by {least:.1f} to {most:.1f} points' for least, *_, most in both)
  assert f'the ablations of Table 3: {released} with the released weight of Eq. 11, and {papers} with the' in text


def test_what_the_report_says_of_photographs():
  from experiments import diagnosis
  from experiments.diagnosis import figures

  text = ' '.join(section(DOCS / 'report.md', 'Figures of the paper').partition('### On photographs')[2].split())
  of = {group.name: group for group in diagnosis.groups(*diagnosis.measured('cifar100_small'))}

  def values(method, distance='mid'):
    return np.ravel(figures.distance_ratios(of[method], distance))

  def distances(method, kind):
    runs = of[method].diagnoses
    return np.array([figures.final_layer(task)['mid'][kind] for run in runs for task in run['distances']])

  ours, theirs = values('Always Be Dreaming'), values('DeepInversion')
  times = lambda of_all: f'{min(of_all):.1f} to {max(of_all):.1f}'
  assert f"DeepInversion's dreams lie {times(theirs)} times as far from old classes" in text
  nearer = distances('DeepInversion', 'dreamed') / distances('Always Be Dreaming', 'dreamed')
  assert f"ABD's are {min(nearer):.0f} to {max(nearer):.0f} times nearer than those" in text
  assert f'nearer than new classes after {(ours < 1).sum()} of {ours.size} tasks, and by MMD² after none' in text
  assert (values('Always Be Dreaming', 'mmd2') > 1).all()
  assert f'Their MID hardly changes, {times(distances("Always Be Dreaming", "dreamed"))}; that of new' in text
  assert f'new classes does, {times(distances("Always Be Dreaming", "new"))}, with' in text


def test_the_picture_of_results_shows_the_numbers_of_the_table():
  words = [node.text for node in ElementTree.parse(DOCS / 'images/results.svg').iter() if node.tag.endswith('}text')]
  shown = {name: value for name, value in itertools.pairwise(words) if '±' in value and '.' in value[:4]}
  table = section(README, 'Digits in five tasks').partition('<!-- end methods -->')[0]
  rows = dict(re.findall(r'^\| ([^|]*?) +\| \w+ +\| ([^|]*?) +\|', table, re.MULTILINE))
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
  groups = '|'.join(sorted({name.split('.')[0] for name in fields if '.' in name}))
  named = of_all(rf'`((?:{groups})\.[a-z_]+)[`=]') + of_all(r'(?<!abd_jax/)(?<!abd_jax\.)config\.([a-z_.]*[a-z_])')
  assert len(named) > 40
  files = re.compile(r'(.*\.)?(py|json)')
  assert [(file, name) for file, name in named if name not in fields and not files.fullmatch(name)] == []


def test_the_map_shows_every_wing_on_its_floor():
  drawing = blocks(DOCS / 'architecture.md', '')[0]
  floors = [cell.split() for line in drawing.splitlines() for cell in re.findall(r'\| (\w[\w ]*?) +\|', line)]
  assert floors == [list(story) for story in STORIES]


@pytest.mark.parametrize('title', ['The way of one batch', 'The way of one teacher'])
def test_a_walk_has_at_most_ten_stops_each_of_which_names_code(title):
  stops = re.split(r'^\d+\. ', section(DOCS / 'architecture.md', title), flags=re.MULTILINE)[1:]
  assert 5 <= len(stops) <= 10
  assert [stop for stop in stops if '`abd_jax.' not in stop] == []


def test_every_method_has_a_row():
  table = (DOCS / 'methods.md').read_text().partition('\n## ')[0]
  head, *rows = re.findall(r'^\| `(\w+)` \|', table, re.MULTILINE)
  assert head == 'method' and sorted(rows) == methods.available()
  phases = section(DOCS / 'methods.md', 'Phases')
  named = [name for row in re.findall(r'^\| (`.*?`) \|', phases, re.MULTILINE) for name in re.findall(r'`(\w+)`', row)]
  assert {*named} - {'method'} <= {*methods.available()}


def test_every_key_of_a_manifest_is_documented():
  cells = re.findall(r'^\| (`.*?) \|', section(DOCS / 'results.md', 'Frozen models'), re.MULTILINE)
  documented = {key for cell in cells for key in re.findall(r'`(\w+)`', cell)}
  assert documented == describe({}, 0, {}, [], []).keys() | {'files', 'checksum'}


def test_experiments_are_those_there_are():
  from experiments.__main__ import VERBS

  rows = re.findall(r'^\| `(\w+)[^`]*` \|', section(DOCS / 'running.md', 'Experiments'), re.MULTILINE)
  assert sorted(rows[1:]) == sorted(VERBS)  # but for the head of the table
  assert {verb for _, verb in of_all(r'python -m experiments (\w+)')} <= {*VERBS}


def test_the_readme_uses_a_loaded_model_as_it_is():
  (code,) = blocks(README, 'python')
  used = set(re.findall(r'model\.(\w+)\(', code))
  assert used == {'predict', 'features', 'dream'} and all(hasattr(LoadedModel, name) for name in used)


def test_contributing_shows_lwf_as_it_is():
  code, entry, test = blocks(CONTRIBUTING, 'python')
  assert code in (ROOT / 'abd_jax/methods/lwf.py').read_text()
  assert entry.strip() in (ROOT / 'abd_jax/config.py').read_text()
  tests = (ROOT / 'tests/methods/test_methods.py').read_text()
  assert test in tests
  named = ''.join((ROOT / f'abd_jax/{file}.py').read_text() for file in ('config', 'commands/options'))
  for line in re.findall(r"`('lwf': .*)`", CONTRIBUTING.read_text()):
    assert f'  {line}\n' in tests
  for name in re.findall(
    r'`(test_\w+|[A-Z]{5,})`', section(CONTRIBUTING, 'A new method: one file, one config entry, one test')
  ):
    assert name in tests + named, name


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
  assert len(README.read_text().splitlines()) <= 140
