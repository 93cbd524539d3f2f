"""The verbs of abd-jax: one file each, found by its name, with `run(words)`. Its docstring is its help.

The docstring's first line is the verb's line in `abd-jax --help`: an example, four spaces, what it does.
"""

import pkgutil


def verbs() -> list[str]:
  return sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != 'options')
