"""Whether what is trained is still of use: asked at the ends of chunks and phases, never for each step."""

import jax
import jax.numpy as jnp
import numpy as np

from abd_jax.state import TrainState

JUDGED = 100  # steps of a phase below which neither chance nor a dull generator says anything
_TESTED = 20  # images below which an accuracy says nothing
_SAME = 1 / 255  # of the range of pixels: no eye tells them apart


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
  """bool[n]: in one array, so that the host fetches one."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def not_finite(state: TrainState) -> list[str]:
  """Paths of the parameters and statistics with a value that is no number, such as 'params.head.bias'."""
  kept = {'params': state.params, 'batch_stats': state.batch_stats, 'extra': state.extra}
  paths, leaves = zip(*jax.tree.leaves_with_path(kept), strict=True)
  good = jax.device_get(_finite(list(leaves)))
  return [
    jax.tree_util.keystr(path, simple=True, separator='.') for path, one in zip(paths, good, strict=True) if not one
  ]


def dead(dreams: np.ndarray, labels: np.ndarray, classes: int) -> str:
  """Why nothing can be remembered from images f[n, h, w, c] in [0, 1] that a teacher labels i[n]; '' if it can."""
  if np.ptp(dreams, axis=0).max() < _SAME:
    return f'the generator is dead, its {len(dreams)} images are all the same'
  if classes > 1 and len(set(labels.tolist())) == 1:
    return f'the generator is dead, its {len(dreams)} images are all of one class'
  return ''


def at_chance(hits: np.ndarray, new: np.ndarray, classes: int) -> str:
  """Why a student has learnt nothing; '' if it has.

  Both on all it has seen and on the newest task it does no better than guessing: a method that forgets all but the
  newest classes is no such case. hits: bool[n] of the test images; new: bool[n], those of the newest task.
  """
  if classes == 1 or min(len(hits), new.sum()) < _TESTED:
    return ''
  chance = 1 / classes
  margin = lambda count: 2 * np.sqrt(chance * (1 - chance) / count)
  if all(some.mean() <= chance + margin(len(some)) for some in (hits, hits[new])):
    return f'the student is at chance, {100 * hits.mean():.1f} % of {classes} classes'
  return ''
