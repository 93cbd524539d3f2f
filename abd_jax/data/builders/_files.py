"""Data sets that are files in folders: a TFDS builder for any list of them, which checks and converts each image."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tqdm import tqdm

from abd_jax.data import images as images_lib
from abd_jax.data.options import Options
from abd_jax.data.paths import digest_of, is_utf8
from abd_jax.data.threads import pool
from abd_jax.errors import UserError, shown

_BLOCK = 256  # files that are read and converted at once


class Photo(NamedTuple):
  path: Path
  label: int


class Files(NamedTuple):
  """What to prepare.

  Attributes:
    class_names: of all classes, by label.
    splits: the files of 'train' and 'test', in the order in which they are stored.
    shape: (h, w, c) to store images in; None for h and w: each as it is.
    size: of the network's images, found out; 0: as stored.
    passed_over: how many files of each ending are taken for no images.
  """

  class_names: tuple[str, ...]
  splits: dict[str, list[Photo]]
  shape: tuple[int | None, int | None, int]
  size: int = 0
  passed_over: tuple[tuple[str, int], ...] = ()


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images `image`, classes `label` and the path `file` of each. A subclass says in `find` where they are.

  Attributes:
    skipped: what was wrong with the files left out of each split, with options.damaged 'skip'.
    done: how many images had to be changed in which way.
  """

  VERSION = tfds.core.Version('1.0.0')
  COUNTS: ClassVar[dict[str, int]] = {}
  files: Files = Files((), {}, (None, None, 3))

  def __init__(self, *, files: Files, options: Options, **kwargs):
    self.files, self.options = files, options
    self.skipped: dict[str, list[str]] = {split: [] for split in files.splits}
    self.done: Counter[str] = Counter()
    super().__init__(**kwargs)

  @classmethod
  def find(cls, folder: Path, downloads: Path, download: bool, options: Options) -> Files:
    """The files that lie in `folder`, or in an archive in `downloads`. Raises UserError if they are not all there."""
    raise NotImplementedError

  @classmethod
  def key(cls, folder: Path, options: Options) -> str:
    """The name of the prepared copy, one for all that would make the same."""
    return cls.name

  @classmethod
  def contents(cls, files: Files, options: Options) -> str:
    """What tells these files from others, by their names, and this way to prepare them."""
    names = {split: [(photo.path.name, photo.label) for photo in photos] for split, photos in files.splits.items()}
    return digest_of([files.class_names, files.shape, options.damaged, names])

  @classmethod
  def check_copy(cls, copy: Path, folder: Path, downloads: Path, options: Options) -> None:
    """Raises UserError if the prepared `copy` is of other files than those that `find` finds now, if it does."""
    try:
      made_of = json.loads((copy / 'metadata.json').read_text()).get('contents')
      now = made_of and cls.contents(cls.find(folder, downloads, False, options), options)
    except (OSError, ValueError, UserError):  # made by an earlier version, or the files are gone
      return
    if now != made_of:
      raise UserError(
        f'{copy} was prepared from other files than lie in {folder} now, or by another --config.data.damaged. Delete '
        'it to prepare it anew, or choose another --config.data.prepared.'
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
      metadata=tfds.core.MetadataDict(size=self.files.size, contents=self.contents(self.files, self.options)),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self.files.splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    photos, kept, digest = self.files.splits[split], 0, hashlib.sha256()
    with tqdm(photos, desc=f'{self.name}, {split}', unit='image', disable=None, leave=False) as bar:
      for start in range(0, len(photos), _BLOCK):
        block = photos[start : start + _BLOCK]
        for photo, (encoded, original, done, wrong) in zip(block, pool().map(self._convert, block), strict=True):
          bar.update()
          if wrong:
            self._refuse_or_skip(split, f'{photo.path} {wrong}')
            continue
          self.done.update(done)
          digest.update(original)
          yield kept, {'image': encoded, 'label': photo.label, 'file': os.fspath(photo.path)}
          kept += 1
    if not kept:
      raise UserError(f'none of the {len(photos)} {split} images of {self.name} can be read. Mend them.')
    metadata: Any = self.info.metadata
    metadata[f'{split}_digest'] = digest.hexdigest()

  def _refuse_or_skip(self, split: str, what: str) -> None:
    if self.options.damaged == 'refuse':
      raise UserError(f'{what}. Replace it, or skip such files with --config.data.damaged=skip.')
    self.skipped[split].append(what)

  def _convert(self, photo: Photo) -> tuple[bytes, bytes, list[str], str]:
    """(bytes to store, digest of the file's, what was done to the image, what is wrong with it)."""
    try:
      encoded = photo.path.read_bytes()
      original = hashlib.sha256(encoded).digest()
      height, width, channels = self.files.shape
      image, done = images_lib.plain(encoded, channels)
      size = (height or image.height, width or image.width)
      if size != (image.height, image.width):
        image = images_lib.resize(image, size, images_lib.square_box(image.width, image.height))
        done.append('resized')
      if done or image.format not in ('PNG', 'JPEG'):
        encoded = images_lib.png(image)
      return encoded, original, done, ''
    except images_lib.BadImage as error:
      return b'', b'', [], str(error)
    except OSError as error:
      return b'', b'', [], f'cannot be read ({error.strerror})'

  @property
  def expected(self) -> dict[str, int]:
    """How many images each split has, once prepared."""
    return {split: len(photos) - len(self.skipped[split]) for split, photos in self.files.splits.items()}

  def tell(self) -> None:
    """One line about what was found and done, and one for each file left out."""
    skipped = [line for lines in self.skipped.values() for line in lines]
    for line in skipped:
      print(f'skipped: {line}', file=sys.stderr)
    counts = ' and '.join(f'{count} {split}' for split, count in self.expected.items())
    height, width, channels = self.files.shape
    size = f'{height}x{width}' if height else 'of their own sizes'
    line = (
      f'{self.name}: {counts} images of {len(self.files.class_names)} classes, stored {size} with {channels} channels'
    )
    of_each = lambda counted: ', '.join(f'{count} {what}' for what, count in counted)
    line += f'; converted: {of_each(self.done.most_common())}' if self.done else ''
    line += f'; skipped: {len(skipped)}' if skipped else ''
    line += f'; no images: {of_each(self.files.passed_over)}' if self.files.passed_over else ''
    print(line, file=sys.stderr)


def check_classes(folder: Path, names: Sequence[str], splits: dict[str, list[Photo]]) -> None:
  """Raises UserError for no class, one without training images, a name that TFDS would not keep, no test images."""
  for name in names:
    if not is_utf8(name) or not name.strip() or name != name.strip() or len(name.splitlines()) > 1:
      raise UserError(f"class {shown(name)!r} in {folder}: a name with blanks at its ends, line breaks or letters that "
                      'are not UTF-8 cannot be stored. Rename it.')  # fmt: skip
  if not names:
    raise UserError(f'{folder} has no classes: one folder of images each. Use at least 2.')
  within = {photo.path.parent for photos in splits.values() for photo in photos}
  if len(names) == 1 and len(within) > 1 and not any(parent.name == names[0] for parent in within):
    raise UserError(f"{folder} has one class, '{names[0]}', with folders in it. Name the one that holds the classes.")
  trained = {photo.label for photo in splits['train']}
  empty = [name for label, name in enumerate(names) if label not in trained]
  if empty:
    raise UserError(f"class '{empty[0]}' in {folder} has no training images. Add some, or remove its folder.")
  if not splits.get('test', True):
    raise UserError(f'{folder} has no test images. Add some, or leave the empty folder for them out.')


def unique_names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
  """The first of the words for each WordNet id, with the id where two share it; the id itself where there is none."""
  first = [words.get(wnid, wnid).split(',')[0].strip() or wnid for wnid in wnids]
  count = Counter(first)
  return tuple(name if count[name] == 1 else f'{name} ({wnid})' for name, wnid in zip(first, wnids, strict=True))
