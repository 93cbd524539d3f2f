"""Streams of images: equal to what lies on the devices, equal after resuming anywhere, each host its own share."""

import jax
import numpy as np
import pytest
from conftest import assert_same_outcome, until_complete

from abd_jax.data.images import DRAWS
from abd_jax.data.memory import Memory, streamed
from abd_jax.data.prepare import Options
from abd_jax.data.sources import TaskStream, open_dataset
from abd_jax.devices.mesh import DataMesh
from abd_jax.methods.types import Phase
from abd_jax.protocol.tasks import Tasks
from abd_jax.steps.inputs import EpochIndices, StreamedImages
from abd_jax.steps.rng import host_rng

BATCH, KEY = 16, (3, 1, 0)
PHASE = Phase(loss=lambda inputs: (0.0, {}), epochs=3, lr=0.1, milestones=(2,))


def pool_of(options, memory=5):
  """A streamed pool of two classes of digits, with a memory of noise."""
  stream = TaskStream(open_dataset('digits', '', options=options), Tasks(tuple(range(10)), (2, 2)))
  source = stream.task(1)
  noise = np.random.default_rng(0).integers(0, 17, (memory, *source.view.shape), dtype=np.uint8)
  return streamed(source, Memory(noise, np.zeros(memory, np.int32)))


def stream_of(pool, devices=1, rows=None):
  mesh = DataMesh(jax.devices()[:devices])
  indices = EpochIndices(KEY, np.arange(len(pool.labels)), BATCH, PHASE)
  return indices, StreamedImages(indices, pool, mesh.local_rows(BATCH) if rows is None else rows, mesh.split_steps)


@pytest.fixture(params=['padded', 'resized'])
def options(request, digits_data):
  return Options(crop=request.param, size=8)


def test_streamed_batches_are_the_rows_that_the_indices_name(digits_data):
  pool = pool_of(Options())
  images, labels = pool.source.decode()
  images = np.concatenate([images, pool.memory.images])
  indices, stream = stream_of(pool, devices=8)
  with stream as inputs:
    for start in range(0, inputs.steps, 7):
      got, named = inputs(start, min(start + 7, inputs.steps)), indices(start, min(start + 7, inputs.steps))
      np.testing.assert_array_equal(got.lr, named.lr)
      np.testing.assert_array_equal(got.images, images[named.index])
      np.testing.assert_array_equal(got.labels, pool.labels[named.index])
      assert len(got.images.sharding.device_set) == 8
  assert inputs.steps % 7  # the last chunk was a short one
  assert np.array_equal(labels, pool.labels[: len(labels)])


def test_hosts_read_disjoint_shares_of_the_same_batches(options, monkeypatch):
  pool, read = pool_of(options), []
  real = type(pool.source).fill
  monkeypatch.setattr(type(pool.source), 'fill', lambda self, found, places, draws: read.extend(places) or
                      real(self, found, places, draws))  # fmt: skip
  shares, halves = [], [np.arange(BATCH // 2), np.arange(BATCH // 2, BATCH)]
  for rows in halves:
    indices, stream = stream_of(pool, rows=rows)
    stream._place = lambda local, size: local
    with stream as inputs:
      read.clear()
      inputs.prefetch._steps = 4  # nothing ahead
      shares.append((inputs(0, 4).images, sorted(read)))
  whole = stream_of(pool)[1](0, 4).images
  np.testing.assert_array_equal(np.concatenate([images for images, _ in shares], axis=1), whole)
  named = indices(0, 4).index
  for (_, rows), half in zip(shares, halves, strict=True):
    of_task = named[:, half].ravel()
    assert rows == sorted(of_task[of_task < len(pool.source)])


def test_random_crops_are_drawn_by_step(digits_data):
  pool = pool_of(Options(crop='resized', size=8), memory=0)
  with stream_of(pool)[1] as inputs:
    images, named = inputs(0, 2).images, stream_of(pool)[0](0, 2).index
  for step in range(2):
    draws = host_rng('crops', *KEY, step).random((BATCH, DRAWS))
    np.testing.assert_array_equal(images[step], pool.source.images(named[step], draws))
  assert (np.asarray(images[0]) != pool.source.images(named[0])).any()


def test_a_bad_image_ends_the_stream(options, monkeypatch):
  from abd_jax.data import images as images_lib

  def decode(*args):
    raise images_lib.BadImage('is cut short')

  monkeypatch.setattr(images_lib, 'decode', decode)
  with stream_of(pool_of(options))[1] as inputs, pytest.raises(Exception, match=r'record \d+: its image is cut short'):
    inputs(0, 4)


STREAMED = {'data__device_mib': 0}


@pytest.mark.parametrize(
  'method, more',
  [
    ('lwf_coreset', {'memory__size': 40}),
    ('lwf_mc', {'head': 'gaussians', 'gaussians__dreams': 0.0}),
    pytest.param('abd', {}, marks=pytest.mark.slow),
    pytest.param('bic', {'memory__size': 60}, marks=pytest.mark.slow),
  ],
)
def test_a_streamed_run_is_the_resident_one(learn, tmp_path, method, more):
  learn(tmp_path / 'resident', method=method, **more)
  learn(tmp_path / 'streamed', method=method, **more, **STREAMED)
  assert_same_outcome(tmp_path / 'streamed', tmp_path / 'resident')


@pytest.mark.parametrize('fields', [STREAMED, {'data__crop': 'resized', 'data__size': 8}])
def test_a_streamed_run_is_resumed_from_every_checkpoint(learn, tmp_path, fields):
  fields |= {'method': 'base', 'chunk_steps': 3}
  learn(tmp_path / 'whole', **fields)
  _, pauses = until_complete(lambda: learn(tmp_path / 'paused', **fields, max_seconds=1e-6))  # after every chunk
  assert pauses > 9
  assert_same_outcome(tmp_path / 'paused', tmp_path / 'whole')
