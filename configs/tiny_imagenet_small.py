"""Twenty classes of Tiny-ImageNet in four tasks of five, with small networks: photographs of 64x64 on a CPU.

python -m abd_jax.main --config=configs/tiny_imagenet_small.py --workdir=runs/tiny_imagenet_small

About half an hour on two cores for a method that dreams. Each trial takes the first twenty classes of its own order;
the others, if the folder has more, are never learnt. The images come as for tiny_imagenet.py.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=4, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 4
  c.task_sizes = (5, 5, 5, 5)  # 2,500 training and 250 test images each
  c.data.name = 'tiny_imagenet'
  c.data.mean = (0.4389, 0.4114, 0.3682)
  c.data.std = (0.2402, 0.2350, 0.2268)
  c.model.blocks = (1, 1, 1)
  c.generator.latent = 256
  c.generator.start = (8, 8, 32)
  c.generator.widths = (32, 32, 16)
  c.student.batch_size = 64
  c.student.epochs = 15
  c.student.milestones = (6, 9, 12)
  c.inversion.steps = 1000
  c.inversion.batch_size = 64
  c.checkpoint_seconds = 30.0
  c.memory.size = 400  # images of 10,000: 20 for each class at the end
  quick = {'student.epochs': 1, 'student.milestones': (), 'inversion.steps': 10, 'chunk_steps': 10}
  return finish(c, argument, quick)
