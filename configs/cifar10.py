"""CIFAR-10 in five tasks of two classes, with the networks and the schedule of CIFAR-100.

python -m abd_jax.main --config=configs/cifar10.py --workdir=runs/cifar10
"""

from abd_jax.config import default, finish


def get_config(argument: str | None = None):
  """argument: any of tasks=2|5, method=lwf, trial=1, quick."""
  c = default()
  c.tasks = 5
  c.data.name = 'cifar10'
  c.data.mean = (0.49139967861519607, 0.48215840839460783, 0.44653091444546567)
  c.data.std = (0.2470322324632819, 0.24348512800005573, 0.26158784172796434)
  quick = {'student.epochs': 1, 'student.milestones': (), 'inversion.steps': 20, 'chunk_steps': 10}
  return finish(c, argument, quick)
