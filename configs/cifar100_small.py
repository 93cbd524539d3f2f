"""Twenty classes of CIFAR-100 in four tasks of five, with small networks: real photographs on a CPU.

python -m abd_jax.main --config=configs/cifar100_small.py --workdir=runs/cifar100_small

Some 20 minutes on two idle cores for a method that dreams, from 7 for one that does not. Each trial takes the first
twenty classes of its own order; the other eighty are never learnt. The images are downloaded as for cifar100.py.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=4, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 4
  c.task_sizes = (5, 5, 5, 5)  # 2,500 training and 500 test images each
  c.model.blocks = (1, 1, 1)
  c.generator.latent = 256
  c.generator.start = (8, 8, 32)
  c.generator.widths = (32, 16)
  c.student.batch_size = 64
  c.student.epochs = 40
  c.student.milestones = (16, 24, 32)
  c.inversion.steps = 2000
  c.inversion.batch_size = 64
  c.checkpoint_seconds = 30.0
  c.memory.size = 400  # images of 10,000: 20 for each class at the end
  recipes = {
    'rdfcil': {
      'student.epochs': 32,
      'student.milestones': (16, 24),
      'inversion.steps': c.inversion.steps,
      'rdfcil.finetune_epochs': 8,
    },
  }
  quick = {'student.epochs': 1, 'student.milestones': (), 'inversion.steps': 20, 'chunk_steps': 10}
  quick |= {'rdfcil.finetune_epochs': 1}
  return finish(c, argument, quick, recipes)
