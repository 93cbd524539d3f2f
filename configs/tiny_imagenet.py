"""Tiny-ImageNet as the paper ran it (Tables C and D), twenty tasks of ten classes.

python -m abd_jax.main --config=configs/tiny_imagenet.py --workdir=runs/tiny_imagenet

Downloaded as CIFAR is, or a folder tiny-imagenet-200 in --config.data.dir; a part of its classes will do, with :tasks=
to match. For a GPU or TPU. `:quick` is one epoch of small networks, for a replica of some images a class.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=20, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 20
  c.data.name = 'tiny_imagenet'
  c.data.mean = (0.4389, 0.4114, 0.3682)
  c.data.std = (0.2402, 0.2350, 0.2268)
  c.generator.widths = (128, 128, 64)  # 8,571,779 parameters
  quick = {
    'student.epochs': 1, 'student.milestones': (), 'student.lr': 0.01, 'student.batch_size': 8, 'inversion.steps': 5,
    'inversion.batch_size': 8, 'chunk_steps': 5, 'eval_batch_size': 64,
    'model.blocks': (1, 1, 1), 'model.widths': (4, 8, 16), 'generator.start': (8, 8, 8), 'generator.widths': (8, 8, 8),
    'generator.latent': 64, 'inversion.pixel_images': 64, 'dgr.widths': (8, 8, 8), 'dgr.latent': 16,
  }  # fmt: skip
  return finish(c, argument, quick)
