"""Data sets that are files in folders: a TFDS builder for any list of them, which checks and converts each image."""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tqdm import tqdm

from abd_jax.data import images as images_lib
from abd_jax.data.folders import lines
from abd_jax.data.prepare import Options, Place
from abd_jax.errors import UserError, shown

_BLOCK = 256  # files that are read and converted at once


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


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images `image`, classes `label` and the path `file` of each. A subclass says in `find` where they are."""

  VERSION = tfds.core.Version('1.0.0')
  COUNTS: ClassVar[dict[str, int]] = {}
  files: Files = Files((), {}, (None, None, 3))

  def __init__(self, *, files: Files, options: Options, **kwargs):
    self.files, self.options = files, options
    self.expected: dict[str, int] = {}  # images of each split, once they are written
    self.skipped: list[str] = []  # what was wrong with files left out
    self.done: Counter[str] = Counter()  # how many images were changed in which way
    self.first: dict[bytes, tuple[str, int]] = {}  # digest of a file -> split and label of the first one
    self.repeated: Counter[str] = Counter()  # how many files have the bytes of an earlier one
    super().__init__(**kwargs)

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
  def contents(cls, files: Files, options: Options) -> str:
    """A digest of the names of these files and the way to prepare them."""
    names = {split: [(photo.path.name, photo.label) for photo in photos] for split, photos in files.splits.items()}
    return digest_of([files.class_names, files.shape, options.damaged, names])

  @classmethod
  def check_copy(cls, copy: Path, place: Place, options: Options) -> None:
    """Raises UserError if the prepared `copy` is of other files than `find` finds now, if it finds any."""
    try:
      made_of = json.loads((copy / 'metadata.json').read_text())['contents']
      now = cls.contents(cls.find(place._replace(download=False), options), options)
    except (OSError, ValueError, KeyError, UserError):  # another builder's copy, or the files are gone
      return
    if now != made_of:
      raise UserError(
        f'{copy} was prepared from other files than lie in {place.folder} now, or by another --config.data.damaged. '
        'Delete it to prepare it anew, or choose another --config.data.prepared.'
      )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=self.files.shape),
          'label': tfds.features.ClassLabel(names=self.files.class_names),
          'file': tfds.features.Text(),
        }
      ),
      metadata=tfds.core.MetadataDict(
        size=self.files.size,
        contents=self.contents(self.files, self.options),
        value_range=list(self.files.value_range),
      ),
      disable_shuffling=True,
    )

  def download_and_prepare(self, **kwargs) -> None:
    usual, shuffle.Shuffler = shuffle.Shuffler, _InOrder
    try:
      super().download_and_prepare(**kwargs)
    finally:
      shuffle.Shuffler = usual

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self.files.splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    photos, kept, digest = self.files.splits[split], 0, hashlib.sha256()
    with tqdm(photos, desc=f'{self.name}, {split}', unit='image', disable=None, leave=False) as bar:
      for start in range(0, len(photos), _BLOCK):
        block = photos[start : start + _BLOCK]
        converted = images_lib.threads().map(self._convert, block)
        for photo, (encoded, original, done, wrong) in zip(block, converted, strict=True):
          bar.update()
          if not wrong:
            self.done.update(done)
            digest.update(original)
            self._count(original, split, photo.label)
            yield kept, {'image': encoded, 'label': photo.label, 'file': os.fspath(photo.path)}
            kept += 1
          elif self.options.damaged == 'skip':
            self.skipped.append(f'{shown(str(photo.path))} {wrong}')
          else:
            raise UserError(f'{shown(str(photo.path))} {wrong}. Replace it, or skip such files with '
                            '--config.data.damaged=skip.')  # fmt: skip
    if not kept:
      raise UserError(f'no {split} image of {self.name} can be read, of {len(photos)}. Replace them.')
    self.expected[split] = kept
    metadata: Any = self.info.metadata
    metadata[f'{split}_digest'] = digest.hexdigest()

  def _count(self, original: bytes, split: str, label: int) -> None:
    """Counts a file whose bytes an earlier file had. original: their digest."""
    here = split, label
    if (earlier := self.first.setdefault(original, here)) is not here:
      kind = 'twice in one split' if earlier[0] == split else 'test images that are training images'
      self.repeated[kind if earlier[1] == label else f'{kind}, in two classes'] += 1

  def _convert(self, photo: Photo) -> tuple[bytes, bytes, list[str], str]:
    """(bytes to store, digest of the file's, what was done to the image, what is wrong with it)."""
    if shown(str(photo.path)) != str(photo.path):
      return b'', b'', [], 'cannot be stored: its name is not in UTF-8'
    try:
      encoded = photo.path.read_bytes()
      original = hashlib.sha256(encoded).digest()
      image, done = images_lib.stored(encoded, self.files.shape, self.files.value_range)
      if done or image.format not in ('PNG', 'JPEG'):
        encoded = images_lib.png(image)
      return encoded, original, done, ''
    except images_lib.BadImage as error:
      return b'', b'', [], str(error)
    except OSError as error:
      return b'', b'', [], f'cannot be read ({error.strerror})'

  def print_summary(self) -> None:
    """Prints one line about the files and the copy, and one for each file left out."""
    for line in self.skipped:
      print(f'skipped: {line}', file=sys.stderr)
    counts = ' and '.join(f'{count} {split}' for split, count in self.expected.items())
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


class _InOrder:
  """In place of TFDS's Shuffler, for records that keep their order.

  That one holds up to a GiB of records in memory and writes larger splits with TensorFlow. This one keeps them in one
  file without a name, so memory does not grow with them and the file goes with the process.
  """

  def __init__(self, dirpath: os.PathLike | str, hash_salt: object, disable_shuffling: bool, ignore_duplicates: bool):
    os.makedirs(dirpath, exist_ok=True)
    self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115  (as long as this)
    self._sizes: list[int] = []

  size = property(lambda self: sum(self._sizes))
  num_examples = property(lambda self: len(self._sizes))
  bucket_lengths = property(lambda self: [len(self._sizes)])

  def add(self, key: int, data: bytes) -> None:
    self._file.write(data)
    self._sizes.append(len(data))

  def __iter__(self) -> Iterator[tuple[int, bytes]]:
    self._file.seek(0)
    for key, size in enumerate(self._sizes):
      yield key, self._file.read(size)


def _listed(title: str, counted: Counter[str] | None) -> list[str]:
  """['title: 3 these, 2 those'], or [] of none."""
  words = [f'{count} {what}' for what, count in (counted or Counter()).most_common() if count]
  return [f'{title}: {", ".join(words)}'] if words else []


def digest_of(facts: Any) -> str:
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def check_classes(
  folder: Path, names: dict[int, str], splits: dict[str, list[Photo]], passed_over: Counter[str] | None = None
) -> None:
  """Raises UserError for no class, no test images, or a class without training images.

  names: label -> class. passed_over: as in `Files`.
  """
  if not names:
    raise UserError(f'{folder} has no classes: one folder of images each. Use at least 2.')
  within = {photo.path.parent for photos in splits.values() for photo in photos}
  if len(names) == 1 and len(within) > 1 and not any(parent.name in names.values() for parent in within):
    raise UserError(f"{folder} has one class, '{names[0]}', with folders in it. Name the one that holds the classes.")
  trained = {names[photo.label] for photo in splits['train']}
  if empty := next((name for name in names.values() if name not in trained), ''):
    twin = [f"'{name}' has some" for name in trained if name.casefold() == empty.casefold()]
    notes = f' ({"; ".join(hints)})' if (hints := twin + _listed('passed over', passed_over)) else ''
    raise UserError(f"class '{empty}' in {folder} has no training images{notes}. Add some, or remove its folder.")
  if not splits.get('test', True):
    raise UserError(f'{folder} has no test images. Add some; to be split, a class needs 2 images.')


def words_of(file: Path, separator: str) -> dict[str, str]:
  """WordNet id -> its words, from a file of both; {} without that file."""
  return dict(line.split(separator, 1) for line in lines(file) if separator in line) if file.is_file() else {}


def unique_names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
  """The first word of each WordNet id, with the id where two share the word; the id itself where it has no word."""
  first = [words.get(wnid, wnid).split(',')[0].strip() or wnid for wnid in wnids]
  count = Counter(first)
  return tuple(name if count[name] == 1 else f'{name} ({wnid})' for name, wnid in zip(first, wnids, strict=True))
