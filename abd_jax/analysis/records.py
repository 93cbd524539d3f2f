"""Reads a workdir into what a report is made of."""

import contextlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path

from abd_jax.analysis.diagnose import diagnose
from abd_jax.config import default, flatten, reads
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_lines, read_results
from abd_jax.report.runs import Row, RunRecord
from abd_jax.run.logs import confusion_file, read_confusion
from abd_jax.run.workdir import FREE_FIELDS


def read_run(
  workdir: str | Path, data_dir: str = '', look: bool = True, tell: Callable[[str], None] = lambda text: None
) -> RunRecord:
  """The run in `workdir`, finished or not, with its diagnosis.

  Args:
    workdir: of the run.
    data_dir: where its prepared data lie; '' for where the run found them. Without data there is no diagnosis.
    look: whether to make the diagnosis.
    tell: called with a line about what takes time, or is missing.

  Raises:
    UserError: no run there, or a damaged file.
  """
  folder = Path(workdir).absolute()
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run: it has no config.json. Name the --workdir of one.')
  usual = flatten(json.loads(json.dumps(default().to_dict())))
  config = usual | flatten(read_json(folder / 'config.json'))
  free = tuple(name for name in config if name in FREE_FIELDS or not reads(config['method'], name))
  results = read_results(folder / 'results.json') if (folder / 'results.json').exists() else None
  rows, seen = _accuracies(folder, str(config['extends']))
  if results:
    rows, seen = results['accuracy_matrix'], results['seen_accuracy']
  diagnosis, pictures, note = None, {}, ''
  if look:
    try:
      diagnosis, pictures = diagnose(folder, data_dir, tell)
    except UserError as error:
      note = f'No diagnosis: {error}'
      tell(f'{folder.name}: no diagnosis: {error}')
  counts = confusion_file(folder, len(rows) - 1)
  names, confusion = read_confusion(counts) if counts.exists() else ([], None)
  return RunRecord(
    name=folder.name,
    config=config,
    results=results,
    rows=rows,
    seen=seen,
    class_names=tuple(names),
    confusion=confusion,
    phases=read_lines(folder / 'phases.jsonl'),
    changed={
      name: (value, usual.get(name))
      for name, value in config.items()
      if value != usual.get(name) and name not in free and name != 'data.fingerprint'
    },
    command=shlex.join(
      ['python', '-m', 'abd_jax.main', f'--config={folder / "config.json"}', f'--workdir={folder}_again']
    ),
    diagnosis=diagnosis,
    pictures=pictures,
    note=note,
    free=free,
  )


def _accuracies(folder: Path, base: str) -> tuple[list[Row], Row]:
  """(rows of the accuracy matrix, accuracy over all classes seen) by metrics.jsonl, as far as the run has come.

  base: the workdir that the run extends, or ''. The rows of its tasks are in its results; None if they are gone.
  """
  known: dict[int, tuple[Row, float | None]] = {}
  if base:
    with contextlib.suppress(OSError, UserError):
      results = read_results(Path(base) / 'results.json')
      known |= enumerate(zip(results['accuracy_matrix'], results['seen_accuracy'], strict=True))
  for record in read_lines(folder / 'metrics.jsonl'):
    if record.get('phase') == 'evaluating':
      known[record['task']] = record['accuracy'], record['seen_accuracy']
  tasks = range(1 + max(known, default=-1))
  every = [known.get(task, ([None] * (task + 1), None)) for task in tasks]
  return [row for row, _ in every], [seen for _, seen in every]
