"""Copies metrics.jsonl to TensorBoard event files and a CSV. Reads and writes confusion matrices."""

import contextlib
import csv
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from abd_jax.errors import UserError

COLUMNS = ('task', 'phase', 'step', 'metric', 'value')


def values_of(record: dict) -> Iterator[tuple[str, float]]:
  """(metric, value) of each measurement in a record. A list gives one for each task, such as 'accuracy_task_0'."""
  for name, value in record.items():
    if isinstance(value, list):  # None where there are no test images
      yield from ((f'{name}_task_{k}', one) for k, one in enumerate(value) if one is not None)
    elif name not in COLUMNS and value is not None:
      yield name, value


class MetricWriters:
  """Writes `tensorboard/` and `metrics.csv` of a workdir from its metrics.jsonl and its pictures.

  Each process begins both anew, so that a resumed run has no point twice. The CSV has a line for each value: task
  (0-based), phase, step of the phase, metric, value. TensorBoard counts the steps of all phases, and shows the dreams
  of a task when the next task begins.

  Events are written in the calling thread. tensorboardX's SummaryWriter has a thread of its own, which on a full disk
  ends without a word; the run then waits for ever.
  """

  def __init__(self, workdir: Path):
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    board, messages = workdir / 'tensorboard', cast(Any, event_pb2)
    shutil.rmtree(board, ignore_errors=True)
    board.mkdir(exist_ok=True)  # it still exists if another program has a file in it open
    self._summary, self._event = summary, messages.Event
    self._events = event_file_writer.EventsWriter(str(board / 'events'))
    self._workdir, self._task = workdir, 0
    self._before, self._phase, self._step = 0, (0, ''), 0
    self._csv = open(workdir / 'metrics.csv', 'w', newline='')  # noqa: SIM115  (open as long as the run)
    self._rows = csv.writer(self._csv, lineterminator='\n')
    self._rows.writerow(COLUMNS)
    if (workdir / 'metrics.jsonl').exists():
      for line in (workdir / 'metrics.jsonl').read_text().splitlines():
        self.write(json.loads(line))

  def write(self, record: dict) -> None:
    """Copies one record of metrics.jsonl."""
    task, phase = record['task'], record['phase']
    if task > self._task:
      self._show_dreams(self._workdir / 'dreams' / f'task_{task}.png')
      self._task = task
    if 'step' in record:
      if self._phase != (task, phase):
        self._before, self._phase = self._before + self._step, (task, phase)
      self._step = record['step']
    else:
      with contextlib.suppress(OSError, UserError):  # missing or damaged: a picture less
        counts = read_confusion(confusion_file(self._workdir, task))[1]
        self._show(self._summary.image('confusion', matrix_picture(counts), dataformats='HWC'))
    for name, value in values_of(record):
      self._rows.writerow((task, phase, record.get('step', ''), name, value))
      self._show(self._summary.scalar(f'{phase}/{name}', value))
    self._csv.flush()
    self._events.flush()

  def _show(self, summary: Any) -> None:
    """Adds a number or a picture to TensorBoard, at the current step."""
    self._events.write_event(self._event(summary=summary, step=self._before + self._step, wall_time=time.time()))

  def _show_dreams(self, file: Path) -> None:
    if file.exists():
      from PIL import Image

      # PIL raises many kinds of errors for a damaged file; the board then lacks the picture.
      with contextlib.suppress(Exception), Image.open(file) as picture:
        self._show(self._summary.image('dreams', np.asarray(picture.convert('RGB')), dataformats='HWC'))

  def close(self) -> None:
    try:
      self._csv.close()
    finally:
      self._events.close()


def matrix_picture(counts: np.ndarray, side: int = 480) -> np.ndarray:
  """u8[h, w, 3]: counts [r, c] as shades of blue, each row as shares of its sum; about `side` pixels high."""
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  white, full = np.array([255.0, 255, 255]), np.array([0.0, 114, 178])
  shades = np.round(white + shares[:, :, None] * (full - white)).astype(np.uint8)
  return shades.repeat(max(1, side // len(counts)), 0).repeat(max(1, side // len(counts)), 1)


def confusion_file(workdir: Path, task: int) -> Path:
  """The file of the confusion matrix after 0-based `task`."""
  return workdir / 'confusion' / f'task_{task + 1}.csv'


def write_confusion(file: Path, class_names: Sequence[str], counts: np.ndarray) -> None:
  """A CSV of counts i[c, c]: a row for each true class, a column for each predicted one, in learning order."""
  file.parent.mkdir(exist_ok=True)
  with file.open('w', newline='') as opened:
    rows = csv.writer(opened, lineterminator='\n')
    rows.writerow(['true \\ predicted', *class_names])
    rows.writerows([name, *row] for name, row in zip(class_names, counts.tolist(), strict=True))


def read_confusion(file: Path) -> tuple[list[str], np.ndarray]:
  """(class names, counts i[c, c]) of what `write_confusion` wrote. Raises UserError if it is damaged."""
  try:
    with file.open(newline='') as opened:
      header, *rows = csv.reader(opened)
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    if counts.shape != (len(header) - 1,) * 2:
      raise ValueError(f'expected a square table, got {counts.shape}')
  except (ValueError, csv.Error) as error:
    raise UserError(f'{file} is damaged: put it back as it was, or delete it.') from error
  return header[1:], counts
