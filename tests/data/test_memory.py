"""abd_jax.data.memory: which images are kept, in which order, and how many different ones are left."""

import numpy as np
import pytest

from abd_jax.config import default
from abd_jax.data import memory as memory_lib
from abd_jax.data.memory import ExemplarPolicy, Memory, empty, gather, join, kept_rows, looks_at_features, quotas
from abd_jax.errors import UserError
from abd_jax.methods import bic

ORDERS = {name: getattr(memory_lib, f'{name}_order') for name in ('random', 'nearest', 'herding')}
POLICIES = {name: ExemplarPolicy(order, by_features=name != 'random') for name, order in ORDERS.items()}


def rng(seed=0):
  return np.random.default_rng(seed)


def pictures(ids):
  """Images u8[n, 2, 2, 1] that tell which one of at most 65536 each is."""
  ids = np.asarray(ids, np.int64)
  images = np.zeros((len(ids), 2, 2, 1), np.uint8)
  images[:, 0, 0, 0], images[:, 1, 1, 0] = ids // 256, ids % 256
  return images


def ids_of(images):
  return images[:, 0, 0, 0].astype(int) * 256 + images[:, 1, 1, 0]


def embedding(images):
  """Fixed random features f[n, 3] of every picture."""
  return rng(7).normal(size=(65536, 3))[ids_of(images)]


def no_embedding(images):
  raise AssertionError('nothing here may look at features')


def pool_of(new=(), stored=()):
  """Pooled images of pairs (id, label)."""
  columns = lambda pairs: (pictures([i for i, _ in pairs]), np.array([c for _, c in pairs], np.int32))
  return gather(*columns(new), Memory(*columns(stored)), len(new) + len(stored))


def keep(policy, size, pool, seed=0, embed=no_embedding, rows=None):
  """The (id, label) pairs of the memory that a policy makes of pooled images, as the loop over tasks does it."""
  features = embed(pool.task_images) if looks_at_features(policy, pool) else None
  memory = pool.take(kept_rows(policy, size, pool, np.arange(0) if rows is None else rows, features, rng(seed)))
  assert memory.images.dtype == np.uint8 and memory.labels.dtype == np.int32
  return list(zip(ids_of(memory.images).tolist(), memory.labels.tolist(), strict=True))


# Quotas.


@pytest.mark.parametrize(
  ('size', 'available', 'expected'),
  [
    (9, [5, 5, 5], [3, 3, 3]),
    (10, [5, 5, 5], [3, 3, 4]),  # what division leaves over: to the latest classes first
    (11, [5, 5, 5], [3, 4, 4]),
    (11, [5, 5, 3], [4, 4, 3]),  # the latest has no more than its share: the next before it
    (11, [5, 3, 3], [4, 3, 3]),  # one over finds no taker
    (10, [5, 1, 5], [3, 1, 4]),  # a class with fewer than the share keeps what it has; the others gain nothing
    (100, [5, 1, 0], [5, 1, 0]),
    (2, [5, 5, 5], [0, 1, 1]),
    (2000, [500] * 60, [33] * 40 + [34] * 20),
  ],
)
def test_quotas_by_hand(size, available, expected):
  available = np.array(available)
  before = available.copy()
  np.testing.assert_array_equal(quotas(size, available), expected)
  np.testing.assert_array_equal(available, before)


# Orders of one class.


def naive_nearest(features, count):
  mean = sum(features) / len(features)
  return sorted(range(len(features)), key=lambda k: sum((features[k] - mean) ** 2))[:count]


def naive_herding(features, count):
  """At each step every image that is left is tried."""
  mean, chosen = np.mean(features, 0), []
  for _ in range(min(count, len(features))):
    left = [k for k in range(len(features)) if k not in chosen]
    chosen.append(min(left, key=lambda k: np.linalg.norm(np.mean(features[[*chosen, k]], 0) - mean)))
  return chosen


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('count', [1, 7, 24])
def test_nearest_and_herding_equal_a_naive_restatement(seed, count):
  features = rng(seed).normal(size=(24, 2 + seed))
  nearest = ORDERS['nearest'](24, features, rng(), count)
  herded = ORDERS['herding'](24, features, rng(), count)
  np.testing.assert_array_equal(nearest, naive_nearest(features, count))
  np.testing.assert_array_equal(herded, naive_herding(features, count))
  assert count == 1 or not np.array_equal(nearest, herded)


def test_herding_by_hand():
  """The mean is 3: first 4 is nearest; then 1 makes 2.5 (0 makes 2, 7 makes 5.5); then 7 makes 4 and 0 makes 1.67."""
  features = np.array([[0.0], [7.0], [1.0], [4.0]])
  assert ORDERS['herding'](4, features, rng(), 4).tolist() == [3, 2, 1, 0]
  assert ORDERS['nearest'](4, features, rng(), 4).tolist() == [3, 2, 0, 1]  # distances 1, 2, 3, 4
  repeated = np.float32(np.arange(6)[:, None] // 5)  # no image is chosen twice although its features are
  assert sorted(ORDERS['herding'](6, repeated, rng(), 6).tolist()) == list(range(6))


def test_random_order_is_a_draw_without_replacement_that_looks_at_nothing():
  orders = [ORDERS['random'](300, None, rng(seed), 250) for seed in (0, 0, 1)]
  assert all(len(set(order.tolist())) == 250 and set(order.tolist()) <= set(range(300)) for order in orders)
  np.testing.assert_array_equal(orders[0], orders[1])
  assert not np.array_equal(orders[0], orders[2])
  # Every image is as likely as any other, in each place: 300 shuffles of four.
  first = np.bincount([ORDERS['random'](4, None, rng(seed), 2)[0] for seed in range(300)])
  assert len(first) == 4 and first.min() > 50


@pytest.mark.parametrize('name', ORDERS)
def test_fewer_are_the_first_of_more(name):
  features = rng().normal(size=(30, 3))
  whole = ORDERS[name](30, features, rng(3), 30)
  assert sorted(whole.tolist()) == list(range(30))
  for count in (1, 2, 11, 29):
    np.testing.assert_array_equal(ORDERS[name](30, features, rng(3), count), whole[:count])
  np.testing.assert_array_equal(ORDERS[name](30, features, rng(3), 31), whole)  # no more than there are


# From task to task.


def task_pairs(first_class, last_class, each, start):
  """`each` images of each of some classes, in mixed order."""
  labels = rng(start).permutation(np.repeat(np.arange(first_class, last_class + 1), each))
  return [(start + k, int(label)) for k, label in enumerate(labels)]


def of_class(pairs, c):
  return [i for i, label in pairs if label == c]


def labels_of(pairs):
  return [label for _, label in pairs]


@pytest.mark.parametrize('name', ORDERS)
def test_a_class_is_put_in_order_when_it_is_new_and_only_cut_later(name):
  policy, task = POLICIES[name], task_pairs(2, 4, 30, 1000)
  first = keep(policy, 20, pool_of(task_pairs(0, 1, 30, 0)), embed=embedding)
  assert labels_of(first) == [0] * 10 + [1] * 10  # sorted by class
  # From here on another model, of other features, and other random numbers.
  other = lambda images: -np.square(embedding(images)) * [1, 9, 4]
  second = keep(policy, 20, pool_of(task, first), seed=1, embed=other)
  assert labels_of(second) == np.repeat(range(5), 4).tolist()
  third = keep(policy, 20, pool_of(task_pairs(5, 6, 30, 2000), second), seed=2, embed=embedding)
  assert labels_of(third) == [0, 0, *np.repeat(range(1, 7), 3).tolist()]  # 20 = 7 x 2 + 6
  for c in range(5):
    assert of_class(third, c) == of_class(second, c)[: 3 if c else 2]
  for c in range(2):
    assert of_class(second, c) == of_class(first, c)[:4]
  if name != 'random':
    ids = np.array(of_class(task, 2))
    naive = {'nearest': naive_nearest, 'herding': naive_herding}[name]
    assert of_class(second, 2) == ids[naive(other(pictures(ids)), 4)].tolist()


@pytest.mark.parametrize('name', ORDERS)
@pytest.mark.parametrize('size', [20, 23])
def test_a_memory_that_holds_the_new_classes_already_does_not_change(name, size):
  """As when a second phase of a task ends: the task's images are still there, and none is taken in again."""
  task = task_pairs(2, 3, 30, 1000)
  first = keep(POLICIES[name], size, pool_of(task_pairs(0, 1, 30, 0)), embed=embedding)
  second = keep(POLICIES[name], size, pool_of(task, first), embed=embedding)
  assert keep(POLICIES[name], size, pool_of(task, second), seed=9) == second and len(second) == size


@pytest.mark.parametrize('count', [0, 3, 5])
def test_padding_comes_off_again(count):
  memory = Memory(rng().integers(0, 256, (count, 2, 3, 1)).astype(np.uint8), np.arange(count, dtype=np.int32))
  padded = memory_lib.pad(memory if count else empty((2, 3, 1)), 5)
  assert padded['images'].shape == (5, 2, 3, 1) and padded['labels'].shape == (5,)
  back = memory_lib.unpad(padded)
  np.testing.assert_array_equal(back.images, memory.images, strict=True)
  np.testing.assert_array_equal(back.labels, memory.labels, strict=True)


# The rows that a phase trains on.


def test_pool_is_the_tasks_images_and_then_the_memorys():
  pool = pool_of([(7, 2), (8, 3)], [(1, 0), (2, 1), (3, 1)])
  assert ids_of(pool.images).tolist() == [7, 8, 1, 2, 3] and pool.labels.tolist() == [2, 3, 0, 1, 1]
  assert ids_of(pool.task_images).tolist() == [7, 8]
  assert pool.is_memory.tolist() == [False, False, True, True, True]
  assert memory_lib.task_only(pool, rng()).tolist() == [0, 1]
  assert memory_lib.memory_only(pool, rng()).tolist() == [2, 3, 4]
  assert memory_lib.task_and_memory(pool, rng()).tolist() == [0, 1, 2, 3, 4]
  pool = pool_of([(100 + k, 2) for k in range(400)], [(k, 0) for k in range(8)])
  rows = memory_lib.task_and_as_many(pool, rng())  # with replacement
  assert rows[:400].tolist() == list(range(400))
  counts = np.bincount(rows[400:], minlength=408)
  assert len(rows) == 800 and counts[:400].sum() == 0 and counts[400:].min() > 20
  assert not np.array_equal(memory_lib.task_and_as_many(pool, rng(1)), rows)


# Random memories, as released: copies crowd out what is different.


def different(tasks, classes, redraw, seed):
  """How many different images a memory of 2000 holds after each task of CIFAR-100, images being mere numbers."""
  policy = ExemplarPolicy(ORDERS['random'], redraw=redraw)
  stored, counts = np.zeros(0, np.int64), []
  for task in range(tasks):
    ids = np.arange(500 * classes) + 500 * classes * task
    pool = join((ids // 500).astype(np.int32), (stored // 500).astype(np.int32))
    select = memory_lib.task_and_as_many if task else memory_lib.task_only
    draw = rng([seed, task])
    rows = kept_rows(policy, 2000, pool, select(pool, draw), None, draw)
    stored, labels = np.concatenate([ids, stored])[rows], pool.labels[rows]
    assert (np.diff(labels) >= 0).all() and len(labels) == 2000
    np.testing.assert_array_equal(stored // 500, labels)
    assert np.abs(np.bincount(labels) - 2000 / len(set(labels))).max() < 1
    counts.append(len(set(stored.tolist())))
  return counts


# As counted with the authors' code, its first seed.
RELEASED = {
  (10, 10): [2000, 1802, 1600, 1438, 1300, 1214, 1126, 1054, 1002, 943],
  (5, 20): [2000, 1795, 1606, 1437, 1319],
}


@pytest.mark.parametrize('split', RELEASED)
def test_released_memories_lose_as_many_images_as_the_authors(split):
  counts = [different(*split, True, seed) for seed in range(10)]  # one alone is off by up to 4 %
  np.testing.assert_allclose(np.mean(counts, 0), RELEASED[split], rtol=0.02)
  assert different(*split, False, 0) == [2000] * split[0]  # not redrawn: all are different


def test_redrawing_looks_at_the_rows_of_the_last_phase_alone():
  pool = pool_of([(10, 1), (11, 1), (12, 1), (13, 1)], [(0, 0), (1, 0), (2, 0), (3, 0)])
  rows = np.array([0, 1, 2, 3, 6, 6, 6, 6])
  kept = keep(ExemplarPolicy(ORDERS['random'], redraw=True), 6, pool, rows=rows)
  assert kept[:3] == [(2, 0)] * 3 and len(set(of_class(kept, 1))) == 3
  assert keep(ExemplarPolicy(ORDERS['random']), 6, pool, rows=rows)[:3] == [(0, 0), (1, 0), (2, 0)]


# What methods make of it.


def cifar_pool(task, classes, size):
  """CIFAR-100's pool in 0-based `task` of `classes` classes each, with a full memory of `size`."""
  labels = rng(task).permutation(np.repeat(np.arange(classes * task, classes * (task + 1)), 500))
  stored = np.repeat(np.arange(classes * task), quotas(size, np.full(classes * task, 500)))
  return join(labels.astype(np.int32), stored.astype(np.int32))


@pytest.mark.parametrize(
  ('classes', 'sizes'),
  [
    (10, [400, 300, 240, 250, 240, 210, 160, 180, 200]),  # k = 20, 10, 6, 5, 4, 3, 2, 2, 2
    (20, [400, 300, 240, 200]),  # k = 10, 5, 3, 2
  ],
)
def test_bic_holds_out_as_many_as_the_authors(classes, sizes):
  made = bic.make(default())
  assert made.memory == POLICIES['herding']
  assert [phase.data for phase in made.first] == [memory_lib.task_only]
  stage_one, stage_two = made.phases(1)
  for task, size in enumerate(sizes, start=1):
    pool = cifar_pool(task, classes, 2000)
    held_out, rest = stage_two.data(pool, rng()), stage_one.data(pool, rng())
    assert len(held_out) == size
    assert sorted([*held_out, *rest]) == list(range(500 * classes + 2000))
    seen = classes * (task + 1)
    assert np.bincount(pool.labels[held_out]).tolist() == [size // seen] * seen
    for c in range(seen):  # of a stored class, those that it would keep the longest
      first = np.flatnonzero(pool.labels == c)[: size // seen]
      np.testing.assert_array_equal(np.sort(held_out[pool.labels[held_out] == c]), first)


@pytest.mark.parametrize(
  ('held_out', 'why'),
  [
    (0.2, 'BiC holds 0 images of each class out of a memory of 9'),  # 1 image for two classes
    (0.5, 'BiC holds 2 images of each class .* the smallest class has 2'),  # nothing would be left of it
  ],
)
def test_bic_says_when_it_cannot_hold_images_out(held_out, why):
  config = default()
  config.bic.held_out = held_out
  pool = pool_of([(10, 2), (11, 3), (12, 3), (13, 2)], [(k, k // 5) for k in range(9)])
  for phase in bic.make(config).phases(1):
    with pytest.raises(UserError, match=why):
      phase.data(pool, rng())
