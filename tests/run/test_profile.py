"""What a run says of a step that it compiles, and config.profile: a trace of one chunk of each kind of step."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abd_jax.analysis import audit_files
from abd_jax.devices.memory import memory_of
from abd_jax.run.session import COMPILE_EVENT
from abd_jax.steps.chunks import Chunk, Step


@pytest.fixture
def compilations():
  """A list that grows by one entry for each program compiled."""
  found = []
  listen = lambda event, duration_secs, **_: found.append(event) if event == COMPILE_EVENT else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize('scan_steps', [0, 3])
def test_a_program_compiled_ahead_is_the_one_that_runs(compilations, scan_steps):
  """So that telling of its memory does not compile it twice."""
  run = lambda state, copies, inputs, data: (state * 1.5 + inputs + data, {'loss': state.sum()})
  chunk = Chunk(Step(run), scan_steps=scan_steps)
  state, inputs, data = jnp.arange(float(1000 + scan_steps)), np.arange(3.0, dtype=np.float32), jnp.float32(2)
  program, before = chunk.lower(state, inputs, data).compile(), len(compilations)
  first = lambda: jax.block_until_ready(chunk(state, inputs, data))
  assert len(compilations) == before and first() and len(compilations) == before
  assert re.fullmatch(r'\d+ MiB', memory_of(program))


def test_memory_is_told_in_units_that_people_read():
  class Program:
    class memory_analysis:
      argument_size_in_bytes, output_size_in_bytes, alias_size_in_bytes = 3 * 2**30, 2**30, 2**29
      temp_size_in_bytes, generated_code_size_in_bytes = 2**29, 0

  assert memory_of(Program) == '4.0 GiB'
  Program.memory_analysis.argument_size_in_bytes = 2**20 * 10
  Program.memory_analysis.output_size_in_bytes = Program.memory_analysis.temp_size_in_bytes = 2**29
  assert memory_of(Program) == '522 MiB'
  assert memory_of(type('Silent', (), {'memory_analysis': staticmethod(lambda: None)})) == 'unknown memory'


def test_a_chunk_of_each_kind_is_traced_and_nothing_else_changes(learn, tmp_path, capsys):
  plain, traced = learn(tmp_path / 'plain', chunk_steps=2), learn(tmp_path / 'traced', chunk_steps=2, profile=True)
  assert traced['accuracy_matrix'] == plain['accuracy_matrix']
  assert not (tmp_path / 'plain' / 'profile').exists()
  folder = tmp_path / 'traced' / 'profile'
  # Base on the first task, dreaming after it, learning with dreams from the second on.
  assert sorted(path.name for path in folder.iterdir()) == ['task_1_dreaming', 'task_1_learning', 'task_2_learning']
  for phase in folder.iterdir():
    assert len(list(phase.rglob('*.xplane.pb'))) == 1
    (trace,) = phase.rglob('*.trace.json.gz')
    assert json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  lines = capsys.readouterr().err.splitlines()
  compiled = [line.partition(':')[0] for line in lines if re.search(r': compiled in \d+\.\d s, takes \d+ MiB on', line)]
  assert compiled == 2 * ['task 1 learning', 'task 1 dreaming', 'task 2 learning']
  told = [line for line in lines if 'is traced' in line]
  assert len(told) == 3 and all(line.endswith(f'tensorboard --logdir {folder}') for line in told)
  assert not [line for line in audit_files.unknown(tmp_path / 'traced', set()) if line.startswith('profile')]
