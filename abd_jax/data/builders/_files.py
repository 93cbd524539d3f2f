"""Data sets that are files in folders: checks and converts each image, and writes a TFDS copy of all."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tqdm import tqdm

from abd_jax.data import images as images_lib
from abd_jax.data.folders import lines
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError, shown

_BLOCK = 256  # files that are read and converted at once
_SHARD = 8192  # images in a file of records


class Photo(NamedTuple):
  path: Path
  label: int


class Files(NamedTuple):
  """What to prepare."""

  class_names: tuple[str, ...]  # of all classes, by label
  splits: dict[str, list[Photo]]  # of 'train' and 'test', in the order in which they are stored
  shape: tuple[int | None, int | None, int]  # (h, w, c) to store images in; None for h and w: each as it is
  size: int = 0  # side of the network's images that fits these files; 0: as stored
  value_range: tuple[float, ...] = ()  # as in `images.plain`
  passed_over: Counter[str] | None = None  # what else lies there, and how many of it

  def contents(self, options: Options) -> str:
    """A digest of the names of these files and the way to prepare them."""
    names = {split: [(photo.path.name, photo.label) for photo in photos] for split, photos in self.splits.items()}
    return digest_of([self.class_names, self.shape, options.damaged, names])


class FileBuilder:
  """Writes images `image` and classes `label`. A subclass says in `find` where they are.

  It has what `prepare` needs of a TFDS builder. TFDS's own would hold up to a GiB of records in memory and write larger
  splits with TensorFlow.
  """

  name: ClassVar[str]
  VERSION: ClassVar[str] = '1.0.0'

  def __init__(self, *, data_dir: Path, files: Files, options: Options):
    self.files, self.options = files, options
    self.data_path = data_dir / self.name / self.VERSION
    self.skipped: list[str] = []  # what was wrong with files left out
    self.done: Counter[str] = Counter()  # how many images were changed in which way
    self.first: dict[bytes, Any] = {}  # digest of a file -> split and label of the first one
    self.repeated: Counter[str] = Counter()  # how many files have the bytes of an earlier one
    image, label = tfds.features.Image(shape=files.shape), tfds.features.ClassLabel(names=files.class_names)
    about = {'size': files.size, 'contents': files.contents(options), 'value_range': list(files.value_range)}
    self.info: Any = tfds.core.DatasetInfo(
      builder=DatasetIdentity(self.name, tfds.core.Version(self.VERSION), str(self.data_path), __name__),
      features=tfds.features.FeaturesDict({'image': image, 'label': label}),
      metadata=tfds.core.MetadataDict(about),
      disable_shuffling=True,
    )

  @classmethod
  def find(cls, place: Place, options: Options) -> Files:
    """The files in place.folder, or of an archive in place.downloads. Raises UserError if some are missing."""
    raise NotImplementedError

  @classmethod
  def key(cls, folder: Path, options: Options) -> str:
    """The name of the prepared copy, one for all folders and options that would make the same."""
    return cls.name

  @classmethod
  def stored_size(cls, size: tuple[int, int], crop: str) -> tuple[int, int] | None:
    """(h, w) to which photographs are brought before they are stored; None: they keep their size.

    size: (h, w) of the network's images. crop: config.data.crop.
    """
    return None

  @classmethod
  def check_copy(cls, copy: Path, place: Place, options: Options) -> None:
    """Raises UserError if the prepared `copy` is of other files than `find` finds now, if it finds any."""
    try:
      made_of = json.loads((copy / 'metadata.json').read_text())['contents']
      now = cls.find(place._replace(prepare=False), options).contents(options)
    except (OSError, ValueError, KeyError, UserError):  # another builder's copy, or the files are gone
      return
    if now != made_of:
      raise UserError(
        f'{copy} was prepared from other files than lie in {place.folder} now, or by another --config.data.damaged. '
        'Delete it to prepare it anew, or choose another --config.data.prepared.'
      )

  def download_and_prepare(self, file_format: str, **_) -> None:
    """Writes all records to `data_path`. Raises UserError for a damaged file that may not be skipped."""
    self.data_path.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(self.info, _SHARD, file_format=file_format)
    for split, photos in self.files.splits.items():
      writer.initialize_splits([split])
      digest = hashlib.sha256()
      with tqdm(total=len(photos), desc=f'{self.name}, {split}', unit='image', disable=None, leave=False) as bar:
        for start in range(0, len(photos), _BLOCK):
          block = photos[start : start + _BLOCK]
          writer.add_examples({split: [*self._records(split, block, digest)]})
          bar.update(len(block))
      self.info.metadata[f'{split}_digest'] = digest.hexdigest()
      writer.close_splits([split])
      if not self.info.splits[split].num_examples:
        raise UserError(f'no {split} image of {self.name} can be read, of {len(photos)}. Replace them.')

  def _records(self, split: str, photos: list[Photo], digest: Any) -> Iterator[dict[str, Any]]:
    """What is stored of these files, but for those that are skipped. Updates the digest of the split's files."""
    jobs = [images_lib.threads().submit(self._converted, photo.path) for photo in photos]
    for photo, job in zip(photos, jobs, strict=True):
      try:
        encoded, original, done = job.result()
      except images_lib.BadImage as error:
        wrong = f'{shown(str(photo.path))} {error}'
        if self.options.damaged != 'skip':
          raise UserError(f'{wrong}. Replace it, or skip such files with --config.data.damaged=skip.') from None
        self.skipped.append(wrong)
        continue
      digest.update(original)
      self.done.update(done)
      here = split, photo.label
      if (earlier := self.first.setdefault(original, here)) is not here:
        kind = 'twice in one split' if earlier[0] == split else 'test images that are training images'
        self.repeated[kind if earlier[1] == photo.label else f'{kind}, in two classes'] += 1
      yield {'image': encoded, 'label': photo.label}

  def _converted(self, path: Path) -> tuple[bytes, bytes, list[str]]:
    """(bytes to store, digest of the file's, what was done to the image). Raises BadImage."""
    encoded = images_lib.content(path)
    image, done = images_lib.stored(encoded, self.files.shape, self.files.value_range)
    kept = encoded if not done and image.format in ('PNG', 'JPEG') else images_lib.png(image)
    return kept, hashlib.sha256(encoded).digest(), done

  def print_summary(self) -> None:
    """Prints one line about the files and the copy, and one for each file left out."""
    for line in self.skipped:
      print(f'skipped: {line}', file=sys.stderr)
    counts = ' and '.join(f'{info.num_examples} {split}' for split, info in self.info.splits.items())
    height, width, channels = self.files.shape
    size = f'{height}x{width}' if height else 'of their own sizes'
    parts = [f'{counts} images of {len(self.files.class_names)} classes, stored {size} with {channels} channels']
    parts += _listed('converted', self.done)
    if self.files.value_range:
      low, high = self.files.value_range
      parts += [f'raw values {low:g} to {high:g} became 0 to 255 (--config.data.value_range)']
    parts += [f'skipped: {len(self.skipped)}'] if self.skipped else []
    parts += _listed('passed over', self.files.passed_over) + _listed('same bytes', self.repeated)
    print(f'{self.name}: {"; ".join(parts)}', file=sys.stderr)


def _listed(title: str, counted: Counter[str] | None) -> list[str]:
  """['title: 3 these, 2 those'], or [] of none."""
  words = [f'{count} {what}' for what, count in (counted or Counter()).most_common() if count]
  return [f'{title}: {", ".join(words)}'] if words else []


def digest_of(facts: Any) -> str:
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def check_classes(
  folder: Path, names: dict[int, str], splits: dict[str, list[Photo]], passed_over: Counter[str] | None = None
) -> None:
  """Raises UserError for no test images, or a class without training images.

  names: label -> class. passed_over: as in `Files`.
  """
  within = {photo.path.parent for photos in splits.values() for photo in photos}
  if len(names) == 1 and len(within) > 1 and not any(parent.name in names.values() for parent in within):
    raise UserError(f"{folder} has one class, '{names[0]}', with folders in it. Name the one that holds the classes.")
  trained = {names[photo.label] for photo in splits['train']}
  if empty := next((name for name in names.values() if name not in trained), ''):
    twin = [f"'{name}' has some" for name in trained if name.casefold() == empty.casefold()]
    notes = f' ({"; ".join(hints)})' if (hints := twin + _listed('passed over', passed_over)) else ''
    raise UserError(f"class '{empty}' in {folder} has no training images{notes}. Add some, or remove its folder.")
  if not splits['test']:
    raise UserError(f'{folder} has no test images. Add some; to be split, a class needs 2 images.')


def of_wnids(files: list[Path], listed: dict[str, str], source: Path, label: dict[str, int]) -> list[Photo]:
  """Those of the files that have one of the classes in `label`.

  listed: name of a file, without its suffix -> WordNet id, as `source` says. Raises UserError if it lists other files.
  """
  if listed.keys() != {file.stem for file in files}:
    raise UserError(f'{source} does not list just the {len(files)} images that are there. Copy them all.')
  return [Photo(file, label[listed[file.stem]]) for file in files if listed[file.stem] in label]


def unique_names(wnids: Sequence[str], file: Path, separator: str) -> tuple[str, ...]:
  """The first word of each WordNet id, with the id where two share the word; the id itself where it has no word.

  file: has an id and its words in each line; it may be missing.
  """
  words = dict(line.split(separator, 1) for line in lines(file) if separator in line) if file.is_file() else {}
  first = [words.get(wnid, wnid).split(',')[0].strip() or wnid for wnid in wnids]
  count = Counter(first)
  return tuple(name if count[name] == 1 else f'{name} ({wnid})' for name, wnid in zip(first, wnids, strict=True))
