"""abd-jax predict WORKDIR IMAGE... | FOLDER | -    names the classes of images with the model of a finished run

  -               reads the names of image files from standard input, one a line
  --format=table  table: the likeliest classes; csv or jsonl: the probability of every class
  --top=3         classes in a row of the table
  --task=N        the model after task N, from 1; works for an unfinished run too

Images are turned as EXIF says and made grey or RGB with 8 bits; transparent pixels become white. Photographs are cut
and resized as the run's test images were. Models of other data sets take images of one size only. Values must lie in
the model's range, which is 0 to 16 for digits. Nothing is printed unless every image can be read and fits.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.commands.options import Words, parse
from abd_jax.data import folders, prepare
from abd_jax.errors import UserError

BATCH = 250  # images in memory at once


def run(words: list[str]) -> None:
  """Prints a row for each image. Raises UserError for a mistake."""
  given = parse(words, ('format', 'top', 'task'))
  form, top = given.options.get('format', 'table'), whole(given, 'top', 3)
  if form not in PRINTERS:
    raise UserError(f'--format={form}: expected one of {", ".join(PRINTERS)}.')
  if len(given.rest) < 2:
    raise UserError('expected a workdir and images, as in abd-jax predict runs/digits photo.png.')
  files = image_files(given.rest[1:])
  model = open_model(given.rest[0], given)
  names, probabilities = predict(model, files)
  PRINTERS[form](files, names, probabilities, model.class_names, top)


def whole(given: Words, name: str, otherwise: int) -> int:
  """The option `name` as a whole number of at least 1."""
  text = given.options.get(name, str(otherwise))
  if not text.isdecimal() or not int(text):
    raise UserError(f'--{name}: expected an integer >= 1, got {text!r}.')
  return int(text)


def open_model(workdir: str, given: Words) -> Any:
  """The LoadedModel of a finished run, or of the task that --task names."""
  task = whole(given, 'task', 1) - 1 if 'task' in given.options else None
  folder = Path(os.path.expanduser(workdir)).absolute()
  if task is None and (folder / 'config.json').exists() and not (folder / 'results.json').exists():
    raise UserError(f'the run in {folder} is not finished. Resume it, or use the model after a task with --task=1.')
  from abd_jax.run.load import load_model

  return load_model(folder, task)


def image_files(words: Sequence[str]) -> list[Path]:
  """The image files that `words` name: files, folders as for training, or - for names on standard input."""
  files = []
  for word in words:
    path = Path(word)
    if word == '-':
      files += [Path(line) for line in sys.stdin.read().splitlines() if line]
    elif path.is_dir():
      files += sorted(folders.image_files(path))
    else:
      files.append(path)
  if not files:
    raise UserError(f'no image in {" ".join(words)}; expected files that end in {" ".join(sorted(folders.SUFFIXES))}.')
  return files


def predict(model: Any, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
  """(str[n] the likeliest class of each file, f32[n, c] probabilities). A terminal shows a bar for many files."""
  from tqdm import tqdm

  # In parts of one size, since each size is compiled for.
  size = -(-len(files) // -(-len(files) // BATCH))
  hidden = len(files) <= BATCH or not sys.stderr.isatty()
  parts = []
  with tqdm(total=len(files), unit='image', disable=hidden) as bar:
    for start in range(0, len(files), size):
      images = [read_image(file, model.image_shape, model.config.data) for file in files[start : start + size]]
      parts.append(model.predict(np.stack(images), batch_size=size))
      bar.update(len(images))
  names, probabilities = zip(*parts, strict=True)
  return np.concatenate(names), np.concatenate(probabilities)


def read_image(file: Path, shape: tuple[int, int, int], data: Any = None) -> np.ndarray:
  """The pixels u8[h, w, c] of an image file. A photograph has those that it would have as a test image of the run.

  Args:
    shape: (h, w, c) of the model's images.
    data: config.data of the run; None: the image is not cut, and values are not checked.

  Raises:
    UserError: the file cannot be read, or its size or values are not those that the model takes.
  """
  from abd_jax.data import images

  try:
    image = images.plain(file.read_bytes(), shape[-1])[0]
  except images.BadImage as error:
    raise UserError(f'image {file} cannot be read (it {error}). Repair it, or leave it out.') from error
  except OSError as error:
    raise UserError(f'image {file} cannot be read ({error.strerror or error}). Repair it, or leave it out.') from error
  if data and (stored := prepare.stored_size(data.name, shape[:2], data.crop)):
    image = images.resize(image, stored, images.square_box(image.width, image.height))
  if data and data.crop == 'resized':
    image = images.resize(image, shape[:2], images.centre_box(image.width, image.height))
  found = images.pixels(image)
  if found.shape[:2] != shape[:2]:
    height, width = found.shape[:2]
    raise UserError(f'image {file}: expected {shape[0]}x{shape[1]} pixels, got {height}x{width}. Resize it.')
  if data and found.max() > data.max_value:
    raise UserError(
      f'image {file}: expected values from 0 to {data.max_value:g}, got {found.max()}. Scale them to that range.'
    )
  return found.reshape(shape)


def preparation(shape: Sequence[int], data: Any) -> list[str]:
  """The steps of `read_image` in words and in order, for users who prepare images elsewhere."""
  height, width, channels = shape
  steps = ['turned upright as EXIF says', f'{"grey" if channels == 1 else "RGB"}, 8 bits, transparent pixels white']
  square = 'the largest centred square resized to {}x{}, bilinearly over all pixels it covers'
  if stored := prepare.stored_size(data.name, (height, width), data.crop):
    steps.append(square.format(*stored))
  if data.crop == 'resized':
    steps.append(f'the centred square of 224/256 of the short side resized to {height}x{width}, likewise')
  return steps


def _print_table(files, names, probabilities, class_names, top: int) -> None:
  from abd_jax.report.tables import table

  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :top]
  header = ['image'] + ['class', 'probability'] * order.shape[1]
  cell = lambda row, k: [class_names[k], f'{100 * row[k]:.1f} %']
  rows = [
    [str(file), *(word for k in likeliest for word in cell(row, k))]
    for file, row, likeliest in zip(files, probabilities, order, strict=True)
  ]
  print(table(header, rows))


def _print_csv(files, names, probabilities, class_names, top: int) -> None:
  writer = csv.writer(sys.stdout, lineterminator='\n')
  writer.writerow(['image', 'class', *class_names])
  writer.writerows(
    [file, name, *(f'{value:.6g}' for value in row)]
    for file, name, row in zip(files, names, probabilities, strict=True)
  )


def _print_jsonl(files, names, probabilities, class_names, top: int) -> None:
  for file, name, row in zip(files, names, probabilities, strict=True):
    of_class = dict(zip(class_names, map(float, row), strict=True))
    print(json.dumps({'image': str(file), 'class': str(name), 'probabilities': of_class}, ensure_ascii=False))


PRINTERS = {'table': _print_table, 'csv': _print_csv, 'jsonl': _print_jsonl}
