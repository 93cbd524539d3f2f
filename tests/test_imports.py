"""Who may import what: the shape of the package, read off its syntax trees."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'PIL'}

# What each module may import of ours. The order is top down; `methods` is every file in methods/.
ALLOWED = {
  'main': {'config', 'errors', 'malloc', 'programs', 'report', 'session', 'train'},
  'train': {
    'inversion', 'memory', 'metrics', 'oracle', 'report', 'session', 'setup', 'state', 'student', 'workdir'
  },
  'setup': {
    'checkpoint', 'config', 'data.sources', 'errors', 'kit', 'memory', 'methods', 'programs', 'sharding', 'state',
    'student', 'tasks',
  },
  'oracle': {'config', 'tasks'},
  'programs': {'inversion', 'kit', 'loop', 'methods', 'sharding', 'student'},
  'session': {'errors', 'checkpoint', 'console', 'loop', 'workdir'},
  'workdir': {'config', 'errors'},
  'checkpoint': {'errors'},
  'student': {'inversion', 'kit', 'losses', 'methods', 'models', 'optim', 'state'},
  'inversion': {'kit', 'losses', 'models', 'optim', 'state'},
  'kit': {'data.augment', 'errors', 'models', 'optim'},
  'methods': {'errors', 'losses', 'memory', 'methods', 'models', 'state'},
  'models': {'models'},
  'data.sources': {'data.prepare', 'errors', 'tasks'},
  'data.prepare': {'data.builders', 'errors'},
  'data.builders': {'data.builders', 'errors'},
  'data.augment': {'data.jitter'},
  'data.jitter': set(),
  'config': {'errors'},
  'tasks': {'errors'},
  'console': set(),
  'errors': set(),
  'loop': set(),
  'malloc': set(),
  'losses': set(),
  'memory': set(),
  'metrics': set(),
  'optim': set(),
  'report': set(),
  'sharding': set(),
  'state': set(),
}  # fmt: skip


def modules():
  """Dotted name (without abd_jax) -> syntax tree."""
  names = {}
  for file in sorted((ROOT / 'abd_jax').rglob('*.py')):
    name = '.'.join(file.relative_to(ROOT / 'abd_jax').with_suffix('').parts).removesuffix('__init__').rstrip('.')
    names[name] = ast.parse(file.read_text())
  return names


MODULES = modules()


def imports(tree, top_level=False):
  """Full names that the tree imports; with `top_level`, only what runs when the module is imported."""
  found, stack = set(), [tree]
  while stack:
    node = stack.pop()
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
    if not (top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
      stack.extend(ast.iter_child_nodes(node))
  return found


def packages(name, top_level=False):
  """First parts of the names that module imports."""
  return {full.partition('.')[0] for full in imports(MODULES[name], top_level)}


def own_imports(name):
  """Our modules that module imports."""
  found = set()
  for full in imports(MODULES[name]):
    if full.startswith('abd_jax.'):
      parts = full.split('.')[1:]
      found.add(next('.'.join(parts[:k]) for k in range(len(parts), -1, -1) if '.'.join(parts[:k]) in MODULES))
  return found - {''}


def room(name):
  """The key of ALLOWED that stands for a module."""
  rooms = [key for key in (name, *(name.rsplit('.', k)[0] for k in (1, 2))) if key in ALLOWED]
  assert rooms, f'{name} has no line in ALLOWED'
  return rooms[0]


def test_every_module_imports_only_what_it_may():
  for name in MODULES:
    if name not in ('', 'data'):  # they only hold a docstring
      assert {room(other) for other in own_imports(name)} <= ALLOWED[room(name)], name
  assert not own_imports('') and not own_imports('data')


def test_what_is_allowed_points_downward():
  graph = {name: below - {name} for name, below in ALLOWED.items()}
  assert list(graphlib.TopologicalSorter(graph).static_order())[-1] == 'main'


def test_no_imports_in_a_circle():
  graphlib.TopologicalSorter({name: own_imports(name) for name in MODULES}).prepare()


@pytest.mark.parametrize('name', ['losses', 'memory', 'metrics', 'tasks'])
def test_arithmetic_knows_neither_flax_nor_tfds(name):
  assert not packages(name) & {'flax', 'tensorflow_datasets'}


@pytest.mark.parametrize('name', ['memory', 'metrics', 'tasks'])
def test_numpy_modules_do_not_import_jax(name):
  assert 'jax' not in packages(name)


def test_only_checkpoint_imports_orbax():
  assert {name for name in MODULES if 'orbax' in packages(name)} == {'checkpoint'}


def test_only_sharding_names_a_mesh_axis():
  words = {'PartitionSpec', 'Mesh', 'NamedSharding', 'make_mesh', 'AxisType', 'AXIS'}

  def names(tree):
    for node in ast.walk(tree):
      yield from {getattr(node, 'id', None), getattr(node, 'attr', None)} & words
      if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from {alias.name for alias in node.names} & words

  assert {name for name, tree in MODULES.items() if set(names(tree))} == {'sharding'}


def test_heavy_packages_are_imported_where_they_are_used():
  for name in MODULES:
    if not name.startswith('data.builders.'):
      assert not packages(name, top_level=True) & HEAVY, name


def test_no_step_or_loss_imports_the_config():
  assert {name for name in MODULES if 'config' in own_imports(name)} == {'main', 'oracle', 'setup', 'workdir'}


def test_training_can_be_imported_on_a_host_without_the_heavy_packages():
  code = f'import sys, abd_jax.train; print(sorted({HEAVY!r} & sys.modules.keys()))'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert done.stdout.strip() == '[]', done.stderr


def test_the_command_line_answers_before_jax_is_imported():
  code = "import sys, abd_jax.main; print('jax' in sys.modules)"
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert done.stdout.strip() == 'False', done.stderr
