"""ImageNet-100: twice as many classes of the same order as ImageNet-50."""

from abd_jax.data.builders import imagenet50


class Builder(imagenet50.Builder):
  """The first hundred classes."""

  name = 'imagenet100'
  KEPT = 100
