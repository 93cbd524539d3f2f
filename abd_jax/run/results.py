"""What a finished run leaves: results.json."""

from typing import Any

from abd_jax.protocol import metrics
from abd_jax.run.build import Blueprint
from abd_jax.run.environment import environment
from abd_jax.run.files import RESULTS_SCHEMA
from abd_jax.run.progress import EvalHistory
from abd_jax.run.workdir import Workdir


def results_of(
  blueprint: Blueprint,
  files: Workdir,
  history: EvalHistory,
  seconds: dict[str, float],
  steps: dict[str, int],
  stretches: list[dict[str, Any]],
) -> dict[str, Any]:
  """The keys of results.json; docs/results.md documents them."""
  tasks = blueprint.schedule.tasks
  counts = blueprint.test_counts()
  return {
    'schema_version': RESULTS_SCHEMA,
    'method': blueprint.config.method,
    'class_order': blueprint.class_order(),
    'task_sizes': list(tasks.sizes),
    'test_images': counts,
    **metrics.summary(history.accuracy, counts),
    'top5_accuracy_matrix': history.top5_accuracy,
    'final_top5_accuracy': metrics.final_accuracy(history.top5_accuracy, counts),
    'class_accuracy': history.class_accuracy,
    'class_top5_accuracy': history.class_top5_accuracy,
    'seconds': seconds,
    'steps': steps,
    'seed': blueprint.seed,
    **environment(blueprint.mesh.size),
    'stretches': stretches,
    'config': files.config,
  }
