"""The notebooks in examples/: their cells parse, what they import exists, and they run (slow)."""

import ast
import importlib
import json

import pytest
from conftest import REPO

NOTEBOOKS = sorted((REPO / 'examples').glob('*.ipynb'))


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
def test_cells_parse_and_what_they_import_exists(file):
  cells = json.loads(file.read_text())['cells']
  tree = ast.parse('\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code'))
  attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
  used = [('abd_jax', node.attr) for node in attributes if ast.unparse(node.value) == 'abd_jax']
  used += [(node.module, one.name) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names]
  assert len(used) > 3
  for module, name in used:
    if not module.startswith('IPython'):
      assert hasattr(importlib.import_module(module), name) or importlib.import_module(f'{module}.{name}')


@pytest.mark.slow
@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
def test_they_run(file, tmp_path, monkeypatch, cli_env):
  import nbformat
  from nbclient import NotebookClient

  for name in ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS', 'JAX_NUMPY_RANK_PROMOTION'):
    monkeypatch.delenv(name, raising=False)
  notebook = nbformat.read(file, as_version=4)
  NotebookClient(notebook, timeout=1200, resources={'metadata': {'path': str(tmp_path)}}).execute()  # raises
  printed = [
    ''.join(one['text']) for cell in notebook.cells for one in cell.get('outputs', ()) if one.get('name') == 'stdout'
  ]
  assert len(printed) >= 3 and '%' in printed[-1]
