"""abd-jax evaluate WORKDIR [FOLDER]    tests the model of a finished run on labelled images

  --json=FILE        writes all numbers; - for standard output, which then holds nothing else
  --csv=FILE         writes the confusion matrix: a row for each true class, a column for each predicted one
  --task=N           the model after task N, from 1; works for an unfinished run too
  --data_dir=FOLDER  where the run's prepared data are now; default: where the run found them

FOLDER holds CLASS/*, or test/CLASS/* as for training. Its files are read as by abd-jax predict. Classes that the model
does not know are left out. WORKDIR may be a pretrained network's safetensors file, whose classes are then the folders
in FOLDER, sorted by name. Without FOLDER the images are the run's own test images.

Task-aware accuracy is that of predicting among the classes of the image's own task. The calibration error (ECE) is the
mean difference of confidence and accuracy over 15 bins of confidence. Without FOLDER the numbers equal those in
results.json if the run had the same device.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from abd_jax.commands import file_to_write, parse
from abd_jax.commands.predict import open_model
from abd_jax.data.folders import image_files, natural, own_images, subfolders
from abd_jax.errors import UserError
from abd_jax.protocol import metrics

ACCURACIES = ('accuracy', 'top5_accuracy', 'task_aware_accuracy')
MOST_MISTAKES = 10  # shown of a confusion matrix that is too wide for the terminal


def run(words: list[str]) -> None:
  """Prints and writes the numbers. Raises UserError for a mistake; OSError if a file cannot be written."""
  given = parse(__doc__, words, {'json': (), 'csv': (), 'task': (), 'data_dir': ()}, (1, 2))
  for name in given.options.keys() & {'json', 'csv'}:
    file_to_write(given.options[name])
  workdir = Path(os.path.expanduser(given.rest[0])).absolute()
  folder, of_file = Path(os.path.expanduser(given.rest[-1])).absolute(), workdir.is_file()
  model = open_model(str(workdir), given, sorted(subfolders(folder)) if of_file and given.rest[1:] else ())
  if given.rest[1:]:
    from abd_jax.run.load import ImageFiles

    files, labels, where = labelled_files(folder, model)
    if not of_file:
      warn_of_training(Path(where['folder']), workdir)
    with ImageFiles(files, model.reading) as images:
      found = where | numbers(model, images, labels)
  else:
    from abd_jax.run.extend import stream_of_run

    source = stream_of_run(workdir, given.options.get('data_dir', '')).test(model.task)
    found = numbers(model, source, source.labels)
  from abd_jax.files import write_atomically
  from abd_jax.run.logs import write_confusion

  if file := given.options.get('csv'):
    write_confusion(Path(file), model.class_names, np.array(found['confusion']))
  if (file := given.options.get('json', '')) and file != '-':
    write_atomically(Path(file), json.dumps(found, ensure_ascii=False, indent=1) + '\n')
  print(json.dumps(found, ensure_ascii=False) if file == '-' else '\n'.join(_lines(found)))


def labelled_files(folder: Path, model: Any) -> tuple[list[Path], np.ndarray, dict[str, Any]]:
  """The images of the model's classes in `folder`, or in its test split if it has no folder of such a class.

  Returns (files, their learning labels i32[n], {'folder': where they are, 'left_out': {folder of another class: number
  of images}}). Raises UserError if there are none.
  """
  from abd_jax.data.builders.image_folder import named_splits, unwrapped

  labels = {normalize('NFC', name): label for label, name in enumerate(model.class_names)}
  classes = subfolders(folder)
  if not classes.keys() & labels.keys():
    splits = [unwrapped(place) for place in named_splits(classes).get('test', ()) if subfolders(place)]
    folder, classes = (splits[0], subfolders(splits[0])) if splits else (folder, classes)
  of_class = {name: [file for place in places for file in image_files(place)] for name, places in classes.items()}
  left_out = {name: len(files) for name, files in of_class.items() if files and name not in labels}
  known = [(file, labels[name]) for name, files in of_class.items() if name in labels for file in files]
  if not known:
    raise UserError(
      f'{folder} has no images of the classes that the model knows: expected folders such as '
      f'{", ".join(model.class_names[:3])}, got {", ".join(list(classes)[:3]) or "no folder"}.'
    )
  task_of, order = model.task_of_class, model.tasks.order  # files in the order in which a run has its test images
  known.sort(key=lambda one: (task_of[one[1]], natural(one[0].name), order[one[1]], one[0]))
  files, of_file = zip(*known, strict=True)
  return list(files), np.array(of_file, np.int32), {'folder': str(folder), 'left_out': left_out}


def warn_of_training(folder: Path, workdir: Path) -> None:
  """Prints a line if a run took its training images from `folder` itself."""
  from abd_jax.files import read_json

  data = read_json(workdir / 'config.json')['data']
  if own_images(data['name']) and os.path.realpath(folder) == os.path.realpath(data['dir']):
    print(f'{folder} also holds the training images of this run. Leave it out to test on the others.', file=sys.stderr)


def numbers(model: Any, images: Any, labels: np.ndarray) -> dict[str, Any]:
  """What --json writes, of a LoadedModel: docs/using.md describes it. images: as for `LoadedModel.logits`, n >= 1."""
  logits, names = model.logits(images), model.class_names
  task_of_class = model.task_of_class[: len(names)]
  found = metrics.evaluate(logits, labels, task_of_class)
  of_class = np.bincount(labels, minlength=len(names))
  of_task = np.bincount(task_of_class[labels], minlength=model.task + 1)
  by_task = {name: getattr(found, name) for name in ACCURACIES}
  by_class = {'accuracy': found.class_accuracy, 'top5_accuracy': found.class_top5_accuracy}
  records = lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
  return {
    'task': model.task,
    'images': len(labels),
    **{name: metrics.weighted(row, of_task.tolist()) for name, row in by_task.items()},
    'calibration_error': metrics.calibration_error(logits, found.hits),
    'tasks': records({'images': of_task.tolist()} | by_task),
    'classes': records({'name': names, 'task': task_of_class.tolist(), 'images': of_class.tolist()} | by_class),
    'confusion': found.confusion.tolist(),
  }


def _lines(found: dict[str, Any]) -> Iterator[str]:
  from abd_jax.report.tables import percent, table

  if left_out := found.get('left_out'):
    folders = ', '.join(f'{name} ({count:,})' for name, count in left_out.items())
    yield f'left out {sum(left_out.values()):,} images of classes that the model does not know: {folders}\n'
  header = ('images', 'accuracy %', 'top 5 %', 'task-aware %')
  row = lambda one: (f'{one["images"]:,}', *(percent(one[name]) for name in ACCURACIES if name in one))
  tasks = [(f'task {task + 1}', *row(one)) for task, one in enumerate(found['tasks'])]
  yield table(('', *header), [('all', *row(found)), *tasks]) + '\n'
  yield table(('class', 'task', *header[:-1]), [(o['name'], str(o['task'] + 1), *row(o)) for o in found['classes']])
  yield f'\ncalibration error (ECE) {percent(found["calibration_error"])} %\n'
  yield _confusion([one['name'] for one in found['classes']], np.array(found['confusion']))


def _confusion(names: Sequence[str], counts: np.ndarray) -> str:
  """The matrix, or the most frequent mistakes if it is wider than the terminal."""
  from abd_jax.report.tables import table

  rows = [(name, *map(str, row)) for name, row in zip(names, counts.tolist(), strict=True)]
  whole = table(('true \\ predicted', *names), rows)
  if whole.index('\n') <= shutil.get_terminal_size().columns:
    return whole
  wrong = counts * (1 - np.eye(len(names), dtype=int))
  pairs = [divmod(int(k), len(names)) for k in np.argsort(-wrong, axis=None, kind='stable')[:MOST_MISTAKES]]
  rows = [(names[true], names[taken], f'{wrong[true, taken]:,}') for true, taken in pairs if wrong[true, taken]]
  return 'most frequent mistakes (--csv=FILE writes all)\n' + table(('true', 'predicted', 'images'), rows)
