"""Stored images, for the methods that may keep some: which to keep, and how later tasks mix them in. Pure numpy.

The images a phase may train on are a `Pool`: the task's own, then the memory's. `Phase.data` picks rows of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Memory(NamedTuple):
  """Stored images, sorted by class; within a class those to be kept longest come first."""

  images: np.ndarray  # u8[m, h, w, c]
  labels: np.ndarray  # i32[m], in learning order


class Pool(NamedTuple):
  """The task's images, then the memory's."""

  images: np.ndarray  # u8[n, h, w, c]
  labels: np.ndarray  # i32[n], in learning order
  is_memory: np.ndarray  # bool[n]


Embed = Callable[[np.ndarray], np.ndarray]  # images u8[n, h, w, c] -> features f[n, d] of the live model
Order = Callable[[np.ndarray, Embed, np.random.Generator, int], np.ndarray]


class Keeping(NamedTuple):
  """How stored images are chosen."""

  order: Order  # (images of one class, embed, rng, how many) -> i64[how many], the best first
  # As released for random memories: every class is drawn anew from the rows of the last phase, repeats included,
  # so that ever fewer different images are left.
  redraw: bool = False


def empty(image_shape: Sequence[int]) -> Memory:
  return Memory(np.zeros((0, *image_shape), np.uint8), np.zeros(0, np.int32))


def join(images: np.ndarray, labels: np.ndarray, memory: Memory) -> Pool:
  is_memory = np.repeat([False, True], [len(labels), len(memory.labels)])
  return Pool(np.concatenate([images, memory.images]), np.concatenate([labels, memory.labels]), is_memory)


def pad(memory: Memory, size: int) -> dict[str, np.ndarray]:
  """The memory as arrays of `size` images, whatever their number: one shape for every checkpoint."""
  missing = size - len(memory.labels)
  images = np.pad(memory.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
  return {'images': images, 'labels': np.pad(memory.labels, (0, missing), constant_values=-1)}


def unpad(arrays: dict[str, np.ndarray]) -> Memory:
  stored = arrays['labels'] >= 0
  return Memory(arrays['images'][stored], arrays['labels'][stored])


# Phase.data: which rows of the pool a phase trains on.


def task_only(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  return np.flatnonzero(~pool.is_memory)


def memory_only(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  return np.flatnonzero(pool.is_memory)


def task_and_memory(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  return np.arange(len(pool.labels))


def task_and_as_many(pool: Pool, rng: np.random.Generator) -> np.ndarray:
  """The task's images and as many drawn from the memory, once for all epochs and with replacement, as released."""
  task = np.flatnonzero(~pool.is_memory)
  return np.concatenate([task, rng.choice(np.flatnonzero(pool.is_memory), len(task))])


# Keeping.order: which images of a class to store.


def random_order(images: np.ndarray, embed: Embed, rng: np.random.Generator, count: int) -> np.ndarray:
  return rng.permutation(len(images))[:count]


def nearest_order(images: np.ndarray, embed: Embed, rng: np.random.Generator, count: int) -> np.ndarray:
  """Those whose features are nearest to the class's mean (end-to-end incremental learning)."""
  features = embed(images)
  return np.argsort(np.linalg.norm(features - features.mean(0), axis=1), kind='stable')[:count]


def herding_order(images: np.ndarray, embed: Embed, rng: np.random.Generator, count: int) -> np.ndarray:
  """Each next one brings the mean of the chosen features closest to the class's mean (Rebuffi et al., 2017)."""
  features = embed(images).astype(np.float64)
  mean, total = features.mean(0), np.zeros(features.shape[1])
  left, chosen = np.ones(len(features), bool), []
  for k in range(1, min(count, len(features)) + 1):
    distances = np.linalg.norm((total + features) / k - mean, axis=1)
    chosen.append(int(np.argmin(np.where(left, distances, np.inf))))
    left[chosen[-1]] = False
    total += features[chosen[-1]]
  return np.asarray(chosen)


def quotas(size: int, available: np.ndarray) -> np.ndarray:
  """i64[c]: how many images of each class a memory of `size` keeps, of `available` i64[c] ones.

  Equal shares; what division leaves over goes to the latest classes that have more.
  """
  share, left = divmod(size, len(available))
  has_more = np.flatnonzero(available > share)[::-1][:left]
  result = np.minimum(available, share)
  result[has_more] += 1
  return result


def refresh(
  keeping: Keeping, size: int, pool: Pool, rows: np.ndarray, embed: Embed, rng: np.random.Generator
) -> Memory:
  """The memory after a task: of all classes in `pool`, at most `size` images.

  A class's images are put in order when it is new, and cut to its share from then on. `rows`: those of the last
  phase, for keeping.redraw.
  """
  if keeping.redraw:
    pool = Pool(pool.images[rows], pool.labels[rows], np.zeros(len(rows), bool))
  stored = np.unique(pool.labels[pool.is_memory])
  mine = [np.flatnonzero((pool.labels == c) & (pool.is_memory == (c in stored))) for c in range(pool.labels.max() + 1)]
  shares = quotas(size, np.array([len(rows) for rows in mine]))
  for c, share in enumerate(shares):
    if c not in stored:
      mine[c] = mine[c][keeping.order(pool.images[mine[c]], embed, rng, share)]
  kept = np.concatenate([rows[:share] for rows, share in zip(mine, shares, strict=True)])
  return Memory(pool.images[kept], pool.labels[kept])
