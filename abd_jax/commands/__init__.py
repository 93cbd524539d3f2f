"""The verbs of abd-jax. Each is a file here with `run(words)`; its docstring is its help.

The docstring's first line is the verb's line in `abd-jax --help`: an example, four spaces, what it does.
"""

import pkgutil


def verbs() -> list[str]:
  return sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != 'options')
