"""The parts of every step: networks, optimizers and image pipeline, made once per run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from abd_jax.data.augment import Augment
from abd_jax.devices.mesh import DataMesh
from abd_jax.errors import UserError
from abd_jax.models import BACKBONES
from abd_jax.models.cast_and_fold import Narrow, fold, narrow, with_narrow
from abd_jax.models.generator import Generator, Pixels
from abd_jax.models.kernels import Kernels, kernels_for
from abd_jax.models.resnet import Classifier
from abd_jax.state import FrozenModel, TrainState

PyTree = Any
# Fields of config.data.
_AUGMENTATION = ('max_value', 'mean', 'std', 'pad', 'pad_value', 'flip', 'brightness', 'contrast')


class Components(NamedTuple):
  model: Any  # a Classifier; Any, for no type checker knows what flax's apply returns
  teacher: Any  # the Classifier that runs the result of `as_teacher`
  generator: Any  # a Generator or Pixels
  # Both without a learning rate: it is an argument of the step, so that no schedule forces a recompile.
  sgd: optax.GradientTransformation  # the student's
  adam: optax.GradientTransformation  # the generator's: (0.9, 0.999, 1e-8)
  images: Augment
  constrain: Callable[[jax.Array], jax.Array]  # marks a batch as split over the devices
  dtype: Any  # that convolutions compute in
  rate_of: Callable[[str], float]  # part of the backbone -> factor of its learning rate; 0: it is frozen
  stats_learn: bool  # whether the student's batches normalise themselves and change the running statistics

  def held(self, params: PyTree) -> PyTree:
    """The parameters, without a gradient to the parts of the backbone that are frozen."""
    return self._by_rate(params, lambda rate, part: part if rate else jax.lax.stop_gradient(part))

  def slowed(self, direction: PyTree) -> PyTree:
    """An update of {'params', 'extra'} with each part of the backbone times the factor of its learning rate."""
    times = lambda rate, part: jax.tree.map(lambda leaf: rate * leaf, part)
    return direction | {'params': self._by_rate(direction['params'], times)}

  def _by_rate(self, params: PyTree, function: Callable[[float, PyTree], PyTree]) -> PyTree:
    rates = {name: self.rate_of(name) for name in params['backbone']}
    parts = {
      name: part if rates[name] == 1 else function(rates[name], part) for name, part in params['backbone'].items()
    }
    return params | {'backbone': parts}

  def copies(self, state: TrainState) -> Narrow:
    """The trained parameters that convolutions read, in their dtype."""
    return narrow(state.params, self.dtype)

  def as_read(self, teacher: FrozenModel) -> FrozenModel:
    """The teacher for steps that read the moments of its layers."""
    return teacher.replace(params=self._narrowed(teacher.params))

  def as_teacher(self, teacher: FrozenModel) -> FrozenModel:
    """The teacher for steps that read its outputs and its dreams."""
    params, stats, generator = teacher.params, teacher.batch_stats, teacher.generator
    if self.teacher.backbone.folded:
      params, stats = fold(params, stats), {}
    if generator:
      generator = generator | {'params': self._narrowed(generator['params'])}
    return teacher.replace(params=self._narrowed(params), batch_stats=stats, generator=generator)

  def _narrowed(self, params: PyTree) -> PyTree:
    return with_narrow(params, narrow(params, self.dtype))


def make_components(
  config,
  num_classes: int,
  image_shape: tuple[int, int, int],
  mesh: DataMesh | None,
  wide=jnp.float32,
  kernels: Kernels | None = None,
) -> Components:
  """The parts that `config` describes, for a head of `num_classes` and images of `image_shape` (h, w, c).

  mesh: splits batches over its devices; None: they stay where they are. kernels: default: those for the mesh.
  wide: dtype of parameters, statistics, images and losses; convolutions compute in config.precision if narrower.
  Raises UserError if they do not fit these images.
  """
  _check_shapes(config.data, config.generator, image_shape)
  kernels = kernels or (kernels_for(mesh) if mesh else Kernels())
  dtype = jnp.bfloat16 if config.precision == 'bfloat16' else wide
  common: dict[str, Any] = dict(gamma_init=config.bn_gamma_init, kernels=kernels, dtype=dtype, param_dtype=wide)
  net, gen, data = config.model, config.generator, config.data
  generator = Generator(gen.latent, tuple(gen.start), tuple(gen.widths), image_shape[-1], **common)
  if config.inversion.what == 'pixels':
    generator = Pixels(config.inversion.pixel_images, image_shape, wide)
  learning = {'all': '', 'last_stage': f'stage{len(net.blocks) - 1}_', 'none': ()}[net.trainable]
  backbone = BACKBONES[net.variant](tuple(net.blocks), tuple(net.widths), net.variant, **common)
  return Components(
    model=Classifier(backbone, num_classes, wide),
    teacher=Classifier(backbone.clone(folded=kernels.folds), num_classes, wide),
    generator=generator,
    # Weight decay is coupled, on all parameters (paper, section 7).
    sgd=optax.chain(optax.add_decayed_weights(config.student.weight_decay), optax.trace(config.student.momentum)),
    adam=optax.scale_by_adam(),
    images=Augment(**{name: data[name] for name in _AUGMENTATION}, crop=kernels.crop, dtype=wide),
    constrain=mesh.constrain if mesh else lambda batch: batch,
    dtype=dtype,
    rate_of=lambda part: net.trunk_rate if part.startswith(learning) else 0.0,
    stats_learn=not net.frozen_stats and net.trainable != 'none',
  )


def _check_shapes(data, generator, image_shape: tuple[int, int, int]) -> None:
  height, width, channels = image_shape
  for name in ('mean', 'std'):
    if len(data[name]) != channels:
      raise UserError(
        f"config.data.{name}: expected {channels} values, one per channel of '{data.name}', got {len(data[name])}."
      )
  doublings = len(generator.widths)
  dreamed = tuple(side * 2**doublings for side in generator.start[:2])
  if dreamed != (height, width):
    raise UserError(
      f"the generator makes {dreamed[0]}x{dreamed[1]} images, but those of '{data.name}' are {height}x{width}. "
      'Choose config.generator.start and .widths so that start * 2^len(widths) is that size.'
    )


def apply_update(params: PyTree, direction: PyTree, lr: jax.Array) -> PyTree:
  """params - lr * direction, leaf by leaf, in the parameters' own precision."""
  return jax.tree.map(lambda p, d: p - (lr * d).astype(p.dtype), params, direction)


def in_precision_of(params: PyTree, gradients: PyTree) -> PyTree:
  """The gradients, which may be of narrower copies of the parameters, in the parameters' dtypes."""
  return jax.tree.map(lambda p, g: g.astype(p.dtype), params, gradients)
