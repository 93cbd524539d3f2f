"""The verbs of abd-jax, one thin file each."""
