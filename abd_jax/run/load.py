"""A trained model, back from a workdir without its data set and without an optimizer."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from abd_jax import methods
from abd_jax.config import Config, restored
from abd_jax.devices.backend import devices, full_precision_matmul, pin_numbers
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.files import read_json
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import TeacherStore, abstract_snapshot, abstract_states, manifest_file, read_manifest
from abd_jax.run.schedule import TeacherId
from abd_jax.state import Classes, FrozenModel, TaskSnapshot
from abd_jax.steps.components import make_components
from abd_jax.steps.inversion import sample
from abd_jax.steps.student import in_batches, make_embed, make_probabilities

PLATFORMS = ('cpu', 'cuda', 'tpu')
BATCH = 256  # images at most, where the caller names no number
_HIGHEST = 255  # of uint8


@partial(jax.jit, static_argnums=0)
@full_precision_matmul
def block_outputs(network: Any, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
  """Name -> f[b, d]: what each part of a Classifier's backbone gives, averaged over positions."""
  parts = lambda module, name: name == '__call__' and len(module.path) == 2
  _, kept = network.apply(variables, images, train=False, capture_intermediates=parts, mutable=['intermediates'])
  return {
    name: part['__call__'][0].astype(np.float32).mean((1, 2))
    for name, part in kept['intermediates']['backbone'].items()
  }


class LoadedModel:
  """A frozen model with the class names, the preprocessing and, if one was trained against it, its generator.

  Attributes:
    class_names: of the classes it has learnt, in learning order.
    image_shape: (h, w, c) of its input.
    white: the highest raw value it takes: 255, or 16 for digits.
    task: 0-based, the last that it has learnt.
    tasks: all of the run, also those that come after.
    config: the run's, fields that came later at their defaults.
    can_dream: whether `dream` works: after every task but the last, for methods that dream.
  """

  def __init__(self, config: Config, model: FrozenModel, manifest: dict):
    self.config, self.task, self._model = config, manifest['task'], model
    self.image_shape, self.white = tuple(manifest['image_shape']), float(config.data.max_value)
    order, sizes = manifest['class_order'], tuple(manifest['task_sizes'])
    self.class_names = tuple(order['names'][: sum(sizes[: self.task + 1])])
    self.tasks = Tasks(tuple(order['original_ids']), sizes)
    self._classes = Classes(self.task_of_class, np.int32(self.task))
    self._method = methods.get(config)
    self._components = make_components(config, self.tasks.num_classes, self.image_shape, None)
    compiled = lambda function: jax.jit(full_precision_matmul(function))
    self._probabilities = compiled(make_probabilities(self._components, self._method))
    self._embed = compiled(make_embed(self._components))
    self._dream = jax.jit(full_precision_matmul(self._sampled), static_argnums=2)
    self._dreamer = next((phase.dreamer for phase in self._method.later if phase.dreamer), None)
    self.can_dream = bool(model.generator) or self._dreamer is not None

  def predict(self, images: np.ndarray, batch_size: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """(str[n] the likeliest class of each image, f32[n, len(class_names)] probabilities).

    images: u8[n, h, w, c], raw. batch_size: at most so many at once. Raises UserError if they are of another shape or
    type, or higher than `white`.
    """
    self._check(images)
    likeliest, probabilities = _in_batches(partial(self._call, self._probabilities), images, batch_size)
    return np.asarray(self.class_names)[likeliest], probabilities[:, : len(self.class_names)]

  def export(self) -> bytes:
    """images u8[n, h, w, c], raw -> f32[n, len(class_names)] probabilities, as jax.export writes it, weights inside.

    For any n from 1 on, on CPU, CUDA and TPU. Of an image with values above `white` all are NaN: it cannot raise.
    """
    function = full_precision_matmul(make_probabilities(self._components, self._method))
    known = len(self.class_names)

    @jax.jit
    def predict(images: jax.Array) -> jax.Array:
      probabilities = function(self._model, images, self._classes)[1][:, :known]
      if self.white >= _HIGHEST:
        return probabilities
      return jax.numpy.where(images.max((1, 2, 3))[:, None] > self.white, np.nan, probabilities)

    (n,) = export.symbolic_shape('n')
    images = jax.ShapeDtypeStruct((n, *self.image_shape), np.uint8)
    return bytes(export.export(predict, platforms=PLATFORMS)(images).serialize())

  def features(self, images: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
    """f32[n, d]: what the head sees. images, batch_size: as of `predict`, which raises as this does."""
    self._check(images)
    return _in_batches(partial(self._embed, self._model), images, batch_size)

  def dream(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(f32[n, h, w, c] dreamed images in [0, 1], str[n] the classes that the model sees in them).

    Raises UserError if nothing was trained to dream of this model.
    """
    images, probabilities = self.dream_normalised(n, seed)
    return self.denormalise(images), np.asarray(self.class_names)[probabilities.argmax(1)]

  def dream_normalised(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(f32[n, h, w, c] the same dreams as a student sees them, f32[n, len(class_names)] the model's probabilities).

    Raises UserError as `dream` does.
    """
    if not self.can_dream:
      raise UserError(
        f'nothing dreams of the model after task {self.task + 1}: a generator is trained after every task but the '
        'last, by methods that dream. Load an earlier task.'
      )
    return jax.device_get(self._dream(self._model, jax.random.key(seed), n))

  def normalise(self, images: np.ndarray) -> np.ndarray:
    """f32[n, h, w, c]: raw images u8[n, h, w, c] as the network sees them. Raises UserError for others."""
    self._check(images)
    return np.asarray(self._components.images.normalise(jax.numpy.asarray(images)))

  def denormalise(self, images: np.ndarray) -> np.ndarray:
    """f32[n, h, w, c] in [0, 1], for pictures: what `normalise` or `dream_normalised` gave."""
    return np.asarray(self._components.images.denormalise(jax.numpy.asarray(images)))

  @property
  def task_of_class(self) -> np.ndarray:
    """i32[c]: the 0-based task of each class, in learning order."""
    return self.tasks.task_of_class

  @property
  def memory_images(self) -> int:
    """How many real images the method may store: 0 for those without a memory."""
    return self.config.memory.size if self._method.memory else 0

  def layers(self, images: np.ndarray, batch_size: int = BATCH) -> dict[str, np.ndarray]:
    """Name -> f32[n, d]: each block's output, averaged over positions, in order; the last are the features.

    images: f32[n, h, w, c], normalised; raises UserError for others. Models of one architecture share their
    compilation.
    """
    self._check_form(images, 'float32', 'float64', 'float16', 'bfloat16')
    function = partial(block_outputs, self._components.model, self._model.variables)
    outputs = _in_batches(function, images, batch_size)
    number = lambda name: tuple(map(int, re.findall(r'\d+', name)))  # () of the stem
    return {name: outputs[name] for name in sorted(outputs, key=number)}

  def nbytes(self) -> dict[str, int]:
    """Bytes of the arrays that are kept: 'student' and, where there is one, 'generator'."""
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    generator = size(self._model.generator)
    return {'student': size(self._model) - generator} | ({'generator': generator} if generator else {})

  def _call(self, function, images: np.ndarray):
    return function(self._model, images, self._classes)

  def _sampled(self, model: FrozenModel, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    parts = self._components
    dreams = self._dreamer(model, key, n) if self._dreamer else sample(parts, model.generator, key, n)
    _, logits = parts.model.apply(model.variables, dreams, train=False)
    return dreams, jax.nn.softmax(logits[:, : len(self.class_names)])

  def _check(self, images: np.ndarray) -> None:
    self._check_form(images, 'uint8')
    if self.white < _HIGHEST and len(images) and (highest := np.max(images)) > self.white:
      raise UserError(
        f'images have values up to {highest}; this model takes 0 to {self.white:g}, as it was trained on. Scale them '
        'to that range.'
      )

  def _check_form(self, images: np.ndarray, *dtypes: str) -> None:
    takes = f'this model takes {dtypes[0]}[n, {str(self.image_shape)[1:-1]}]'
    shape, dtype = getattr(images, 'shape', None), getattr(images, 'dtype', None)
    if shape is None or dtype is None:  # a list, say, whose rows may not even be of one length
      raise UserError(f'images are no array, but of type {type(images).__name__}; {takes}.')
    if shape[1:] != self.image_shape or str(dtype) not in dtypes:
      raise UserError(f'images are {dtype}{list(shape)}; {takes}.')


def _in_batches(function: Any, images: np.ndarray, batch_size: int) -> Any:
  """As `in_batches`, but pads few images only to the next power of two. Each size is compiled once."""
  enough = 1 << max(len(images) - 1, 0).bit_length()
  return in_batches(function, images, min(batch_size, enough))


def load_model(workdir: str | Path, task: int | None = None) -> LoadedModel:
  """The model that a run froze after a task, from its workdir alone.

  Its numbers are the same everywhere: JAX is told for that, in this process and from now on, to draw by threefry2x32
  (partitionable), and to make no arrays of 64 bits.

  Args:
    workdir: of a run, finished or not.
    task: 0-based; None for the newest, which of a run that is going on is the newest that is written in full.

  Raises:
    UserError: no such model there, or it is damaged.
  """
  config, manifest, snapshot = load_snapshot(workdir, task)
  return LoadedModel(config, snapshot.model, manifest)


def load_snapshot(workdir: str | Path, task: int | None = None) -> tuple[Config, dict, TaskSnapshot]:
  """(config, manifest, arrays) of the model that `load_model` gives."""
  folder = Path(workdir).absolute() / 'teachers'
  models = (TeacherId.of_folder(path.name) for path in folder.glob('*') if path.is_dir())
  there = sorted(one.task for one in models if one and one.phase is None)
  if not there:
    raise UserError(_why_none(folder.parent))
  if task is not None and task not in there:
    raise UserError(f'{folder} holds no model after task {task} (0-based). There are: {", ".join(map(str, there))}.')
  if task is None:  # while a run goes on, the newest may not be complete: its manifest is written last
    complete = [one for one in there if manifest_file(folder / str(one)).exists()]
    finished = (folder.parent / 'results.json').exists()
    task = complete[-1] if complete and not finished else there[-1]
  return load_teacher(workdir, TeacherId(task))


def load_teacher(workdir: str | Path, one: TeacherId) -> tuple[Config, dict, TaskSnapshot]:
  """The same of any frozen model. Raises UserError if it is not as it was written."""
  pin_numbers()  # what it dreams depends on them
  manifest = read_manifest(Path(workdir).absolute() / 'teachers' / one.folder)
  config = restored(manifest['config'])
  store = TeacherStore(Path(workdir), alone=True)
  try:
    return config, manifest, store.load(one.folder, _abstract(config, manifest, one))
  finally:
    store.close()


def _abstract(config: Config, manifest: dict, one: TeacherId) -> TaskSnapshot:
  """Shapes, dtypes and placement of a frozen model, without its data set."""
  image_shape, method = tuple(manifest['image_shape']), methods.get(config)
  sharding = DataMesh(devices(local=True)[:1]).replicated
  components = make_components(config, len(manifest['class_order']['names']), image_shape, None)
  states = abstract_states(components, image_shape, method.extra_init, sharding)
  dreamed = one.phase is None and method.inverts and one.task + 1 < len(manifest['task_sizes'])
  return abstract_snapshot(states, dreamed, config.memory.size if method.memory else 0, image_shape, sharding)


def _why_none(folder: Path) -> str:
  """Why a workdir has no frozen model."""
  file = folder / 'config.json'
  config = restored(read_json(file)) if file.is_file() else None
  if config and methods.get(config).offline:
    models = config.oracle_dir or folder.parent / 'oracles'
    return f'{folder} is an upper bound: it has a model for each task, in workdirs of their own in {models}.'
  return f'{folder} holds no frozen model: no task of a run there is complete.'
