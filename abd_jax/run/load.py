"""Loads a trained model from a workdir. Needs neither its data set nor an optimizer."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from tqdm import tqdm

from abd_jax import methods
from abd_jax.config import Config, changed, default, restored
from abd_jax.data import folders, prepare
from abd_jax.data.images import Reading, threads
from abd_jax.data.memory import capacity
from abd_jax.devices.backend import devices, full_precision_matmul, pin_numbers
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.models import pretrained
from abd_jax.models.kernels import Kernels
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import manifest_file, read_manifest, read_model
from abd_jax.run.schedule import TeacherId
from abd_jax.state import Classes, FrozenModel, PhaseData, TaskSnapshot
from abd_jax.steps import chunks
from abd_jax.steps.components import make_components
from abd_jax.steps.inputs import inversion_inputs
from abd_jax.steps.inversion import init_generator, make_inversion_step, sample
from abd_jax.steps.student import embed, frozen_outputs, in_batches, predict, predicting, probabilities

PLATFORMS = ('cpu', 'cuda', 'tpu')
BATCH = 256  # images, unless the caller gives another batch_size
_HIGHEST = 255  # of uint8
Paths = str | os.PathLike | Sequence[str | os.PathLike]


@partial(jax.jit, static_argnums=0)
@full_precision_matmul
def block_outputs(network: Any, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
  """Name -> f[b, d]: the output of each part of a Classifier's backbone, averaged over positions."""
  parts = lambda module, name: name == '__call__' and len(module.path) == 2
  _, kept = network.apply(variables, images, train=False, capture_intermediates=parts, mutable=['intermediates'])
  return {
    name: part['__call__'][0].astype(np.float32).mean((1, 2))
    for name, part in kept['intermediates']['backbone'].items()
  }


class ImageFiles(AbstractContextManager):
  """Files whose slices are images u8[n, h, w, c], read as `reading` says. A terminal shows a bar for many files."""

  def __init__(self, files: Sequence[Path], reading: Reading):
    self._files, self._reading, self._done = files, reading, []
    self._bar = tqdm(total=len(files), unit='image', disable=None if len(files) > BATCH else True, leave=False)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, part: slice) -> np.ndarray:
    """Raises UserError for a file that cannot be read, or whose size is not the model's."""
    images = np.stack(list(threads().map(partial(self._reading.read, told=self._done), self._files[part])))
    self._bar.update(len(images))
    return images

  def __exit__(self, *exc) -> None:
    self._bar.close()
    if count := self._done.count('saturated'):
      low, high = self._reading.value_range
      print(f'{count} images have values beyond {low:g} to {high:g}, the range in training.', file=sys.stderr)


class LoadedModel:
  """A frozen model with its class names, its preprocessing and, if one was trained against it, its generator.

  Attributes:
    class_names: of the classes it has learnt, in learning order.
    image_shape: (h, w, c) of its input.
    white: the highest raw pixel value, 255 (16 for digits).
    task: 0-based, the last task that it has learnt.
    tasks: all tasks of the run, also later ones.
    config: the config of the run.
    can_dream: whether `dream` works. It does after every task but the last, if the method dreams.
  """

  def __init__(self, config: Config, model: FrozenModel, manifest: dict):
    self.config, self.task, self._model, self._manifest = config, manifest['task'], model, manifest
    self.image_shape, self.white = tuple(manifest['image_shape']), float(config.data.max_value)
    order, sizes = manifest['class_order'], tuple(manifest['task_sizes'])
    self.class_names = tuple(order['names'][: sum(sizes[: self.task + 1])])
    self.tasks = Tasks(tuple(order['original_ids']), sizes)
    self._classes = Classes(self.task_of_class, np.int32(self.task))
    self._method = methods.get(config)
    self._components = make_components(config, self.tasks.num_classes, self.image_shape, None)
    compiled = lambda function: jax.jit(full_precision_matmul(function))
    self._logits = compiled(partial(predict, self._components, self._method))
    self._probabilities = compiled(partial(probabilities, self._components, self._method))
    self._embed = compiled(partial(embed, self._components))
    self._dream = jax.jit(full_precision_matmul(self._sampled), static_argnums=2)
    self._dreamer = next((phase.dreamer for phase in self._method.later if phase.dreamer), None)
    self.can_dream = bool(model.generator) or self._dreamer is not None

  @cached_property
  def reading(self) -> Reading:
    """How image files are read. Imports tfds, which predicting arrays does not need."""
    return prepare.reading(self.config.data, self.image_shape, tuple(self._manifest.get('value_range', ())))

  def predict(self, images: np.ndarray | Paths, batch_size: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """(str[n] the likeliest class of each image, f32[n, len(class_names)] probabilities).

    Args:
      images: u8[n, h, w, c], raw; or the path of an image file or of a folder, whose images are sorted by path, or a
        list of paths. Files are read as the run's test images were.
      batch_size: the largest batch.

    Raises:
      UserError: images of another shape or type, or with values above `white`; a file that cannot be read.
    """
    if isinstance(images, str | os.PathLike):
      images = [images]
    if isinstance(images, list | tuple) and all(isinstance(one, str | os.PathLike) for one in images):
      with ImageFiles(folders.image_paths(images), self.reading) as files:
        return self._predict(files, batch_size)
    array: Any = images
    self._check(array)
    return self._predict(array, batch_size)

  def _predict(self, images: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    likeliest, found = _in_batches(partial(self._call, self._probabilities), images, batch_size)
    return np.asarray(self.class_names)[likeliest], found[:, : len(self.class_names)]

  def logits(self, images: Any) -> np.ndarray:
    """f32[n, len(class_names)]: what classes are predicted by, in the batches of the run's own evaluation.

    images: u8[n, h, w, c], or an object whose slices are such arrays. Raises UserError as `predict` does.
    """

    def of_batch(batch: np.ndarray) -> jax.Array:
      self._check(batch)
      return self._call(self._logits, batch)

    return in_batches(of_batch, images, self.config.eval_batch_size)[:, : len(self.class_names)]

  def function(self, folded: bool = False) -> Callable[[jax.Array], jax.Array]:
    """Raw images u8[n, h, w, c] -> probabilities f32[n, len(class_names)]; NaN for images with values above `white`.

    folded: in float32, with batch norms folded into the convolutions before them.
    """
    parts, model, known = self._components, self._model, len(self.class_names)
    if folded:
      config = changed(self.config, {'precision': 'float32'})
      parts = make_components(config, self.tasks.num_classes, self.image_shape, None, kernels=Kernels(folds=True))
      parts, model = parts._replace(model=parts.teacher), jax.device_get(jax.jit(parts.as_teacher)(model))
    predict = full_precision_matmul(partial(probabilities, parts, self._method))

    def probabilities_of(images: jax.Array) -> jax.Array:
      found = predict(model, images, self._classes)[1][:, :known]
      if self.white >= _HIGHEST:
        return found
      return jax.numpy.where(images.max((1, 2, 3))[:, None] > self.white, np.nan, found)

    return probabilities_of

  def export(self) -> bytes:
    """`function()`, with its weights, as jax.export writes it, for any n >= 1 on CPU, CUDA and TPU."""
    (n,) = export.symbolic_shape('n')
    images = jax.ShapeDtypeStruct((n, *self.image_shape), np.uint8)
    return bytes(export.export(jax.jit(self.function()), platforms=PLATFORMS)(images).serialize())

  def invert(self) -> 'LoadedModel':
    """This model with a generator, trained against it now as config.inversion says. The run stays as it is."""
    parts, settings, seed = self._components, self.config.inversion, 0
    step, inputs = chunks.Chunk(make_inversion_step(parts, settings)), inversion_inputs(settings)
    data = PhaseData(None, None, self._classes, (self._model,), np.uint32(seed))
    state = jax.jit(partial(init_generator, parts, seed))(self.task)
    for trained, _, _ in chunks.run(step, state, data, inputs, range(inputs.steps), self.config.chunk_steps):
      state = trained
    return LoadedModel(self.config, self._model.replace(generator=state.variables), self._manifest)

  def features(self, images: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
    """Features f32[n, d], the input of the head. Arguments and errors as in `predict`."""
    self._check(images)
    return _in_batches(partial(self._embed, self._model), images, batch_size)

  def dream(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(dreamed images f32[n, h, w, c] in [0, 1], the classes str[n] that the model predicts for them).

    Raises UserError if no generator was trained against this model.
    """
    images, probabilities = self.dream_normalised(n, seed)
    return self.denormalise(images), np.asarray(self.class_names)[probabilities.argmax(1)]

  def dream_normalised(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(the same dreams, normalised, f32[n, h, w, c]; the model's probabilities f32[n, len(class_names)]).

    Raises UserError as `dream` does.
    """
    if not self.can_dream:
      raise UserError(
        f'the model after task {self.task + 1} has no generator: only methods that dream train one, after every task '
        'but the last. Load an earlier task.'
      )
    return jax.device_get(self._dream(self._model, jax.random.key(seed), n))

  def normalise(self, images: np.ndarray) -> np.ndarray:
    """Raw images u8[n, h, w, c] -> the input of the network, f32[n, h, w, c]. Errors as in `predict`."""
    self._check(images)
    return np.asarray(self._components.images.normalise(jax.numpy.asarray(images)))

  def denormalise(self, images: np.ndarray) -> np.ndarray:
    """The inverse of `normalise`, f32[n, h, w, c] in [0, 1], for pictures."""
    return np.asarray(self._components.images.denormalise(jax.numpy.asarray(images)))

  @property
  def task_of_class(self) -> np.ndarray:
    """i32[c]: the 0-based task of each class, in learning order."""
    return self.tasks.task_of_class

  @property
  def class_means(self) -> np.ndarray | None:
    """f32[c, d]: the means of the classes' features that the method keeps; None if it keeps none."""
    return np.asarray(self._model.statistics['means']) if 'means' in self._model.statistics else None

  @property
  def memory_images(self) -> int:
    """How many real images the method may store."""
    return capacity(self.config.memory, sum(self.tasks.sizes)) if self._method.memory else 0

  def layers(self, images: np.ndarray, batch_size: int = BATCH) -> dict[str, np.ndarray]:
    """Name -> f32[n, d]: the output of each block, averaged over positions, in order. The last are the features.

    images: f32[n, h, w, c], normalised. Raises UserError for another shape or type.
    """
    self._check_form(images, 'float32', 'float64', 'float16', 'bfloat16')
    function = partial(block_outputs, self._components.model, self._model.variables)
    outputs = _in_batches(function, images, batch_size)
    number = lambda name: tuple(map(int, re.findall(r'\d+', name)))  # () of the stem
    return {name: outputs[name] for name in sorted(outputs, key=number)}

  def nbytes(self) -> dict[str, int]:
    """Bytes of the arrays of 'student' and, if there are any, of 'generator' and 'statistics' of classes."""
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    beside = {'generator': size(self._model.generator), 'statistics': size(self._model.statistics)}
    student = size(self._model) - sum(beside.values())
    return {'student': student} | {name: count for name, count in beside.items() if count}

  def _call(self, function, images: np.ndarray):
    return function(self._model, images, self._classes)

  def _sampled(self, model: FrozenModel, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    parts = self._components
    dreams = self._dreamer(model, key, n) if self._dreamer else sample(parts, model.generator, key, n)
    logits = predicting(self._method, frozen_outputs(parts.model, model, dreams), self._classes)
    return dreams, jax.nn.softmax(logits[:, : len(self.class_names)])

  def _check(self, images: np.ndarray) -> None:
    self._check_form(images, 'uint8')
    if self.white < _HIGHEST and len(images) and (highest := np.max(images)) > self.white:
      raise UserError(
        f'images: expected values from 0 to {self.white:g}, as in training, got {highest}. Scale them to that range.'
      )

  def _check_form(self, images: np.ndarray, *dtypes: str) -> None:
    expected = f'images: expected {dtypes[0]}[n, {str(self.image_shape)[1:-1]}]'
    shape, dtype = getattr(images, 'shape', None), getattr(images, 'dtype', None)
    if shape is None or dtype is None:
      raise UserError(f'{expected}, got a {type(images).__name__}.')
    if shape[1:] != self.image_shape or str(dtype) not in dtypes:
      raise UserError(f'{expected}, got {dtype}{list(shape)}.')


def _in_batches(function: Any, images: Any, batch_size: int) -> Any:
  """As `in_batches`, but pads few images only to the next power of two. Each size is compiled once."""
  enough = 1 << max(len(images) - 1, 0).bit_length()
  return in_batches(function, images, min(batch_size, enough))


def load_model(workdir: str | Path, task: int | None = None, class_names: Sequence[str] = ()) -> LoadedModel:
  """The model that a run froze after a task, or that of a safetensors file with its own head.

  Sets JAX's random number generator to threefry2x32 (partitionable) and its types to 32 bits, for the whole process,
  so that the model's numbers are the same everywhere.

  Args:
    workdir: the workdir of a run, finished or not; or a file as for config.model.init.
    task: 0-based; None for the newest model that is complete on disk.
    class_names: of the file's classes, in its order; () numbers them.

  Raises:
    UserError: the workdir or file has no such model, or it is damaged.
  """
  if Path(workdir).is_file():
    return _model_of_file(Path(workdir), class_names)
  config, manifest, snapshot = load_snapshot(workdir, task)
  return LoadedModel(config, snapshot.model, manifest)


def _model_of_file(file: Path, class_names: Sequence[str]) -> LoadedModel:
  """A pretrained network as one that has learnt all its classes in one task. It reads images as it was trained to."""
  pin_numbers()
  found = pretrained.read(file)
  classes = len(found.head.get('bias', ()))
  if not classes or len(class_names) not in (0, classes):
    raise UserError(f'{file} has a head of {classes} classes, expected {len(class_names) or "one"}.')
  side, crop = (32, 'padded') if found.variant == 'abd' else (224, 'resized')
  network = {f'model.{name}': getattr(found, name) for name in ('variant', 'blocks', 'widths')}
  data = {'data.name': 'image_folder', 'data.mean': pretrained.MEAN, 'data.std': pretrained.STD, 'data.crop': crop}
  generator = {'generator.start': (side // 8, side // 8, 8), 'generator.widths': (8, 8, 8)}  # never used, but must fit
  order = {'names': list(class_names or map(str, range(classes))), 'original_ids': list(range(classes))}
  manifest = {
    'task': 0, 'task_sizes': [classes], 'class_order': order, 'image_shape': [side, side, found.channels]
  }  # fmt: skip
  params = {'backbone': found.params, 'head': found.head}
  model = FrozenModel(params, {'backbone': found.batch_stats}, {}, {})
  return LoadedModel(changed(default(), network | data | generator | {'method': 'base'}), model, manifest)


def load_snapshot(workdir: str | Path, task: int | None = None) -> tuple[Config, dict, TaskSnapshot]:
  """(config, manifest, arrays) of the model that `load_model` returns."""
  folder = Path(workdir).absolute() / 'teachers'
  models = (TeacherId.of_folder(path.name) for path in folder.glob('*') if path.is_dir())
  there = sorted(one.task for one in models if one and one.phase is None)
  if not there:
    raise UserError(_why_none(folder.parent))
  if task is not None and task not in there:
    raise UserError(f'{folder} has no model after task {task} (0-based). It has: {", ".join(map(str, there))}.')
  if task is None:  # while a run goes on, the newest may not be complete: its manifest is written last
    complete = [one for one in there if manifest_file(folder / str(one)).exists()]
    finished = (folder.parent / 'results.json').exists()
    task = complete[-1] if complete and not finished else there[-1]
  return load_teacher(workdir, TeacherId(task))


def load_teacher(workdir: str | Path, one: TeacherId) -> tuple[Config, dict, TaskSnapshot]:
  """(config, manifest, arrays on this host's first device) of any frozen model. Raises UserError if it is damaged."""
  pin_numbers()  # dreams depend on them
  folder = Path(workdir).absolute() / 'teachers' / one.folder
  manifest = read_manifest(folder)
  here = DataMesh(devices(local=True)[:1]).replicated
  return restored(manifest['config']), manifest, read_model(folder, here)


def _why_none(folder: Path) -> str:
  """Why a workdir has no frozen model."""
  file = folder / 'config.json'
  config = restored(read_json(file)) if file.is_file() else None
  if config and methods.get(config).offline:
    models = config.oracle_dir or folder.parent / 'oracles'
    return f'{folder} is an upper bound. The model of each task is in a workdir of its own in {models}.'
  return f'{folder} has no frozen model: no run has completed a task there.'
