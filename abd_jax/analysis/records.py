"""Reads a workdir into what a report is made of."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from abd_jax.analysis.diagnose import diagnose
from abd_jax.config import default, flatten
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_lines, read_results
from abd_jax.report.charts import Row
from abd_jax.report.runs import RunRecord
from abd_jax.run.logs import confusion_file, read_confusion
from abd_jax.run.workdir import fixed


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
    raise UserError(f'{folder} holds no run: it has no config.json. Give the --workdir of a run.')
  usual = flatten(json.loads(json.dumps(default().to_dict())))
  config = usual | flatten(read_json(folder / 'config.json'))
  results = read_results(folder / 'results.json') if (folder / 'results.json').exists() else {}
  if results:
    rows, seen = results['accuracy_matrix'], results['seen_accuracy']
  else:
    rows, seen = _accuracies(folder, config['extends'])
  diagnosis, pictures, note = {}, {}, ''
  if look:
    try:
      diagnosis, pictures = diagnose(folder, data_dir, tell)
    except UserError as error:
      note = f'No diagnosis: {error}'
      tell(f'{folder.name}: no diagnosis: {error}')
  counts = confusion_file(folder, len(rows) - 1)
  command = ['python', '-m', 'abd_jax.main', f'--config={folder / "config.json"}', f'--workdir={folder}_again']
  return RunRecord(
    name=folder.name,
    config=config,
    results=results,
    rows=rows,
    seen=seen,
    confusion=read_confusion(counts) if counts.exists() else None,
    phases=read_lines(folder / 'phases.jsonl'),
    changed={
      name: (value, usual.get(name))
      for name, value in fixed(config).items()
      if value != usual.get(name) and name != 'data.fingerprint'
    },
    command=shlex.join(command),
    diagnosis=diagnosis,
    pictures=pictures,
    note=note,
  )


def _accuracies(folder: Path, base: str) -> tuple[list[Row], list[float | None]]:
  """(rows of the accuracy matrix, accuracy over all classes seen) by metrics.jsonl, as far as the run has come.

  base: the workdir that the run extends, or ''. The rows of its tasks are in its results. Raises UserError if they are
  gone.
  """
  first = {'accuracy_matrix': [], 'seen_accuracy': []}
  if base:
    if not (Path(base) / 'results.json').exists():
      raise UserError(
        f'{folder} extends {base}, which has no results.json. Put it back, or report on the run when it ends.'
      )
    first = read_results(Path(base) / 'results.json')
  evaluated = [one for one in read_lines(folder / 'metrics.jsonl') if one.get('phase') == 'evaluating']
  rows = [*first['accuracy_matrix'], *(one['accuracy'] for one in evaluated)]
  return rows, [*first['seen_accuracy'], *(one['seen_accuracy'] for one in evaluated)]
