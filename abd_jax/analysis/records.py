"""Reads a workdir into what a report is made of."""

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abd_jax.analysis.diagnose import diagnose
from abd_jax.config import default, flatten
from abd_jax.errors import Damaged, UserError
from abd_jax.files import read_json, read_lines, read_results
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
  phases, file = read_lines(folder / 'phases.jsonl'), folder / 'results.json'
  results = read_results(file) if file.exists() else _so_far(folder, config['extends'], phases)
  diagnosis, pictures, note = {}, {}, ''
  if look:
    try:
      diagnosis, pictures = diagnose(folder, data_dir, tell)
    except Damaged as error:
      raise UserError(f'{error} --no-diagnosis reports what else there is.') from error
    except UserError as error:
      note = f'No diagnosis: {error}'
      tell(f'{folder.name}: no diagnosis: {error}')
  counts = confusion_file(folder, len(results['accuracy_matrix']) - 1)
  command = ['python', '-m', 'abd_jax.main', f'--config={folder / "config.json"}', f'--workdir={folder}_again']
  return RunRecord(
    name=folder.name,
    config=config,
    results=results,
    confusion=read_confusion(counts) if counts.exists() else None,
    phases=phases,
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


def _so_far(folder: Path, base: str, phases: list[dict]) -> dict[str, Any]:
  """What results.json would hold of a run that is not complete: accuracies by metrics.jsonl, and seconds by phase.

  base: the workdir that the run extends, or ''. The accuracies of its tasks are in its results. Raises UserError if
  they are gone.
  """
  first = {'accuracy_matrix': [], 'seen_accuracy': []}
  if base:
    if not (Path(base) / 'results.json').exists():
      raise UserError(f'{folder} extends {base}, which has no results.json. Put it back, or wait until the run ends.')
    first = read_results(Path(base) / 'results.json')
  seconds = Counter()
  for one in phases:
    seconds[one['phase']] += one['seconds']
  evaluated = [one for one in read_lines(folder / 'metrics.jsonl') if one.get('phase') == 'evaluating']
  return {
    'accuracy_matrix': [*first['accuracy_matrix'], *(one['accuracy'] for one in evaluated)],
    'seen_accuracy': [*first['seen_accuracy'], *(one['seen_accuracy'] for one in evaluated)],
    'seconds': dict(seconds),
  }
