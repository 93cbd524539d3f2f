"""scikit-learn's handwritten digits in five tasks of two: everything the paper does, in a minute or two on a CPU.

python -m abd_jax.main --config=configs/digits.py --workdir=runs/digits
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=5, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 5
  c.data.name = 'digits'  # 1,500 training and 297 test images, 8x8 grey, 0 to 16
  c.data.max_value = 16.0
  c.data.mean = (0.305328125,)  # of the training split
  c.data.std = (0.37610578685643886,)
  c.data.pad = 1  # pixels
  c.data.flip = False
  c.data.brightness = c.data.contrast = 0.0
  c.model.blocks = (1, 1, 1)
  c.generator.latent = 64
  c.generator.start = (2, 2, 32)
  c.generator.widths = (32, 16)
  c.student.batch_size = 32
  c.student.epochs = 45
  c.student.milestones = (18, 27, 36)
  c.student.lr = 0.15
  c.inversion.steps = 200
  c.inversion.batch_size = 64
  c.abd.first_softmax = 'seen'
  c.abd.ft_softmax = 'seen'
  c.abd.local_weight = 'one'
  c.eval_batch_size = 320
  c.chunk_steps = 60
  c.checkpoint_seconds = 5.0
  c.inversion.pixel_images = 256
  c.memory.size = 100  # images of 1,500: 10 for each class at the end
  c.dgr.widths = (16, 32, 64)
  c.dgr.latent = 32
  c.rdfcil.finetune_lr = 0.05  # ten times its authors' rate: else the head is far from done
  recipes = {
    'dgr': {'data.mean': (0.0,), 'data.std': (1.0,), 'student.weight_decay': 0.0},
    'rdfcil': {
      'student.epochs': 36,
      'student.milestones': (18, 27),
      'inversion.steps': c.inversion.steps,
      'rdfcil.finetune_epochs': 27,
    },
  }
  quick = {'student.epochs': 2, 'student.milestones': (1,), 'inversion.steps': 10, 'rdfcil.finetune_epochs': 1}
  return finish(c, argument, quick, recipes)
