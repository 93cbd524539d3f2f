"""The tables of the paper: their rows, the runs behind each row, and the paper's numbers. Nothing here is measured."""

from typing import NamedTuple


class Row(NamedTuple):
  """A row: how to run it, and what the paper reports, percent, (mean, std) of A_N and Omega for each split."""

  name: str
  method: str  # the option of --config; 'abd' and overrides for a variant of it
  overrides: tuple[tuple[str, object], ...] = ()  # fields of the config
  replay: str = 'none'
  paper: tuple = ()  # (A_N, std, Omega, std) for each of the table's splits; shorter where the paper gives less


class Table(NamedTuple):
  title: str
  config: str  # a file in configs/
  splits: tuple[int, ...]  # numbers of tasks
  rows: tuple[Row, ...]
  trials: int = 3
  metric: str = 'final_accuracy'


# On other data than the paper's the same rows run on these splits.
SPLITS = {'digits': (5,)}

_UPPER = ((69.9, 0.2, 100.0, 0.0),) * 3
_OURS = ((43.9, 0.9, 78.6, 1.1), (33.7, 1.2, 69.6, 1.6), (20.0, 1.4, 52.5, 2.5))
UPPER = Row('Upper bound', 'oracle', paper=_UPPER)
BASE = Row('Base', 'base', paper=((16.4, 0.4, 48.9, 1.1), (8.8, 0.1, 32.1, 1.1), (4.4, 0.3, 19.7, 0.7)))
LWF = Row('LwF', 'lwf', paper=((17.0, 0.1, 49.5, 0.1), (9.2, 0.0, 33.3, 0.9), (4.7, 0.1, 20.1, 0.3)))
LWF_MC = Row('LwF.MC', 'lwf_mc', paper=((32.5, 1.0, 69.8, 1.1), (17.1, 0.1, 52.0, 1.3), (7.7, 0.5, 29.3, 0.6)))
DGR = Row(
  'DGR', 'dgr', replay='generator', paper=((14.4, 0.4, 45.5, 0.9), (8.1, 0.1, 30.5, 0.6), (4.1, 0.3, 19.0, 0.3))
)
LWF_SYNTHETIC = Row(
  'LwF synthetic',
  'lwf_synthetic',
  replay='synthetic',
  paper=((16.7, 0.1, 49.8, 0.1), (8.9, 0.0, 32.3, 0.0), (4.7, 0.0, 19.7, 0.0)),
)
DEEP_INVERSION = Row(
  'DeepInversion',
  'deep_inversion',
  replay='synthetic',
  paper=((18.8, 0.3, 53.2, 0.9), (10.9, 0.6, 37.9, 0.8), (5.7, 0.3, 23.6, 0.7)),
)
ABD = Row('Always Be Dreaming', 'abd', replay='synthetic', paper=_OURS)
REHEARSAL = Row(
  'Naive Rehearsal',
  'rehearsal',
  replay='coreset',
  paper=((34.0, 0.2, 73.4, 0.8), (24.0, 1.0, 64.6, 2.1), (14.9, 0.7, 51.4, 2.9)),
)
LWF_CORESET = Row(
  'LwF coreset',
  'lwf_coreset',
  replay='coreset',
  paper=((39.4, 0.3, 79.0, 0.0), (27.4, 0.8, 69.4, 0.4), (16.6, 0.4, 54.2, 2.2)),
)
E2E = Row(
  'E2E', 'e2e', replay='coreset', paper=((47.4, 0.8, 83.1, 1.0), (38.4, 1.3, 75.0, 1.4), (32.7, 1.9, 66.8, 3.0))
)
BIC = Row(
  'BiC', 'bic', replay='coreset', paper=((53.7, 0.4, 87.5, 0.9), (45.9, 1.8, 81.9, 2.0), (37.5, 3.2, 71.7, 3.4))
)
RDFCIL = Row('R-DFCIL', 'rdfcil', replay='synthetic')
UNDREAMED = Row('the same, generator untrained', 'abd', (('inversion.steps', 0),), replay='synthetic')
PIXELS = Row('the same, pixels optimised', 'abd', (('inversion.what', 'pixels'),), replay='synthetic')


def _with_paper(numbers: dict[str, tuple]) -> tuple[Row, ...]:
  rows = (UPPER, BASE, LWF, LWF_MC, LWF_SYNTHETIC, DEEP_INVERSION, ABD, REHEARSAL, LWF_CORESET, E2E, BIC)
  by_method = {row.method: row for row in rows}
  return tuple(by_method[method]._replace(paper=(paper,)) for method, paper in numbers.items())


_ABLATIONS = (
  Row('Full method', 'abd', replay='synthetic', paper=((33.7, 1.2, 69.6, 1.6),)),
  Row('no task balancing', 'abd', (('abd.balance', 'none'),), 'synthetic', ((23.4, 1.5, 62.2, 2.4),)),
  Row('standard cross-entropy', 'abd', (('abd.local_classes', 'seen'),), 'synthetic', ((16.5, 0.5, 46.6, 0.9),)),
  Row('no real-data distillation', 'abd', (('abd.kd_images', 'dreamed'),), 'synthetic', ((15.9, 2.1, 58.9, 3.2),)),
  Row('no synthetic-data distillation', 'abd', (('abd.kd_images', 'real'),), 'synthetic', ((12.7, 7.4, 55.3, 8.1),)),
  Row('no fine-tuning cross-entropy', 'abd', (('abd.ft_weight', 0.0),), 'synthetic', ((9.8, 0.6, 35.9, 1.3),)),
)
_CIFAR = ('cifar100', (5, 10, 20))
_TINY = ('tiny_imagenet', (20,))
_IMAGENET = ('imagenet50', (5,))
_TABLE_E = {
  'oracle': (89.8,), 'lwf': (19.4,), 'lwf_mc': (72.7,), 'rehearsal': (78.9,), 'lwf_coreset': (84.8,), 'abd': (71.5,)
}  # fmt: skip
_TABLE_C = {
  'oracle': (55.5, None, 100.0, None), 'base': (4.1, None, 21.9, None), 'lwf': (4.4, None, 22.4, None),
  'lwf_mc': (8.8, None, 37.2, None), 'lwf_synthetic': (4.0, None, 22.0, None),
  'deep_inversion': (5.1, None, 24.8, None), 'abd': (12.1, None, 49.3, None),
}  # fmt: skip
_TABLE_D = {
  'oracle': (55.5, None, 100.0, None), 'rehearsal': (6.6, None, 37.7, None), 'lwf_coreset': (6.9, None, 39.7, None),
  'e2e': (16.9, None, 56.3, None), 'bic': (17.4, None, 59.8, None), 'abd': (12.1, None, 49.3, None),
}  # fmt: skip
_DATA_FREE = (UPPER, BASE, DGR, LWF, LWF_SYNTHETIC, DEEP_INVERSION, ABD)
_DATA_FREE_FULL = (*_DATA_FREE[:4], LWF_MC, *_DATA_FREE[4:])
_BEYOND = (UNDREAMED, PIXELS, RDFCIL)
_REPLAY = (UPPER, REHEARSAL, LWF_CORESET, BIC, ABD)

TABLES = {
  '1': Table('Data-free class-incremental learning, CIFAR-100', *_CIFAR, _DATA_FREE),
  '2': Table('Class-incremental learning with replay data, CIFAR-100', *_CIFAR, _REPLAY),
  '3': Table('Ablations, CIFAR-100 in ten tasks', 'cifar100', (10,), (UPPER._replace(paper=_UPPER[:1]), *_ABLATIONS)),
  '4': Table(
    'ImageNet-50, top-5',
    *_IMAGENET,
    _with_paper({method: paper for method, paper in _TABLE_E.items() if method != 'lwf_mc'}),
    1,
    'final_top5_accuracy',
  ),
  'A': Table('Data-free class-incremental learning, CIFAR-100, full', *_CIFAR, _DATA_FREE_FULL),
  'B': Table('Incremental learning with replay data, CIFAR-100, full', *_CIFAR, (*_REPLAY[:3], E2E, *_REPLAY[3:])),
  'C': Table('Data-free class-incremental learning, Tiny-ImageNet', *_TINY, _with_paper(_TABLE_C), 1),
  'D': Table('Class-incremental learning with replay data, Tiny-ImageNet', *_TINY, _with_paper(_TABLE_D), 1),
  'E': Table('ImageNet-50, top-5, full', *_IMAGENET, _with_paper(_TABLE_E), 1, 'final_top5_accuracy'),
  'methods': Table('Every method', *_CIFAR, (*_DATA_FREE_FULL, *_BEYOND, REHEARSAL, LWF_CORESET, E2E, BIC)),
}  # fmt: skip
