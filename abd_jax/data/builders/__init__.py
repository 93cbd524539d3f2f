"""TFDS builders that need no TensorFlow, one per file; `abd_jax.data.sources` finds them by file name.

A file `<name>.py` here defines `class Builder` with `name = '<name>'`, the splits 'train' and 'test', the
features `image` and `label`, and `COUNTS`, the number of images each split must have once prepared (empty if
not known). `skip_registration=True` lets it share a name with a builder of tfds's own catalog.
"""
