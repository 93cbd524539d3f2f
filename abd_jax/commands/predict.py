"""abd-jax predict WORKDIR IMAGE... | FOLDER | -    names the classes of images with the model of a finished run

  -               reads the names of image files from standard input, one a line
  --format=table  table: the likeliest classes; csv or jsonl: the probability of every class
  --top=3         classes in a row of the table
  --task=N        the model after task N, from 1; works for an unfinished run too

Images are turned as EXIF says and made grey or RGB with 8 bits; transparent pixels become white. Photographs are cut
and resized as the run's test images were. Models of other data sets take images of one size only. White becomes the
model's highest value, which is 16 for digits. Nothing is printed unless every image can be read and fits.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.commands import Words, parse
from abd_jax.data import folders
from abd_jax.errors import UserError


def run(words: list[str]) -> None:
  """Prints a row for each image. Raises UserError for a mistake."""
  given = parse(__doc__, words, {'format': PRINTERS, 'top': (), 'task': ()}, range(2, sys.maxsize))
  form, top = given.options.get('format', 'table'), whole(given, 'top', 3)
  listed = lambda word: sys.stdin.read().removeprefix('\ufeff').splitlines() if word == '-' else [word]
  files = folders.image_paths([path for word in given.rest[1:] for path in listed(word) if path])
  model = open_model(given.rest[0], given)
  names, probabilities = model.predict(files)
  PRINTERS[form](files, names, probabilities, model.class_names, top)


def whole(given: Words, name: str, otherwise: int) -> int:
  """The option `name` as a whole number of at least 1."""
  text = given.options.get(name, str(otherwise))
  if not text.isdecimal() or not int(text):
    raise UserError(f'--{name}: expected an integer >= 1, got {text!r}.')
  return int(text)


def open_model(workdir: str, given: Words, class_names: Sequence[str] = ()) -> Any:
  """The LoadedModel of a finished run, or of the task that --task names, or of a file with these classes."""
  task = whole(given, 'task', 1) - 1 if 'task' in given.options else None
  folder = Path(os.path.expanduser(workdir)).absolute()
  if task is None and (folder / 'config.json').exists() and not (folder / 'results.json').exists():
    raise UserError(f'the run in {folder} is not finished. Resume it, or use the model after a task with --task=1.')
  from abd_jax.run.load import load_model

  return load_model(folder, task, class_names)


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
