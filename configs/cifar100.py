"""CIFAR-100 as the paper ran it, ten tasks of ten classes.

python -m abd_jax.main --config=configs/cifar100.py --workdir=runs/cifar100
python -m abd_jax.main --config=configs/cifar100.py:tasks=20,method=lwf,trial=1 --workdir=runs/cifar100_lwf

The defaults of abd_jax/config.py are this benchmark's, each disagreement of paper and code commented there. For a
GPU or TPU: on two CPU cores a step takes a second or two and the whole run two days. `:short` has an eighth of the
epochs and of the steps of inversion, `:quick` one epoch a task.
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=5|10|20, method=lwf, trial=1, short, quick."""
  c = default()
  # Divides the steps of a task in 5, 10 and 20 tasks, and those of inversion: each kind of step is one program.
  c.chunk_steps = 50
  quick = {'student.epochs': 1, 'student.milestones': (), 'inversion.steps': 20, 'chunk_steps': 10}
  return finish(c, argument, quick)
