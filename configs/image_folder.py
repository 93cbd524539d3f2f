"""Photographs of your own, in folders by class: nothing but the folder must be said.

python -m abd_jax.main --config=configs/image_folder.py --config.data.dir=PHOTOS --workdir=runs/photos

PHOTOS holds train/CLASS/* and test/CLASS/*, or CLASS/* of which a fifth becomes the test split. They are checked,
brought to one size and written to PHOTOS.prepared once. Size, channels, mean and deviation, networks and generator are
found out from them; docs/images.md says how, and how to say so yourself. `:quick` is one epoch with small networks.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=5, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 2
  c.data.name = 'image_folder'
  c.data.mean = c.data.std = ()  # all of these are found out
  c.model.blocks = c.model.widths = ()
  c.generator.start = c.generator.widths = ()
  c.student.batch_size = 32
  c.student.epochs = 60
  c.student.milestones = (24, 36, 48)
  c.inversion.steps = 2000
  c.inversion.batch_size = 64
  c.eval_batch_size = 128
  c.memory.size = 200  # images
  c.checkpoint_seconds = 30.0
  quick = {
    'student.epochs': 1, 'student.milestones': (), 'student.lr': 0.01, 'student.batch_size': 8, 'inversion.steps': 10,
    'inversion.batch_size': 8, 'chunk_steps': 10, 'eval_batch_size': 32, 'memory.size': 40,
    'model.blocks': (1, 1, 1), 'model.widths': (8, 16, 32), 'data.size': 32, 'inversion.pixel_images': 64,
  }  # fmt: skip
  return finish(c, argument, quick)
