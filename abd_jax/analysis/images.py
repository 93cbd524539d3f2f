"""The real images behind a run, all tasks at once: for looking at a run that is over, never for training one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from abd_jax.config import restored
from abd_jax.data.records import Split
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.run.extend import JoinedDataset, open_stream, read_base
from abd_jax.run.workdir import resolve

MOST_BYTES = 2**29  # raw images read of each split: analyses hold them several times over


class RealImages(NamedTuple):
  """Raw images u8[n, h, w, c] and learning labels i32[n] of the classes a run has met.

  white: the raw value of white.
  """

  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray
  white: float


def read_images(workdir: Path, upto: int, data_dir: str = '') -> RealImages:
  """Those of tasks 0 .. upto of the run in `workdir`, cut, scaled and folded as it had them.

  Of large images every k-th, so that a split takes no more than MOST_BYTES. Nothing is downloaded or prepared.

  Args:
    data_dir: where the prepared data lie; '' for where the run found them.

  Raises:
    UserError: they are not there, or the run extends one of other data.
  """
  config = resolve(restored(read_json(workdir / 'config.json'))).unlock()
  config.data.dir = data_dir or config.data.dir
  stream = open_stream(config.lock(), read_base(config.extends) if config.extends else None, prepare=False)
  if isinstance(stream.dataset, JoinedDataset):
    raise UserError(f'{workdir.name} extends a run on other data, whose training images it cannot read.')
  known = [original for task in range(upto + 1) for original in stream.tasks.original_ids(task)]
  train, test = _some(stream.dataset.train_split(known)), _some(stream.dataset.test_split(known))
  labels = stream.tasks.learning_labels
  return RealImages(
    *(train.decode()[0], labels(train.labels)), *(test.decode()[0], labels(test.labels)), config.data.max_value
  )


def _some(split: Split) -> Split:
  """As many of its images as fit, evenly in their order on disk."""
  every = max(1, -(-len(split) * int(np.prod(split.view.shape)) // MOST_BYTES))
  return split.take(np.arange(0, len(split), every))
