"""Stored images, for the methods that may keep some: which to keep, and how later tasks mix them in. Pure numpy.

What a phase may train on is a `Pool`: the task's own images, then the memory's. `Phase.data` picks rows of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Memory(NamedTuple):
  """Stored images, sorted by class; within a class those to be kept longest come first."""

  images: np.ndarray  # u8[m, h, w, c]
  labels: np.ndarray  # i32[m], in learning order


class Pool(NamedTuple):
  """What a phase may train on, known without looking at an image: the task's rows, then the memory's."""

  labels: np.ndarray  # i32[n], in learning order
  is_memory: np.ndarray  # bool[n]


# (number of a class's images, their features f[n, d] or None, rng, how many) -> i64[how many], the best first
Order = Callable[[int, Any, np.random.Generator, int], np.ndarray]


class ExemplarPolicy(NamedTuple):
  """How stored images are chosen."""

  order: Order
  by_features: bool = False  # whether `order` looks at features of the live model
  # As released for random memories: every class is drawn anew from the rows of the last phase, repeats included,
  # so that ever fewer different images are left.
  redraw: bool = False


def empty(image_shape: Sequence[int]) -> Memory:
  return Memory(np.zeros((0, *image_shape), np.uint8), np.zeros(0, np.int32))


def join(task_labels: np.ndarray, memory_labels: np.ndarray) -> Pool:
  is_memory = np.repeat([False, True], [len(task_labels), len(memory_labels)])
  return Pool(np.concatenate([task_labels, memory_labels]), is_memory)


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


# ExemplarPolicy.order: which images of a class to store.


def random_order(n: int, features: np.ndarray | None, rng: np.random.Generator, count: int) -> np.ndarray:
  return rng.permutation(n)[:count]


def nearest_order(n: int, features: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
  """Those whose features are nearest to the class's mean (end-to-end incremental learning)."""
  return np.argsort(np.linalg.norm(features - features.mean(0), axis=1), kind='stable')[:count]


def herding_order(n: int, features: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
  """Each next one brings the mean of the chosen features closest to the class's mean (Rebuffi et al., 2017)."""
  features = features.astype(np.float64)
  mean, total = features.mean(0), np.zeros(features.shape[1])
  left, chosen = np.ones(n, bool), []
  for k in range(1, min(count, n) + 1):
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


def looks_at_features(policy: ExemplarPolicy, pool: Pool) -> bool:
  """Whether `kept_rows` needs them: only a class that is not stored yet is put in order."""
  return policy.by_features and bool(set(pool.labels) - set(pool.labels[pool.is_memory]))


def kept_rows(
  policy: ExemplarPolicy,
  size: int,
  pool: Pool,
  rows: np.ndarray,
  features: np.ndarray | None,
  rng: np.random.Generator,
) -> np.ndarray:
  """i64[m]: the rows of `pool` that the memory keeps after a task, m <= size, sorted by class.

  A class's images are put in order when it is new, and cut to its share from then on.

  Args:
    policy: how they are chosen.
    size: images at most, of all classes in `pool`.
    pool: the task's rows and the memory's.
    rows: those of the last phase, for policy.redraw.
    features: f[n, d] of the task's rows, or None if `looks_at_features` says that they are not needed.
    rng: for policies that draw.
  """
  if not policy.redraw:
    rows = np.arange(len(pool.labels))
  labels, is_memory = pool.labels[rows], pool.is_memory[rows] & (not policy.redraw)
  stored = np.unique(labels[is_memory])
  mine = [np.flatnonzero((labels == c) & (is_memory == (c in stored))) for c in range(labels.max() + 1)]
  shares = quotas(size, np.array([len(of_class) for of_class in mine]))
  for c, share in enumerate(shares):
    if c not in stored:
      of_class = features[mine[c]] if policy.by_features and features is not None else None
      mine[c] = mine[c][policy.order(len(mine[c]), of_class, rng, share)]
  return rows[np.concatenate([of_class[:share] for of_class, share in zip(mine, shares, strict=True)])]


class PooledImages(NamedTuple):
  """The images of a pool, padded to one number for all tasks."""

  pool: Pool
  images: np.ndarray  # u8[size, h, w, c]
  labels: np.ndarray  # i32[size]

  @property
  def task_images(self) -> np.ndarray:
    """u8[n, h, w, c]: the task's own."""
    return self.images[: np.sum(~self.pool.is_memory)]

  def take(self, rows: np.ndarray) -> Memory:
    """A memory of these rows, copied."""
    return Memory(self.images[rows], self.labels[rows])


def gather(images: np.ndarray, labels: np.ndarray, memory: Memory, size: int) -> PooledImages:
  """A task's images u8[n, h, w, c] and the memory's, in one array of `size`; each is copied once."""
  pool = join(labels, memory.labels)
  padded = np.zeros((size, *images.shape[1:]), np.uint8)
  padded[: len(images)] = images
  padded[len(images) : len(pool.labels)] = memory.images
  return PooledImages(pool, padded, np.pad(pool.labels, (0, size - len(pool.labels))))
