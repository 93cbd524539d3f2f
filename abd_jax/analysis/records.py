"""Reads a workdir into what a report is made of."""

import contextlib
import importlib.util
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from abd_jax.analysis.diagnose import look_into, read_pictures
from abd_jax.config import default, flatten, reads
from abd_jax.errors import UserError
from abd_jax.files import read_json, read_lines, read_results
from abd_jax.report.runs import Row, RunRecord
from abd_jax.run.logs import confusion_file, read_confusion
from abd_jax.run.workdir import FREE_FIELDS

CONFIGS = Path(__file__).parents[2] / 'configs'  # of a checkout


def read_run(
  workdir: str | Path, data_dir: str = '', look: bool = True, tell: Callable[[str], None] = lambda text: None
) -> RunRecord:
  """The run in `workdir`, finished or not, its diagnosis made if need be.

  Args:
    data_dir: where its prepared data lie; '' for where the run found them. Without them there is no diagnosis.
    look: whether to make the diagnosis.
    tell: called with a line about what takes time, or is missing.

  Raises:
    UserError: no run there, or a damaged file.
  """
  folder = Path(workdir).absolute()
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} holds no run: it has no config.json. Name the --workdir of one.')
  config = flatten(default().to_dict()) | flatten(read_json(folder / 'config.json'))
  results = read_results(folder / 'results.json') if (folder / 'results.json').exists() else None
  rows, seen = _accuracies(folder, '' if results else str(config['extends']))
  if results:
    rows, seen = results['accuracy_matrix'], results['seen_accuracy']
  diagnosis, pictures, note = None, {}, ''
  if look:
    diagnosis, pictures, note = _look(folder, data_dir, tell)
  names, confusion = _confusion(folder, len(rows) - 1)
  order = results['class_order']['names'] if results else (diagnosis or {}).get('class_names', names)
  learnt = sum(results['task_sizes']) if results else len(order)
  return RunRecord(
    name=folder.name,
    config=config,
    results=results,
    rows=rows,
    seen=seen,
    class_names=tuple(order[:learnt]),
    confusion=confusion,
    phases=read_lines(folder / 'phases.jsonl'),
    changed=_changed(config),
    command=command(config, folder.name),
    diagnosis=diagnosis,
    pictures=pictures,
    note=note,
    free=tuple(name for name in config if not _counts(config, name)),
  )


def _accuracies(folder: Path, base: str) -> tuple[list[Row], Row]:
  """(rows of the accuracy matrix, accuracy over all classes seen) by the log, as far as the run has come.

  base: the workdir that it extends, or ''. Of what that run learnt this one's log says nothing: its results do, and
  where they are gone there is None.
  """
  file = folder / 'metrics.jsonl'
  evaluations = [record for record in read_lines(file) if record.get('phase') == 'evaluating']
  known: dict[int, tuple[Row, float | None]] = {}
  if base:
    with contextlib.suppress(OSError, ValueError, UserError):
      results = read_results(Path(base) / 'results.json')
      known |= enumerate(zip(results['accuracy_matrix'], results['seen_accuracy'], strict=False))
  for record in evaluations:
    if len(record['accuracy']) != record['task'] + 1:
      accuracies = f'task {record["task"]} has {len(record["accuracy"])} accuracies'
      raise UserError(f'{file} is damaged ({accuracies}): put it back as it was, or leave this run out.')
    known[record['task']] = record['accuracy'], record['seen_accuracy']
  tasks = range(1 + max(known, default=-1))
  every = [known.get(task, ([None] * (task + 1), None)) for task in tasks]
  return [row for row, _ in every], [seen for _, seen in every]


def _confusion(folder: Path, task: int) -> tuple[list[str], np.ndarray | None]:
  file = confusion_file(folder, task)
  if not file.exists():
    return [], None
  try:
    return read_confusion(file)
  except ValueError as error:
    raise UserError(f'{file} is damaged: put it back as it was, or delete it.') from error


def _look(folder: Path, data_dir: str, tell: Callable[[str], None]) -> tuple[dict | None, dict[str, np.ndarray], str]:
  """(diagnosis, pictures, '') or (None, {}, why there are none)."""
  try:
    diagnosis, pictures = look_into(folder, data_dir, tell)
  except UserError as error:
    tell(f'{folder.name}: no diagnosis: {error}')
    return None, {}, f'No diagnosis: {error}'
  return diagnosis, read_pictures(folder) if pictures is None else pictures, ''


def _changed(config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """Fields that differ from the default: name -> (value, default)."""
  usual = flatten(json.loads(json.dumps(default().to_dict())))
  return {
    name: (value, usual.get(name))
    for name, value in config.items()
    if _counts(config, name) and name != 'data.fingerprint' and _plain(value) != usual.get(name)
  }


def _counts(config: dict[str, Any], name: str) -> bool:
  """Whether a field says what this run computes."""
  by_name = name == 'data.fingerprint' and config['data.name'] != 'image_folder'  # earlier versions kept none
  return name not in FREE_FIELDS and reads(config['method'], name) and not by_name


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def command(config: dict[str, Any], name: str) -> str:
  """The command that runs `config` again: of the files in configs/ the nearest, and a flag for each other field."""
  options = f'tasks={config["tasks"]},method={config["method"]},trial={config["trial"]}'
  best: tuple[str, list[str]] | None = None
  for file in sorted(CONFIGS.glob('*.py')):
    try:
      config_of_file = _load(file, options)
    except Exception:  # its own task_sizes are not so many tasks, or it is not finished
      continue
    here = flatten(json.loads(json.dumps(config_of_file.to_dict())))
    asked = [field for field in here if _counts(config, field) and field != 'data.fingerprint']  # found out anew
    fields = [field for field in asked if here[field] != _plain(config.get(field))]
    flags = [f'--config.{field}={shlex.quote(_word(config[field]))}' for field in fields if field in config]
    if best is None or len(flags) < len(best[1]):
      best = f'--config=configs/{file.name}:{options}', flags
  if best is None:
    return f'# the config is in {name}/config.json; the configs/ of a checkout would give a command'
  return ' '.join(['python -m abd_jax.main', best[0], *best[1], f'{shlex.quote(f"--workdir=runs/{name}")}'])


def _load(file: Path, options: str) -> Any:
  spec = importlib.util.spec_from_file_location(file.stem, file)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(options)


def _word(value: Any) -> str:
  """A value as a flag of ml_collections takes it."""
  if isinstance(value, (list, tuple)):
    return str(tuple(tuple(one) if isinstance(one, list) else one for one in value))
  return str(value)
