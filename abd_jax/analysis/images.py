"""The real images behind a run, all tasks at once: for looking at a run that is over, never for training one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from abd_jax.config import restored
from abd_jax.data.sources import open_dataset
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.workdir import read_json


class RealImages(NamedTuple):
  """Raw images u8[n, h, w, c] and learning labels i32[n] of the classes a run has met.

  white: the raw value of white.
  """

  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray
  white: float


def read_images(workdir: Path, tasks: Tasks, upto: int, data_dir: str = '') -> RealImages:
  """Those of tasks 0 .. upto of the run in `workdir`, folds as it had them.

  data_dir: where the prepared data lie; '' for where the run found them. Nothing is downloaded. Raises UserError if
  they are not there.
  """
  where = restored(read_json(workdir / 'config.json')).data
  data = open_dataset(where.name, data_dir or where.dir, folds=where.folds, fold=where.fold, download=False)
  known = [original for task in range(upto + 1) for original in tasks.original_ids(task)]
  train, train_labels = data.train(known)
  test, test_labels = data.test(known)
  return RealImages(
    train, tasks.learning_labels(train_labels), test, tasks.learning_labels(test_labels), where.max_value
  )
