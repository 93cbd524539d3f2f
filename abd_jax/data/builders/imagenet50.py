"""ImageNet-50: the classes that the benchmark learns, from a standard ILSVRC 2012 folder."""

import csv
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np

from abd_jax.data.builders._files import FileBuilder, Files, Photo, check_classes, of_wnids, unique_names
from abd_jax.data.folders import image_files, lines, subfolders
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError

CLASSES = 1000  # of ILSVRC 2012
SEED = 1993  # of the class order, for every trial
KAGGLE = Path('ILSVRC/Data/CLS-LOC')
SOLUTION, SYNSETS = 'LOC_val_solution.csv', 'imagenet_2012_validation_synset_labels.txt'


class Builder(FileBuilder):
  """The first KEPT classes of the seeded order over all sorted WordNet ids, with labels among all of them.

  Images keep their sizes: the host cuts the network's out of them. The folder holds train/WNID/*, and val/WNID/* or
  val/* with the classes in LOC_val_solution.csv or imagenet_2012_validation_synset_labels.txt beside it.
  """

  name = 'imagenet50'
  KEPT: ClassVar[int] = 50

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    folder = place.folder
    root = folder / KAGGLE if (folder / KAGGLE).is_dir() else folder
    wnids = list(subfolders(root / 'train'))
    chosen = np.random.RandomState(SEED).permutation(len(wnids))[: cls.KEPT].tolist()
    if len(chosen) < cls.KEPT:
      raise UserError(f'{root / "train"} has {len(wnids)} classes, {cls.name} learns {cls.KEPT} of {CLASSES:,}.')
    label = {wnids[k]: k for k in sorted(chosen)}
    train = [Photo(file, k) for wnid, k in label.items() for file in image_files(root / 'train' / wnid)]
    splits = {'train': train, 'test': _validation(folder, root / 'val', label)}
    names = unique_names(wnids, folder / 'LOC_synset_mapping.txt', ' ')
    check_classes(root / 'train', {k: names[k] for k in label.values()}, splits)
    return Files(names, splits, (None, None, 3))

  def print_summary(self) -> None:
    super().print_summary()
    if (count := len(self.files.class_names)) != CLASSES:
      print(
        f'{self.name}: the folder has {count:,} classes instead of {CLASSES:,}, so those that are learnt are not the '
        "benchmark's, and the head is another",
        file=sys.stderr,
      )


def _validation(folder: Path, place: Path, label: dict[str, int]) -> list[Photo]:
  """The test images of the chosen classes. Raises UserError if an image has no class."""
  if subfolders(place):
    there = [wnid for wnid in label if (place / wnid).is_dir()]
    return [Photo(file, label[wnid]) for wnid in there for file in image_files(place / wnid)]
  files = image_files(place)
  if (source := folder / SOLUTION).is_file():
    listed = {row[0]: row[1].split()[0] for row in csv.reader(lines(source)[1:]) if row[1:] and row[1].split()}
    return of_wnids(files, listed, source, label)
  for source in (place.parent / SYNSETS, folder / SYNSETS):
    if source.is_file():  # the classes of all images in order
      wnids = lines(source)
      listed = dict(zip((file.stem for file in files), wnids, strict=False)) if len(wnids) == len(files) else {}
      return of_wnids(files, listed, source, label)
  raise UserError(f'{place} has no folders of classes, and {folder} neither {SOLUTION} nor {SYNSETS}. Add one.')
