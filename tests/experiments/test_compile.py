"""experiments compile: what it reads in a program, and what it says where there is no compiler."""

import json
from types import SimpleNamespace

import jax
import pytest

from abd_jax.errors import UserError
from experiments import __main__ as command
from experiments import compile as verb
from experiments import hlo
from experiments.files import RESULTS, read_json

# Of a chunk: the loop over steps, and in it a smaller loop and a collective in two halves.
CONV = 'custom-call(%x), custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/WHERE/conv1/conv"}'
SCAN = '\n'.join(
  [
    'HloModule jit_f, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, must-alias) }',
    '%inner (p: f32[2]) -> f32[2] {',
    '  ROOT %add.1 = f32[2]{0} add(%p, %p)',
    '}',
    '%body (p: (f32[2], s32[])) -> (f32[2], s32[]) {',
    *[f'  %fill.{k} = f32[] constant({k})' for k in range(hlo._LARGE)],
    '  %x = f32[2]{0} get-tuple-element(%p), index=0',
    f'  %conv.1 = (f32[4,2]{{1,0}}, u8[0]{{0}}) {CONV.replace("WHERE", "jvp(Classifier)/stage0_block0")}',
    f'  %conv.2 = (f32[4,2]{{1,0}}, u8[0]{{0}}) {CONV.replace("WHERE", "transpose(jvp(Classifier))/stage0_block0")}',
    '  %fusion.1 = bf16[4,2]{1,0} fusion(%x), calls=%f, metadata={op_name="jit(f)/Generator/norm0/mul"}',
    '  %fusion.2 = f32[2]{0} fusion(%x), calls=%f, metadata={op_name="jit(f)/sub"}',
    '  %start = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x), to_apply=%inner',
    '  %done = f32[8]{0} all-reduce-done(%start)',
    '  %gather = (bf16[3,2]{1,0}, pred[5]{0}) all-gather(%x, %y), dimensions={0}',
    '  %small = f32[2]{0} while(%x), condition=%c, body=%inner',
    '  ROOT %out = (f32[2]{0}, s32[]) tuple(%x, %y)',
    '}',
    'ENTRY %main (a: f32[2]) -> f32[2] {',
    '  %copy.1 = f32[2]{0} copy(%a)',
    '  ROOT %scan = f32[2]{0} while(%copy.1), condition=%c, body=%body',
    '}',
  ]
)


def test_a_step_is_the_body_of_the_scan():
  found = hlo.read(SCAN)
  assert found['kernels'] == 7
  assert found['kinds'] == {'custom-call': 2, 'fusion': 2, 'all-reduce': 1, 'all-gather': 1, 'while': 1}
  parts = {'Classifier conv forward': 1, 'Classifier conv backward': 1, 'Generator norm frozen': 1, 'rest': 4}
  assert found['parts'] == parts
  # 8 floats that are started once, 6 of two bytes and 5 of one.
  assert found['collectives'] == {'count': 2, 'kinds': {'all-reduce': 1, 'all-gather': 1}, 'bytes': 32 + 12 + 5}
  assert found['aliased'] == 2


def test_without_a_scan_it_is_the_whole_program():
  assert hlo.read(SCAN.replace('body=%body', 'body=%inner'))['kinds'] == {'copy': 1, 'while': 1}


def test_a_step_is_compiled_from_shapes(monkeypatch):
  """For CPU, the one compiler that is here: one program a step, all of its state reused."""
  sizes = {'model.blocks': (1,), 'model.widths': (4,), 'generator.latent': 4, 'generator.start': (8, 8, 2)}
  sizes |= {'generator.widths': (2, 2), 'student.batch_size': 8, 'inversion.batch_size': 8}
  load = verb.load_config
  monkeypatch.setattr(verb, 'load_config', lambda name, options, fields: load(name, options, fields | sizes))
  found = verb.compiled(jax.devices()[:2], 'abd', 'float32', scan_steps=0)
  assert found['devices'] == 2 and found['hosts'] == 1 and found['gflop_a_device'] > 0
  assert found['kernels'] > 50 and found['collectives']['kinds']['all-reduce'] > 0
  assert found['aliased'] == found['donated'] > 10


def test_a_compiler_that_is_not_here_is_one_line(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  with pytest.raises(UserError, match=r'(?s)^nothing here compiles for .h100x8.*requirements-aot-cuda.txt`\.$'):
    verb.devices_of('h100x8')
  with pytest.raises(UserError, match="'a100' is neither 'h100', 'h100x8' nor a TPU slice such as 'v5e:2x4'"):
    command.run(['compile', '--topology=a100', '--steps=abd', '--here'])
  with pytest.raises(UserError, match="'dream' is none of base, abd, inversion"):
    command.run(['compile', '--topology=h100', '--steps=dream'])


def test_what_a_compilation_died_of_is_said(monkeypatch, tmp_path):
  ends = iter([(-11, ''), (2, 'error: no such thing\n')])

  def run(*_, **__):
    code, said = next(ends)
    return SimpleNamespace(returncode=code, stderr=said, stdout='')

  monkeypatch.setattr(verb.subprocess, 'run', run)
  for why in ('the compiler crashed, signal 11', 'no such thing'):
    with pytest.raises(UserError, match=f'^abd is not compiled for h100: {why}$'):
      command.run(['compile', '--topology=h100', '--steps=abd', f'--output={tmp_path}/x.json'])
  assert not list(tmp_path.iterdir())


def test_rows_are_written_and_shown(monkeypatch, tmp_path, capsys):
  before = read_json(RESULTS / 'compile_h100_after.json')
  row, about = before['rows'][0], {key: before[key] for key in ('versions', 'commit')}
  said = {'row': {key: row[key] for key in row if key != 'step'}, 'about': about}
  monkeypatch.setattr(verb, 'in_a_process', lambda arguments, name: said)
  command.run(['compile', '--topology=v5e:2x4', '--steps=base', f'--output={tmp_path}/compile_<topology>.json'])
  written = json.loads((tmp_path / 'compile_v5e_2x4.json').read_text())
  assert written['rows'] == [row] and written['topology'] == 'v5e:2x4' and written['versions'] == about['versions']
  assert capsys.readouterr().out.endswith(verb.render(written) + '\n')
