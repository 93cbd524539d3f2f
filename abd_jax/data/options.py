"""How data that are not prepared yet are found and prepared: plain values that builders and readers share."""

from typing import NamedTuple


class Options(NamedTuple):
  """What becomes of images: fields of config.data of these names, which are explained there."""

  size: int = 0
  channels: int = 0
  crop: str = 'padded'
  test_fraction: float = 0.2
  split_seed: int = 0
  damaged: str = 'refuse'


DEFAULT = Options()
