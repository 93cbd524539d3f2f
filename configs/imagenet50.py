"""ImageNet-50 (Tables 4 and E): the first fifty classes of the benchmark's order, five tasks of ten, head of 1,000.

python -m abd_jax.main --config=configs/imagenet50.py --config.data.dir=ILSVRC --workdir=runs/imagenet50

ILSVRC holds train/WNID/* and val; abd_jax/data/builders/imagenet50.py says which layouts. Accuracy is the paper's
top-5: final_top5_accuracy of results.json. ResNet-18 (He et al.) as the paper says. The authors released 14 layers of
236,856 parameters instead: --config.model.variant=abd --config.model.blocks='(2, 2, 2)' --config.model.widths='(16, 32,
64)'. For a GPU or TPU; images are streamed. `:quick` is one epoch of small networks on 64 pixels, for a replica.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None, name: str = 'imagenet50', tasks: int = 5):
  """argument: any of method=lwf, trial=1, quick. name, tasks of ten classes: configs/imagenet100.py has others."""
  c = default()
  c.tasks = tasks
  c.task_sizes = (10,) * tasks
  c.class_order = 'numpy:1993'  # for every trial
  c.data.name = name
  c.data.size = 224
  c.data.crop = 'resized'
  c.data.mean = (0.485, 0.456, 0.406)
  c.data.std = (0.229, 0.224, 0.225)
  c.data.pad = 0
  c.data.brightness = c.data.contrast = 0.0
  c.model.variant = 'imagenet'
  c.model.blocks = (2, 2, 2, 2)
  c.model.widths = (64, 128, 256, 512)
  c.generator.start = (7, 7, 64)  # 3,326,275 parameters
  c.generator.widths = (64,) * 5
  c.student.epochs = 100
  c.student.milestones = (30, 60, 80, 90)
  c.student.weight_decay = 1e-4
  c.inversion.steps = 50000  # released; the paper says double of CIFAR's
  c.eval_batch_size = 256
  c.chunk_steps = 10  # two chunks of images wait in the host's memory, 190 MiB each
  quick = {
    'student.epochs': 1, 'student.milestones': (), 'student.lr': 0.01, 'student.batch_size': 8, 'inversion.steps': 5,
    'inversion.batch_size': 8, 'chunk_steps': 5, 'eval_batch_size': 32, 'memory.size': 1000, 'data.size': 64,
    'model.blocks': (1, 1, 1, 1), 'model.widths': (8, 8, 16, 16), 'generator.start': (2, 2, 8),
    'generator.widths': (8,) * 5, 'generator.latent': 64, 'inversion.pixel_images': 64, 'dgr.widths': (8, 8, 8),
    'dgr.latent': 16,
  }  # fmt: skip
  return finish(c, argument, quick)
