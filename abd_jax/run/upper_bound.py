"""The upper bound: for each task a fresh model that learns the images of all classes so far.

A model for a prefix of the class order is an ordinary run: Base, one task. It lies under config.oracle_dir by what it
depends on, so all methods share it, and so do splits into 5, 10 and 20 tasks.
"""

import hashlib
import json
from pathlib import Path

from abd_jax.config import Config, default, flatten
from abd_jax.data.folders import own_images
from abd_jax.protocol.tasks import Tasks

# What the result of a Base run depends on (the last two in its last bits at most), and how it is run.
RECIPE = ('data', 'model', 'student', 'bn_gamma_init', 'precision', 'eval_batch_size', 'chunk_steps')
CLASSES = ('class_order', 'task_sizes', 'seed')
RUNNING = ('checkpoint_seconds', 'devices', 'distributed', 'collapse')


def prefix_config(config, tasks: Tasks, task: int, seed: int) -> Config:
  """The config of a run that learns all classes up to 0-based `task` at once."""
  c = default()
  for name in (*RECIPE, *RUNNING):
    c[name] = config[name]
  classes = sum(tasks.sizes[: task + 1])
  known = tasks.order[:classes]
  c.class_order = ','.join(map(str, (*known, *sorted(set(tasks.order) - set(known)))))
  # Base trains no generator; this one fits the images, and is the same for all who share the run.
  scale = 2 ** len(config.generator.widths)
  c.generator.latent, c.generator.widths = 1, ()
  c.generator.start = (*(side * scale for side in config.generator.start[:2]), 1)
  c.method, c.tasks, c.task_sizes, c.seed = 'base', 1, (classes,), seed
  return c


def folder(root: Path, config) -> Path:
  """Where the run of a `prefix_config` lies: a function of the data, the classes, the recipe and the seed.

  Of those fields that are not at their default, so that a field that comes later moves nothing.
  """
  fields, defaults = ({name: c.to_dict()[name] for name in (*RECIPE, *CLASSES)} for c in (config, default()))
  fields, defaults = flatten(fields), flatten(defaults)
  where = ['data.dir', 'data.download', 'data.prepared', 'data.device_mib']
  if not own_images(config.data.name):
    where.append('data.fingerprint')
  fields = {name: value for name, value in fields.items() if value != defaults[name] and name not in where}
  digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
  return root / f'{config.data.name}_{config.task_sizes[0]}_{digest}'


def plan(config, tasks: Tasks, seed: int, root: Path) -> list[tuple[Config, Path]]:
  """(config, workdir) of the upper bound of each task, under `root`."""
  parts = [prefix_config(config, tasks, task, seed) for task in range(tasks.num_tasks)]
  return [(part, folder(root, part)) for part in parts]
