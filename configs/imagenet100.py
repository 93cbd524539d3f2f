"""ImageNet-100: ten tasks of ten classes, the first hundred of ImageNet-50's order; all else as configs/imagenet50.py.

python -m abd_jax.main --config=configs/imagenet100.py --config.data.dir=ILSVRC --workdir=runs/imagenet100
"""

import runpy
from pathlib import Path


def get_config(argument: str | None = None):
  """argument: any of method=lwf, trial=1, quick."""
  imagenet50 = runpy.run_path(str(Path(__file__).with_name('imagenet50.py')))
  return imagenet50['get_config'](argument, 'imagenet100', 10)
