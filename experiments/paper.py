"""The tables of the paper: their rows, the runs behind each row, and the paper's numbers. Nothing here is measured."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Overrides = tuple[tuple[str, object], ...]  # (dotted field of the config, value)
Numbers = tuple[float | None, ...]  # (A_N, std, Omega, std), percent; shorter where the paper gives less


class Row(NamedTuple):
  """A row: how to run it, and what the paper reports."""

  name: str
  method: str  # the option of --config; 'abd' and overrides for a variant of it
  overrides: Overrides = ()
  replay: str = 'none'
  paper: tuple[Numbers, ...] = ()  # for each of the table's splits; shorter where the paper gives less
  reference: str = 'Always Be Dreaming'  # the row of the table that it is compared with, trial by trial


class Table(NamedTuple):
  title: str
  config: str  # a file in configs/
  splits: tuple[int, ...]  # numbers of tasks
  rows: tuple[Row, ...]
  trials: int = 3
  metric: str = 'final_accuracy'
  both_weights: bool = False  # its rows of ABD also under the weight of Eq. 11 that the config does not have


# On other data than the table's own the same rows run on these splits.
SPLITS = {'digits': (5,), 'cifar100_small': (4,), 'tiny_imagenet_small': (4,)}

UPPER, BASE = Row('Upper bound', 'oracle'), Row('Base', 'base')
LWF, LWF_MC = Row('LwF', 'lwf'), Row('LwF.MC', 'lwf_mc')
DGR = Row('DGR', 'dgr', replay='generator')
LWF_SYNTHETIC = Row('LwF synthetic', 'lwf_synthetic', replay='synthetic')
DEEP_INVERSION = Row('DeepInversion', 'deep_inversion', replay='synthetic')
ABD = Row('Always Be Dreaming', 'abd', replay='synthetic')
RDFCIL = Row('R-DFCIL', 'rdfcil', replay='synthetic')
UNDREAMED = Row('the same, generator untrained', 'abd', (('inversion.steps', 0),), 'synthetic')
PIXELS = Row('the same, pixels optimised', 'abd', (('inversion.what', 'pixels'),), 'synthetic')
# As in the released code, slips and all: the paper's numbers of these four presumably came from it.
REHEARSAL = Row('Naive Rehearsal', 'rehearsal', (('memory.redraw', 'released'),), 'coreset')
LWF_CORESET = Row('LwF coreset', 'lwf_coreset', (('memory.redraw', 'released'),), 'coreset')
E2E = Row('E2E', 'e2e', (('e2e.new_target', 'released'),), 'coreset')
BIC = Row('BiC', 'bic', (('bic.evaluate', 'raw'),), 'coreset')

# Table 3, in ten tasks.
_ABLATIONS = (
  ('no task balancing', ('abd.balance', 'none'), (23.4, 1.5, 62.2, 2.4)),
  ('standard cross-entropy', ('abd.local_classes', 'seen'), (16.5, 0.5, 46.6, 0.9)),
  ('no real-data distillation', ('abd.kd_images', 'dreamed'), (15.9, 2.1, 58.9, 3.2)),
  ('no synthetic-data distillation', ('abd.kd_images', 'real'), (12.7, 7.4, 55.3, 8.1)),
  ('no fine-tuning cross-entropy', ('abd.ft_weight', 0.0), (9.8, 0.6, 35.9, 1.3)),
)
# Eq. 11's weight: the one a config has -> (the other, what its rows are called).
_OTHER_WEIGHT = {'one': ('balanced', 'released weight'), 'balanced': ('one', "paper's weight")}

# In 5, 10 and 20 tasks.
_CIFAR100 = {
  'oracle': ((69.9, 0.2, 100.0, 0.0),) * 3,
  'base': ((16.4, 0.4, 48.9, 1.1), (8.8, 0.1, 32.1, 1.1), (4.4, 0.3, 19.7, 0.7)),
  'dgr': ((14.4, 0.4, 45.5, 0.9), (8.1, 0.1, 30.5, 0.6), (4.1, 0.3, 19.0, 0.3)),
  'lwf': ((17.0, 0.1, 49.5, 0.1), (9.2, 0.0, 33.3, 0.9), (4.7, 0.1, 20.1, 0.3)),
  'lwf_mc': ((32.5, 1.0, 69.8, 1.1), (17.1, 0.1, 52.0, 1.3), (7.7, 0.5, 29.3, 0.6)),
  'lwf_synthetic': ((16.7, 0.1, 49.8, 0.1), (8.9, 0.0, 32.3, 0.0), (4.7, 0.0, 19.7, 0.0)),
  'deep_inversion': ((18.8, 0.3, 53.2, 0.9), (10.9, 0.6, 37.9, 0.8), (5.7, 0.3, 23.6, 0.7)),
  'abd': ((43.9, 0.9, 78.6, 1.1), (33.7, 1.2, 69.6, 1.6), (20.0, 1.4, 52.5, 2.5)),
  'rehearsal': ((34.0, 0.2, 73.4, 0.8), (24.0, 1.0, 64.6, 2.1), (14.9, 0.7, 51.4, 2.9)),
  'lwf_coreset': ((39.4, 0.3, 79.0, 0.0), (27.4, 0.8, 69.4, 0.4), (16.6, 0.4, 54.2, 2.2)),
  'e2e': ((47.4, 0.8, 83.1, 1.0), (38.4, 1.3, 75.0, 1.4), (32.7, 1.9, 66.8, 3.0)),
  'bic': ((53.7, 0.4, 87.5, 0.9), (45.9, 1.8, 81.9, 2.0), (37.5, 3.2, 71.7, 3.4)),
}
_TINY_IMAGENET = {
  'oracle': ((55.5, None, 100.0, None),), 'base': ((4.1, None, 21.9, None),), 'lwf': ((4.4, None, 22.4, None),),
  'lwf_mc': ((8.8, None, 37.2, None),), 'lwf_synthetic': ((4.0, None, 22.0, None),),
  'deep_inversion': ((5.1, None, 24.8, None),), 'rehearsal': ((6.6, None, 37.7, None),),
  'lwf_coreset': ((6.9, None, 39.7, None),), 'e2e': ((16.9, None, 56.3, None),), 'bic': ((17.4, None, 59.8, None),),
  'abd': ((12.1, None, 49.3, None),),
}  # fmt: skip
_IMAGENET50 = {
  'oracle': ((89.8,),), 'lwf': ((19.4,),), 'lwf_mc': ((72.7,),), 'rehearsal': ((78.9,),), 'lwf_coreset': ((84.8,),),
  'abd': ((71.5,),),
}  # fmt: skip


def _beside(numbers: Mapping[str, tuple[Numbers, ...]], *rows: Row) -> tuple[Row, ...]:
  """The rows with the paper's numbers; after them, without, those of the released code as they run when corrected."""
  corrected = [row._replace(name=f'{row.name}, corrected', overrides=()) for row in rows if row.replay == 'coreset']
  return (*(row._replace(paper=numbers[row.method]) for row in rows), *corrected)


def _ablations() -> tuple[Row, ...]:
  """Table 3's rows."""
  upper = UPPER._replace(paper=_CIFAR100['oracle'][:1])
  full = ABD._replace(name='Full method', paper=_CIFAR100['abd'][1:2])
  ablated = [ABD._replace(name=name, overrides=(field,), paper=(numbers,)) for name, field, numbers in _ABLATIONS]
  return tuple(row._replace(reference=full.name) for row in (upper, full, *ablated))


def under_other_weight(rows: Iterable[Row], own: str) -> tuple[Row, ...]:
  """Table 3's rows of ABD under the other weight of Eq. 11 than the config's `own`, with a reference of their own."""
  other, called = _OTHER_WEIGHT[own]

  def moved(row: Row) -> Row:
    weight = (('abd.local_weight', other),)
    if ('abd.balance', 'none') in row.overrides:  # which leaves Eq. 11 no weight: the same run serves
      weight = ()
    return row._replace(
      name=f'{row.name}, {called}',
      overrides=row.overrides + weight,
      paper=(),
      reference=f'{row.reference}, {called}',
    )

  return tuple(moved(row) for row in rows if row.method == 'abd')


_CIFAR = ('cifar100', (5, 10, 20))
_TINY = ('tiny_imagenet', (20,))
_IMAGENET = ('imagenet50', (5,))
_DATA_FREE = (UPPER, BASE, DGR, LWF, LWF_SYNTHETIC, DEEP_INVERSION, ABD)
_DATA_FREE_FULL = (*_DATA_FREE[:4], LWF_MC, *_DATA_FREE[4:])
_REPLAY = (UPPER, REHEARSAL, LWF_CORESET, BIC, ABD)
_REPLAY_FULL = (*_REPLAY[:3], E2E, *_REPLAY[3:])
_TABLE_C = (UPPER, BASE, LWF, LWF_MC, LWF_SYNTHETIC, DEEP_INVERSION, ABD)
_CORRECTED = tuple(row._replace(overrides=()) for row in (REHEARSAL, LWF_CORESET, E2E, BIC))

# 1, 2 and 4 are parts of A, B and E.
TABLES = {
  '1': Table('Data-free class-incremental learning, CIFAR-100', *_CIFAR, _beside(_CIFAR100, *_DATA_FREE)),
  '2': Table('Class-incremental learning with replay data, CIFAR-100', *_CIFAR, _beside(_CIFAR100, *_REPLAY)),
  '3': Table('Ablations, CIFAR-100 in ten tasks', 'cifar100', (10,), _ablations(), both_weights=True),
  '4': Table(
    'ImageNet-50, top-5',
    *_IMAGENET,
    _beside(_IMAGENET50, UPPER, LWF, REHEARSAL, LWF_CORESET, ABD),
    1,
    'final_top5_accuracy',
  ),
  'A': Table('Data-free class-incremental learning, CIFAR-100, full', *_CIFAR, _beside(_CIFAR100, *_DATA_FREE_FULL)),
  'B': Table('Incremental learning with replay data, CIFAR-100, full', *_CIFAR, _beside(_CIFAR100, *_REPLAY_FULL)),
  'C': Table('Data-free class-incremental learning, Tiny-ImageNet', *_TINY, _beside(_TINY_IMAGENET, *_TABLE_C), 1),
  'D': Table(
    'Class-incremental learning with replay data, Tiny-ImageNet', *_TINY, _beside(_TINY_IMAGENET, *_REPLAY_FULL), 1
  ),
  'E': Table(
    'ImageNet-50, top-5, full',
    *_IMAGENET,
    _beside(_IMAGENET50, UPPER, LWF, LWF_MC, REHEARSAL, LWF_CORESET, ABD),
    1,
    'final_top5_accuracy',
  ),
  'orders': Table(
    'Ten class orders, the same seed for everything else (Appendix E)',
    'cifar100',
    (10,),
    (ABD._replace(overrides=(('seed', 0),)),),
    10,
  ),
  'methods': Table(
    'Every method',
    *_CIFAR,
    (*_beside(_CIFAR100, *_DATA_FREE_FULL), UNDREAMED, PIXELS, RDFCIL, *_CORRECTED),
  ),
  'small': Table(
    'Methods on twenty classes of CIFAR-100',
    'cifar100_small',
    SPLITS['cifar100_small'],
    (UPPER, BASE, LWF, LWF_MC, LWF_SYNTHETIC, DEEP_INVERSION, ABD, RDFCIL, _CORRECTED[0]),
  ),
}
