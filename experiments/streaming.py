"""What streaming costs a host: python -m experiments streaming

Images a second that one thread and all of them decode and cut, at 64 pixels (JPEG of that size, as Tiny-ImageNet's)
and at 224 (JPEG of 500x375, ImageNet's usual size); and the share of time that the steps of a stream wait, for devices
that would take a given number of images a second. The photographs are made here: smooth noise, as cameras compress it.
"""

import argparse
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from abd_jax.data import threads
from abd_jax.data.images import DRAWS
from abd_jax.data.memory import empty
from abd_jax.data.pipeline import Prefetch, StreamedPool
from abd_jax.data.records import Split, View
from abd_jax.devices.environment import environment
from experiments import options
from experiments.files import RESULTS, write_json

PHOTOS = 64  # different ones
BATCH, STEPS, CHUNK = 64, 12, 2
CASES = {
  'decode_64': ((64, 64), View((64, 64, 3), (64, 64, 3), 'padded')),
  'decode_and_crop_224': ((375, 500), View((None, None, 3), (224, 224, 3), 'resized')),
}


class Photos:
  """Records in memory, as a tfds data source gives them."""

  def __init__(self, shape: tuple[int, int]):
    rng, self._encoded = np.random.default_rng(0), []
    for _ in range(PHOTOS):
      coarse = Image.fromarray(rng.integers(0, 256, (shape[0] // 8, shape[1] // 8, 3), np.uint8))
      buffer = io.BytesIO()
      coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC).save(buffer, 'jpeg', quality=90)
      self._encoded.append(buffer.getvalue())

  def __getitems__(self, rows: list[int]) -> list[dict]:
    return [{'image': self._encoded[row % PHOTOS], 'label': 0} for row in rows]


def rates(split: Split, count: int) -> dict[str, float]:
  """Images a second of one thread, and of one for each core."""
  rows, draws = np.arange(count) % PHOTOS, np.random.default_rng(0).random((count, DRAWS))
  cut = draws if split.view.crop == 'resized' else None
  found = np.empty((count, *split.view.shape), np.uint8)
  began = time.perf_counter()
  split.fill(found, rows, cut)
  alone = time.perf_counter() - began
  parts = np.array_split(np.arange(count), 4 * threads.count())
  began = time.perf_counter()
  with ThreadPoolExecutor(threads.count()) as pool:
    fill = lambda part: split.fill(list(found[part]), rows[part], None if cut is None else cut[part])
    list(pool.map(fill, parts))
  together = time.perf_counter() - began
  return {'one_thread': count / alone, 'all_threads': count / together, 'per_core': count / together / threads.count()}


def wait_share(split: Split, images_per_second: float) -> float:
  """The share of time that steps wait for their images, on a device that would take so many a second."""
  rng, pool = np.random.default_rng(0), StreamedPool(split, empty(split.view.shape))

  def begin(start: int, stop: int):
    rows = rng.integers(0, PHOTOS, (stop - start, BATCH))
    return pool.begin(rows, [rng.random((BATCH, DRAWS)) if pool.crops else None for _ in rows])

  prefetch, began = Prefetch(begin, STEPS * CHUNK), 0.0
  for start in range(0, STEPS * CHUNK, CHUNK):
    prefetch.get(start, start + CHUNK)
    if start == 0:  # nothing could be ready for the first
      prefetch.seconds_waited, began = 0.0, time.perf_counter()
    time.sleep(CHUNK * BATCH / images_per_second)
  return prefetch.seconds_waited / (time.perf_counter() - began)


def measure() -> dict:
  found: dict = {'cores': threads.count(), 'batch': BATCH, 'target_images_per_second_per_core': 5000 / 16}
  for name, (shape, view) in CASES.items():
    split = Split(name, Photos(shape), np.arange(PHOTOS), np.zeros(PHOTOS, np.int32), view)
    rate = rates(split, 4096 if view.shape[0] < 128 else 512)
    demands = [5000 / 16 * threads.count(), *(part * rate['all_threads'] for part in (0.5, 0.8, 1.2))]
    shares = {f'{demand:.0f}': round(wait_share(split, demand), 4) for demand in demands}
    found[name] = {key: round(value, 1) for key, value in rate.items()} | {'wait_share_at_images_per_second': shares}
  return found | environment()


def add_arguments(parser: argparse.ArgumentParser) -> None:
  options.add(parser, 'output')
  parser.set_defaults(output=RESULTS / 'streaming.json')


def main(arguments: argparse.Namespace) -> None:
  found = measure()
  write_json(arguments.output, found)
  print(json.dumps(found, indent=1))
