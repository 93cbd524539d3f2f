"""What a run says of its steps before the first: each kind is compiled once, and what does not fit is refused."""

import re

import jax
import pytest

import abd_jax.train as train
from abd_jax.errors import UserError
from abd_jax.run import precompile as ahead
from abd_jax.run.plan import build
from abd_jax.run.progress import Progress
from abd_jax.run.session import COMPILE_EVENT
from abd_jax.steps.chunks import Chunk


@pytest.fixture
def compilations():
  """A list that grows by the name of each program compiled."""
  found = []
  listen = lambda event, duration_secs, **more: found.append(more['fun_name']) if event == COMPILE_EVENT else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


# One kind of step, several, several teachers, a memory, a dreamer of its own; streamed, and split over devices.
KINDS = [
  pytest.param(method, *how, marks=[] if (method, how) in {('bic', (4096, 1)), ('abd', (0, 4))} else [pytest.mark.slow])
  for method in ('base', 'abd', 'e2e', 'dgr', 'rdfcil', 'bic')
  for how in ((4096, 1), (0, 1), (0, 4))
]


@pytest.mark.parametrize(('method', 'device_mib', 'devices'), KINDS)
def test_every_kind_of_step_is_compiled_before_the_first_and_once(
  tiny_config, tmp_path, monkeypatch, compilations, capsys, method, device_mib, devices
):
  marks, precompile = [], train.precompile

  def marked(*arguments):
    marks.append(len(compilations))
    precompile(*arguments)
    marks.append(len(compilations))

  monkeypatch.setattr(train, 'precompile', marked)
  train.train_and_evaluate(tiny_config(method, data__device_mib=device_mib, devices=devices), str(tmp_path / 'run'))
  begins, ends = marks
  steps = compilations[begins:ends]
  lines = [line for line in capsys.readouterr().err.splitlines() if 'compiled in' in line]
  assert len(lines) == len(steps) >= 1
  assert all(re.fullmatch(r'task \d \w+: compiled in \d+\.\d s, takes \d+ MiB on each device', line) for line in lines)
  assert not {*steps} & {*compilations[ends:]}


def test_a_shorter_last_chunk_is_compiled_too_where_chunks_are_scans(compile_once, tiny_config, monkeypatch):
  plan = build(tiny_config('abd', inversion__steps=7, chunk_steps=3))
  lengths = lambda: [
    len(arguments[1].rates if hasattr(arguments[1], 'rates') else arguments[1]) for *_, arguments in found
  ]
  found = list(ahead._kinds(plan, Progress()))
  assert len(found) == 3
  monkeypatch.setattr(Chunk, 'scans', lambda self, length: length == 3)
  found = list(ahead._kinds(plan, Progress()))
  where = [where for where, *_ in found]
  assert where.count('task 1 dreaming') == 2 and {3, 1} <= set(lengths())


def test_a_resumed_run_compiles_what_is_left_to_do(compile_once, tiny_config):
  plan = build(tiny_config('abd'))
  left = lambda task, phase: [where for where, *_ in ahead._kinds(plan, Progress(task=task, phase=phase))]
  assert left(0, '') == ['task 1 learning', 'task 1 dreaming', 'task 2 learning']
  assert left(0, 'dreaming') == ['task 1 dreaming', 'task 2 learning']
  assert left(2, 'learning') == ['task 3 learning'] and left(3, '') == []
  plan = build(tiny_config('abd', inversion__steps=0))
  assert left(0, '') == ['task 1 learning', 'task 2 learning']


def test_what_does_not_fit_is_refused_before_the_first_step(learn, tmp_path, monkeypatch):
  monkeypatch.setattr(ahead, 'device_bytes', lambda: 1000)
  with pytest.raises(UserError, match=r'^task 1 learning takes \d+ MiB on each device, which has 0 MiB. Lower config'):
    learn(tmp_path / 'run')
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
  monkeypatch.undo()
  assert learn(tmp_path / 'run')['final_accuracy'] > 0
