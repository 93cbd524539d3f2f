"""What a run says of its steps before the first: each kind is compiled once, and what does not fit is refused."""

import re

import jax
import pytest

import abd_jax.train as train
from abd_jax.errors import UserError
from abd_jax.run import precompile as ahead
from abd_jax.run.session import COMPILE_EVENT


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


def test_what_does_not_fit_is_refused_before_the_first_step(learn, tmp_path, monkeypatch):
  monkeypatch.setattr(ahead, 'device_bytes', lambda: 1000)
  with pytest.raises(UserError, match=r'^task 1 learning takes \d+ MiB on each device, which has 0 MiB. Lower config'):
    learn(tmp_path / 'run')
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
  monkeypatch.undo()
  assert learn(tmp_path / 'run')['final_accuracy'] > 0
