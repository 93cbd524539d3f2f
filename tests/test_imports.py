"""Who may import what: the shape of the package, read off its syntax trees."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'PIL', 'tensorboardX'}

# The package top down: a file may import from its own line and the lines below it, never from one above.
LAYERS = (
  ('__main__', 'main', 'commands'),
  ('train',),
  ('analysis',),
  ('run',),
  ('report',),
  ('config',),
  ('steps',),
  ('methods',),
  ('data', 'models'),
  ('protocol', 'devices'),
  ('losses', 'state'),
  ('fields', 'files'),
  ('errors',),
)
HEIGHT = {package: len(LAYERS) - k for k, layer in enumerate(LAYERS) for package in layer}


def modules():
  """Dotted name (without abd_jax) -> syntax tree."""
  names = {}
  for file in sorted((ROOT / 'abd_jax').rglob('*.py')):
    name = '.'.join(file.relative_to(ROOT / 'abd_jax').with_suffix('').parts).removesuffix('__init__').rstrip('.')
    names[name or '__init__'] = ast.parse(file.read_text())
  return names


MODULES = modules()


def imports(tree, top_level=False):
  """Full names that the tree imports; with `top_level`, only what runs when the module is imported."""
  found, stack = set(), [tree]
  while stack:
    node = stack.pop()
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
      continue
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
      prefixes = ('.'.join(parts[:k]) for k in range(len(parts), 0, -1))
      found.update([prefix for prefix in prefixes if prefix in MODULES][:1])
  return found


def package(name):
  return name.partition('.')[0]


def test_no_package_imports_upward():
  for name in MODULES:
    if name != '__init__':
      above = [other for other in own_imports(name) if HEIGHT[package(other)] > HEIGHT[package(name)]]
      assert not above, (name, above)


def test_no_imports_in_a_circle():
  graphlib.TopologicalSorter({name: own_imports(name) for name in MODULES}).prepare()


@pytest.mark.parametrize(
  ('names', 'unknown'),
  [
    (('losses', 'data.memory', 'protocol.metrics', 'protocol.tasks'), {'flax', 'tensorflow_datasets'}),
    (('data.memory', 'protocol.metrics', 'protocol.tasks', 'run.schedule', 'run.progress'), {'jax'}),
    (MODULES.keys() - {'run.checkpoint'}, {'orbax'}),
  ],
  ids=['arithmetic', 'numpy', 'orbax'],
)
def test_modules_that_do_without_a_package(names, unknown):
  assert not {name: packages(name) & unknown for name in names if packages(name) & unknown}


def test_heavy_packages_are_imported_where_they_are_used():
  for name in MODULES:
    if not name.startswith('data.builders.'):
      assert not packages(name, top_level=True) & HEAVY, name


def test_no_step_or_loss_or_method_imports_the_config():
  asking = {name for name in MODULES if 'config' in own_imports(name)}
  assert {package(name) for name in asking} == {'commands', 'run', 'train', 'analysis'}


def functions():
  """(where, lines of code and comment) of every function of the package and the experiments."""
  for folder in ('abd_jax', 'experiments', 'configs'):
    for file in sorted((ROOT / folder).rglob('*.py')):
      for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
          body = node.body[1:] if ast.get_docstring(node) else node.body
          first = body[0].lineno if body else node.end_lineno
          yield f'{file.relative_to(ROOT)}:{node.name}', node.end_lineno - first + 1


def test_no_function_is_longer_than_fifty_lines():
  assert not {where: lines for where, lines in functions() if lines > 50}


@pytest.mark.parametrize(
  ('modules', 'absent'),
  [('abd_jax.train, abd_jax.run.load', HEAVY), ('abd_jax.main, abd_jax.__main__', {'jax'})],
  ids=['training imports nothing heavy', 'the command line answers before JAX is imported'],
)
def test_what_is_imported_late(modules, absent):
  code = f'import sys, {modules}; print(sorted({absent!r} & sys.modules.keys()))'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert done.stdout.strip() == '[]', done.stderr
