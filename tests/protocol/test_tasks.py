"""abd_jax.protocol.tasks: the benchmark's class orders, splits, relabelling, and every mistake a user can make."""

from contextlib import nullcontext

import numpy as np
import pytest
from conftest import refused

from abd_jax.protocol.tasks import Tasks, class_order, parse_class_order, split

# Published with the benchmark; the same as Python's random.seed(trial), random.shuffle.
CIFAR100_TRIAL_0 = """
  23 8 11 7 48 13 1 91 94 54 16 63 52 41 80 2 47 87 78 66 19 6 24 10 59 30 22 29 83 37 93 81 43 99 86
  28 34 88 44 14 84 70 4 20 15 21 31 76 57 67 73 50 69 25 98 46 96 0 72 35 58 92 3 95 56 90 26 40 55
  89 75 71 60 42 9 82 39 18 77 68 32 79 12 85 36 17 64 27 74 45 61 38 51 62 65 33 5 53 97 49"""


def ids(text):
  return tuple(map(int, text.split()))


@pytest.mark.parametrize(
  'num_classes, trial, start',
  [
    (100, 0, ids(CIFAR100_TRIAL_0)),
    (100, 1, (53, 37, 65, 51, 4, 20, 38, 9, 10, 81, 44, 36, 84, 50, 96)),
    (100, 2, (0, 76, 61, 63, 1, 71, 2, 6, 16, 19, 13, 24, 49, 12, 75)),
    (200, 0, (131, 181, 22, 172, 144, 92, 97, 187, 58, 93, 6, 70, 106, 68, 153, 168, 179, 199, 29, 46)),
  ],
)
def test_class_order_is_the_published_one(num_classes, trial, start):
  order = class_order(num_classes, trial)
  assert order[: len(start)] == start
  assert sorted(order) == list(range(num_classes))


NAMES = ('ape', 'bee', 'cat', 'polar bear')


def test_parse_class_order(tmp_path):
  assert parse_class_order('', [str(k) for k in range(100)], 1) == class_order(100, 1)
  for text in ('3,1,0, 2', '03 1 0 2'):
    assert parse_class_order(text, NAMES, 1) == (3, 1, 0, 2)
  assert parse_class_order('0', NAMES[:1], 1) == (0,)
  assert parse_class_order('polar bear\nbee\nape\ncat', NAMES, 1) == (3, 1, 0, 2)
  assert parse_class_order('polar bear,bee, ape,cat', NAMES, 1) == (3, 1, 0, 2)
  path = tmp_path / 'order.txt'
  for content in ('3, 1\n0\t2\n', 'polar bear\nbee\n\n ape\ncat', 'polar bear, bee,ape,cat', '\ufeff3 1 0 2'):
    path.write_text(content)
    assert parse_class_order(str(path), NAMES, 1) == (3, 1, 0, 2)
  path.write_text('\ufeffpolar bear\r\nbee\r\nape\r\ncat\r\n')  # as editors on Windows write it
  assert parse_class_order(str(path), NAMES, 1) == parse_class_order(f'names:{path}', NAMES, 1) == (3, 1, 0, 2)


@pytest.mark.parametrize(
  'names, text, order',
  [
    (range(12), '11,10,9,8,7,6,5,4,3,2,1,0', tuple(range(11, -1, -1))),  # name and id are the same
    (range(10, 16), '15,10,11,12,13,14', (5, 0, 1, 2, 3, 4)),
    (range(1, 4), '3,1,2', (2, 0, 1)),
    (('007', '008', '009'), '009 007 008', (2, 0, 1)),
    (('00', '01', '02'), '2,0,1', (2, 0, 1)),
    (range(1, 4), 'ids:2,0,1', (2, 0, 1)),
    ('201', 'names:2,0,1', (0, 1, 2)),
    ('201', 'ids:2,0,1', (2, 0, 1)),
    (('cafe\u0301', 'owl'), 'owl,caf\xe9', (1, 0)),  # one name in two forms of Unicode
    ('201', '2,0,1', None),
    ('123', '2,0,1', None),
    ('1234', '0\n1\n2\n3', None),
  ],
)
def test_numbers_are_names_where_classes_have_such_names_and_refused_where_they_may_be_ids(names, text, order):
  with refused('is the name of one class and the id of another', 'ids:', 'names:') if not order else nullcontext():
    assert parse_class_order(text, [str(name) for name in names], 0) == order


@pytest.mark.parametrize(
  'content, words',
  [
    ('0,1,2', ['3', 'missing', '3 of 4']),
    ('0,1,2,1', ['1', 'listed twice']),
    ('0,1,2,4', ["'4'", 'from 0 to 3']),
    ('no_such_file.txt', ["'no_such_file.txt'", 'No such file']),
    ('ape', ["'ape' cannot be read", 'numpy:1993', 'cat,dog', 'ids:']),
    ('0,one,2,3', ["the name of a class, got '0'"]),
    ('ape\nbee\ncat\npolar bar', ["'polar bar'", "'polar bear'?"]),
    ('ape\ncat\n', ["'bee'", 'missing', '2 of 4']),
    (b'0 1 2 x', ["'0 1 2 x'"]),
    (b' \n', ["class '0' is missing"]),
    ('names:0,1,2,3', ["the name of a class, got '0'"]),
    ('ids:ape,bee', ["an id from 0 to 3, got 'ape'"]),
    ('numpy:', ["'numpy:'", 'numpy:1993']),
    (b'\xff\xfe\x00', ['order.txt', 'not a text file']),
  ],
)
def test_a_wrong_class_order_is_named(tmp_path, content, words):
  """Text, or the bytes of a file."""
  if isinstance(content, bytes):
    (tmp_path / 'order.txt').write_bytes(content)
    content = str(tmp_path / 'order.txt')
  with refused('class_order', *words):
    parse_class_order(content, NAMES, 0)


@pytest.mark.parametrize(
  'arguments, sizes',
  [
    (dict(num_classes=100, num_tasks=5), (20,) * 5),
    (dict(num_classes=10, num_tasks=1), (10,)),
    (dict(num_classes=100, num_tasks=6, first_task_classes=50), (50, 10, 10, 10, 10, 10)),
    (dict(num_classes=10, num_tasks=1, first_task_classes=10), (10,)),
    (dict(num_classes=1000, num_tasks=5, task_sizes=[10] * 5), (10,) * 5),
    (dict(num_classes=10, num_tasks=3, task_sizes=(5, 1, 4)), (5, 1, 4)),
    (dict(num_classes=5, num_tasks=2, uneven=True), (3, 2)),
    (dict(num_classes=11, num_tasks=4, uneven=True), (3, 3, 3, 2)),
    (dict(num_classes=6, num_tasks=2, uneven=True), (3, 3)),
    (dict(num_classes=10, num_tasks=4, first_task_classes=2, uneven=True), (2, 3, 3, 2)),
    (dict(num_classes=10, num_tasks=7, task_sizes=(5, 5)), (5, 5)),  # its length is the number of tasks
  ],
)
def test_split(arguments, sizes):
  assert split(**arguments) == sizes


@pytest.mark.parametrize(
  'arguments, words',
  [
    (dict(num_classes=100, num_tasks=7), ['100 classes', '7 equal tasks', 'config.tasks to 5 or 10']),
    (dict(num_classes=10, num_tasks=11), ['10 classes', 'config.tasks to 10,']),
    (dict(num_classes=10, num_tasks=0), ['config.tasks', 'at least 1', 'got 0']),
    (dict(num_classes=100, num_tasks=4, first_task_classes=50), ['50 classes', '3 equal', 'to 3 or 6']),
    (dict(num_classes=10, num_tasks=3, first_task_classes=9), ['first_task_classes=9', 'set it to 1..8']),
    (dict(num_classes=10, num_tasks=2, first_task_classes=-1), ['first_task_classes=-1', 'set it to 1..9']),
    (dict(num_classes=10, num_tasks=1, first_task_classes=4), ['leaves 6 of 10', 'config.tasks to 2']),
    (dict(num_classes=10, num_tasks=2, task_sizes=(5, 6)), ['11', '10 classes']),
    (dict(num_classes=10, num_tasks=2, task_sizes=(5, 0)), ['at least 1', 'got 0']),
    (dict(num_classes=10, num_tasks=1, task_sizes=(5,), first_task_classes=5), ['exclude each other']),
  ],
)
def test_split_says_what_is_wrong(arguments, words):
  with refused(*words):
    split(**arguments)


def test_tasks_and_relabelling():
  few = Tasks(order=(3, 1, 4, 0, 2), sizes=(2, 1))
  assert (few.num_tasks, few.num_classes, few.original_ids(0), few.original_ids(1)) == (2, 5, (3, 1), (4,))
  np.testing.assert_array_equal(few.task_of_class, np.array([0, 0, 1, 2, 2], np.int32), strict=True)
  tasks = Tasks(class_order(100, 0), split(100, 10))
  original = np.arange(100).reshape(4, 25)
  learning = tasks.learning_labels(original)
  assert learning.dtype == np.int32
  np.testing.assert_array_equal(np.array(tasks.order)[learning], original)
  assert learning.flat[23] == 0  # Class 23 comes first in trial 0.
  for task in range(tasks.num_tasks):
    learned = tasks.learning_labels(np.array(tasks.original_ids(task)))
    np.testing.assert_array_equal(learned, np.arange(10 * task, 10 * task + 10))
    np.testing.assert_array_equal(tasks.task_of_class[learned], task)
