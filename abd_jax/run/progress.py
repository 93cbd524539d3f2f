"""Where a run stands: everything about it that is not an array, saved with every checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any

from abd_jax.errors import UserError
from abd_jax.protocol.metrics import Evaluation

SCHEMA = 4
SPENT = ('compile', 'train', 'invert', 'evaluate')  # on which seconds are counted
Row = list[float | None]


@dataclass
class EvalHistory:
  """What evaluation has found so far, as fractions: a row for each task learnt, and the newest by class.

  None where there are no test images.
  """

  accuracy: list[Row] = field(default_factory=list)
  top5_accuracy: list[Row] = field(default_factory=list)
  task_aware_accuracy: list[Row] = field(default_factory=list)
  class_accuracy: Row = field(default_factory=list)
  class_top5_accuracy: Row = field(default_factory=list)

  def add(self, found: Evaluation) -> None:
    """Adds the evaluation after one more task."""
    self.accuracy.append(found.accuracy)
    self.top5_accuracy.append(found.top5_accuracy)
    self.task_aware_accuracy.append(found.task_aware_accuracy)
    self.class_accuracy, self.class_top5_accuracy = found.class_accuracy, found.class_top5_accuracy


@dataclass
class Progress:
  """Where a run stands. The session and the loop over tasks write it; every save has a copy."""

  schema_version: int = SCHEMA
  task: int = 0  # 0-based; the number of tasks once all are done
  phase: str = ''  # the name of a phase of the schedule; '': the task's first
  step: int = 0  # steps done in this phase
  history: EvalHistory = field(default_factory=EvalHistory)
  saves: dict[str, int] = field(default_factory=dict)  # number of the newest save of each kind
  seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))
  checksums: dict[str, str] = field(default_factory=dict)  # of the arrays of each kind's newest save
  log_bytes: int = 0  # of metrics.jsonl
  log_checksum: str = ''  # of those bytes
  stretches: list[dict[str, Any]] = field(default_factory=list)  # where each device, version or commit took over

  def runs_on(self, environment: dict[str, Any]) -> bool:
    """Notes the device, versions and commit from here on. Returns whether they differ from those before."""
    last = self.stretches[-1] if self.stretches else {}
    changed = any(last.get(key) != value for key, value in environment.items())
    if changed:
      self.stretches.append({'task': self.task, 'phase': self.phase, 'step': self.step, **environment})
    return changed and len(self.stretches) > 1

  def next_save(self, kind: str, checksum: str) -> dict[str, Any]:
    """What to write with a save of `kind`, which gets the next number over all kinds. checksum: of its arrays."""
    self.saves[kind] = 1 + max(self.saves.values(), default=0)
    self.checksums[kind] = checksum
    return asdict(self)


def progress_from(saved: dict[str, Any], where: str) -> Progress:
  """What `next_save` gave, whose checksum is right. Raises UserError if another version of this package wrote it."""
  if saved.get('schema_version') != SCHEMA:
    raise UserError(
      f'{where} has schema {saved.get("schema_version")}, expected {SCHEMA}. Finish the run with the version that '
      'began it, or choose another --workdir.'
    )
  return Progress(**{**saved, 'history': EvalHistory(**saved['history'])})
