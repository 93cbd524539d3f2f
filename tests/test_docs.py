"""What the documents say is what the code and the result files say."""

import re
from pathlib import Path

from abd_jax.config import default, flatten
from experiments import page

ROOT = Path(__file__).resolve().parent.parent


def test_pages_are_rendered_from_the_files_of_results():
  text = page.README.read_text()
  assert page.readme(text) == text
  assert page.PAGE.read_text() == page.page()


def test_fields_and_paths_named_in_the_readme_exist():
  text = (ROOT / 'README.md').read_text()
  fields = flatten(default().to_dict())
  groups = '|'.join({name.split('.')[0] for name in fields if '.' in name})
  named = set(re.findall(rf'`((?:{groups})\.[a-z_]+)`', text)) | set(re.findall(r'config\.([a-z_.]*[a-z_])', text))
  assert len(named) > 12
  assert not {name for name in named if name not in fields and name not in ('json', 'py')}
  for link in re.findall(r'\]\(([^)#]+)\)', text):
    assert (ROOT / link).exists(), link


def test_contributing_shows_lwf_as_it_is():
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  code, entry = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert code in (ROOT / 'abd_jax/methods/lwf.py').read_text()
  assert entry.strip() in (ROOT / 'abd_jax/config.py').read_text()
