"""Stored images, for the methods that may keep some: which to keep, and how later tasks mix them in."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from abd_jax.data.images import from_array
from abd_jax.data.records import Source, in_threads


class Memory(NamedTuple):
  """Stored images, sorted by class; within a class those to be kept longest come first."""

  images: np.ndarray  # u8[m, h, w, c]
  labels: np.ndarray  # i32[m], in learning order


class Pool(NamedTuple):
  """What a phase may train on: the task's rows, then the memory's. Labels alone are enough to plan a run."""

  labels: np.ndarray  # i32[n], in learning order
  is_memory: np.ndarray  # bool[n]
  images: Any = None  # u8[size, h, w, c] of all rows, padded to one number for all tasks; None: not decoded
  source: Any = None  # if they are streamed: a Source of the task's images,
  memory: Any = None  # and a Memory, whose images are as they are tested: of random crops, the centre

  @property
  def streams(self) -> bool:
    return self.source is not None

  @property
  def task_images(self) -> np.ndarray | Source:
    """u8[n, h, w, c]: the task's own, or a Source that decodes them slice by slice."""
    return self.source if self.streams else self.images[: np.sum(~self.is_memory)]

  def padded_labels(self) -> np.ndarray:
    """i32[size], one for each of `images`."""
    return np.pad(self.labels, (0, len(self.images) - len(self.labels)))

  def take(self, rows: np.ndarray) -> Memory:
    """A memory of these rows, copied."""
    images = in_threads(self.fill, self.source.view.shape, rows) if self.streams else self.images[rows]
    return Memory(images, self.labels[rows])

  def fill(self, images: np.ndarray, rows: np.ndarray, draws: np.ndarray | None) -> None:
    """Decodes streamed rows into u8[m, h, w, c], in this thread. draws: f64[m, DRAWS] of random crops."""
    count = len(self.source)
    mine = np.flatnonzero(rows < count)
    self.source.fill([images[k] for k in mine], rows[mine], None if draws is None else draws[mine])
    for k in np.flatnonzero(rows >= count):
      stored = self.memory.images[rows[k] - count]
      images[k] = stored if draws is None else self.source.view.cut(from_array(stored), draws[k])


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


def capacity(settings: Any, classes: int) -> int:
  """How many images a memory has room for. settings: config.memory. classes: all that the run learns."""
  return settings.per_class * classes or settings.size


def join(task_labels: np.ndarray, memory_labels: np.ndarray) -> Pool:
  is_memory = np.repeat([False, True], [len(task_labels), len(memory_labels)])
  return Pool(np.concatenate([task_labels, memory_labels]), is_memory)


def pad(memory: Memory, size: int) -> dict[str, np.ndarray]:
  """The memory padded to `size` images, so that all checkpoints have one shape."""
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
  policy: ExemplarPolicy, size: int, pool: Pool, rows: np.ndarray, features: np.ndarray | None, rng: np.random.Generator
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


def gather(images: np.ndarray, labels: np.ndarray, memory: Memory, size: int) -> Pool:
  """A task's images u8[n, h, w, c] and the memory's, in one array of `size`; each is copied once."""
  pool = join(labels, memory.labels)
  padded = np.zeros((size, *images.shape[1:]), np.uint8)
  padded[: len(images)] = images
  padded[len(images) : len(pool.labels)] = memory.images
  return pool._replace(images=padded)


def streamed(source: Source, memory: Memory) -> Pool:
  """A task's images, left encoded, and the memory's."""
  return join(source.labels, memory.labels)._replace(source=source, memory=memory)
