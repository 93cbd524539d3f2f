"""The verbs of abd-jax: one file each, with `run(words)` and its help as the module's docstring."""
