"""Builders that need no TensorFlow, one per file; `abd_jax.data.prepare` finds them by file name.

A file `<name>.py` here defines `class Builder` with `name = '<name>'`: a TFDS builder with the splits 'train' and
'test' and the features `image` and `label`, or a `FileBuilder`. `COUNTS`, if it has that, are the images that each
split must have. `skip_registration=True` lets a TFDS builder share a name with one of tfds's own catalog.
"""
