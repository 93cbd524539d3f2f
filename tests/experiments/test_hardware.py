"""experiments hardware: numbers, times, what it reads in a program, and steps compiled for other hardware."""

import json
from types import SimpleNamespace

import jax
import pytest
from fakes import names, tiny_runs

from abd_jax.errors import Paused, UserError
from abd_jax.files import read_json
from abd_jax.models.kernels import Kernels
from abd_jax.models.moments import in_sums
from experiments import __main__ as command
from experiments import ahead, hardware, hlo, steps
from experiments.store import RESULTS

NETWORKS = {
  'model.blocks': (1,), 'model.widths': (4,), 'generator.latent': 8, 'generator.start': (16, 16, 4),
  'generator.widths': (4,), 'student.batch_size': 8, 'inversion.batch_size': 8,
}  # fmt: skip

# A chunk: the loop over steps, and in it a smaller loop and a collective in two halves.
CONV = 'custom-call(%x), metadata={op_name="jit(f)/WHERE/conv1/conv"}'
SCAN = """HloModule jit_f, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, must-alias) }
%inner (p: f32[2]) -> f32[2] {
  ROOT %add.1 = f32[2]{0} add(%p, %p)
}
%body (p: (f32[2], s32[])) -> (f32[2], s32[]) {
FILL
  %x = f32[2]{0} get-tuple-element(%p), index=0
  %conv.1 = (f32[4,2]{1,0}, u8[0]{0}) FORWARD
  %conv.2 = (f32[4,2]{1,0}, u8[0]{0}) BACKWARD
  %fusion.1 = bf16[4,2]{1,0} fusion(%x), calls=%f, metadata={op_name="jit(f)/Generator/norm0/mul"}
  %fusion.2 = f32[2]{0} fusion(%x), calls=%f, metadata={op_name="jit(f)/sub"}
  %start = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x), to_apply=%inner
  %done = f32[8]{0} all-reduce-done(%start)
  %gather = (bf16[3,2]{1,0}, pred[5]{0}) all-gather(%x, %y), dimensions={0}
  %small = f32[2]{0} while(%x), condition=%c, body=%inner
  ROOT %out = (f32[2]{0}, s32[]) tuple(%x, %y)
}
ENTRY %main (a: f32[2]) -> f32[2] {
  %copy.1 = f32[2]{0} copy(%a)
  ROOT %scan = f32[2]{0} while(%copy.1), condition=%c, body=%body
}"""
SCAN = SCAN.replace('FILL', '\n'.join(f'  %fill.{k} = f32[] constant({k})' for k in range(hlo._LARGE)))
SCAN = SCAN.replace('FORWARD', CONV.replace('WHERE', 'jvp(Classifier)/block0'))
SCAN = SCAN.replace('BACKWARD', CONV.replace('WHERE', 'transpose(jvp(Classifier))/block0'))


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


@pytest.mark.slow
def test_numbers_agree_with_the_cpu_and_bfloat16_less_so():
  rows = hardware.check_numbers(NETWORKS)
  assert rows['abd, float32'] == rows['inversion, float32'] == 0.0  # the device is the CPU
  assert all(0 < rows[f'{name}, bfloat16'] < 0.1 for name in ('abd', 'inversion'))


def test_every_step_is_counted_and_timed(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(steps, 'EVALUATED', 16)
  monkeypatch.setattr(hardware, 'PRECISIONS', ('float32',))
  monkeypatch.setattr(hardware, 'ceilings', lambda rounds: dict.fromkeys(hardware.PRECISIONS, 1e9))
  monkeypatch.setattr(hardware, 'check_numbers', lambda fields: {'abd, float32': 0.0})
  whole = hardware.measure_steps
  monkeypatch.setattr(hardware, 'measure_steps', lambda rounds, fields: whole(rounds, NETWORKS))
  command.run(['hardware', '--rounds=1', f'--output={tmp_path}'])
  results = json.loads((tmp_path / 'hardware_cpu.json').read_text())
  rows = {row['step']: row for row in results['rows']}
  assert list(rows) == list(steps.STEPS) and all(row['ms'] > 0 and row['memory_mb'] > 0 for row in rows.values())
  assert rows['base']['times_base'] == rows['base']['flops_times_base'] == 1
  # Twice the images forward and back, and the teacher's and generator's forward passes.
  assert 2 < rows['abd']['flops_times_base'] < 5
  assert rows['abd']['kernels'] > 50 and rows['abd']['aliased'] == rows['abd']['donated'] > 10
  assert len(capsys.readouterr().out.splitlines()) == len(hardware.render(results).splitlines()) + 1 == 7


@pytest.mark.slow
def test_each_form_of_an_operation_is_timed_against_the_plain_one(monkeypatch):
  monkeypatch.setattr(steps, 'EVALUATED', 16)
  given = lambda mesh: Kernels(statistics=in_sums(1, mesh.gather, one_pass=True), folds=True)
  monkeypatch.setattr(hardware, 'kernels_for', given)
  monkeypatch.setattr(hardware, '_scan_steps', lambda: 2)  # as on a GPU
  found = hardware.measure_forms(1, NETWORKS)
  assert [row['forms'] for row in found['rows']] == ['all', 'none', 'without statistics', 'without folds']
  assert all(row[step] > 0 for row in found['rows'] for step in steps.STEPS)
  assert 'abd ms' in hardware.render_forms(found)


def test_the_full_run_follows_the_measurements_under_the_names_of_the_tables_and_resumes(
  monkeypatch, tmp_path, capsys, digits_data, compile_once
):
  asked = []
  for name in ('steps', 'forms'):
    monkeypatch.setattr(hardware, f'measure_{name}', lambda *_, name=name: asked.append(name) or {'rows': []})
  tiny_runs(monkeypatch)
  words = ['hardware', '--full', '--config=digits', '--rows=base', '--variant=quick']
  words += [f'--{name}={tmp_path / name}' for name in ('runs', 'results', 'output')]
  with pytest.raises(Paused):
    command.run([*words, '--max_seconds=0.01'])
  assert asked == ['steps', 'forms'] and not (tmp_path / 'results').exists()
  command.run([*words, '--max_runs=1'])
  expected = [f'digits_quick-base{precision}-tasks=3-trial=0' for precision in ('', '-precision=bfloat16')]
  assert names(tmp_path / 'results') == expected[:1]  # float32 first
  assert '1 of 2 runs are missing' in capsys.readouterr().err
  command.run(words)
  assert asked == ['steps', 'forms'] and names(tmp_path / 'results') == sorted(expected)


@pytest.mark.parametrize(
  'name', ['abd', *(pytest.param(name, marks=pytest.mark.slow) for name in ('base', 'inversion', 'evaluation'))]
)
def test_a_step_is_compiled_from_shapes(name):
  """For two CPU devices, whose compiler is here: all of the state is reused."""
  found = ahead.compiled(jax.devices()[:2], name, NETWORKS | {'precision': 'float32'}, scan_steps=0)
  assert found['devices'] == 2 and found['hosts'] == 1 and found['gflop_a_device'] > 0
  assert found['kernels'] > 10 and found['aliased'] == found['donated'] > 10
  if name != 'evaluation':
    assert found['collectives']['kinds']['all-reduce'] > 0


def test_a_compiler_that_is_not_here_is_one_line(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  with pytest.raises(UserError, match=r"(?s)^cannot compile for 'h100x8'.*requirements-aot-cuda\.txt$"):
    ahead.devices_of('h100x8')
  with pytest.raises(UserError, match="got 'a100'"):
    ahead.devices_of('a100')


def test_a_failed_compilation_gives_its_reason(monkeypatch, tmp_path):
  for code, stderr, why in ((-11, '', 'the compiler crashed with signal 11'), (1, 'no such thing\n', 'no such thing')):
    ended = SimpleNamespace(returncode=code, stderr=stderr, stdout='')
    monkeypatch.setattr(ahead.subprocess, 'run', lambda *_, ended=ended, **__: ended)
    with pytest.raises(UserError, match=f'^cannot compile abd for h100: {why}$'):
      command.run(['hardware', '--topology=h100', '--steps=abd', f'--output={tmp_path}'])
  assert not list(tmp_path.iterdir())


def test_compiled_steps_are_written_and_shown(monkeypatch, tmp_path, capsys):
  stored = read_json(RESULTS / 'hardware_h100.json')
  row, about = stored['rows'][0], {key: stored[key] for key in ('versions', 'commit')}
  found = {'row': {key: row[key] for key in row if key != 'step'}, 'about': about}
  done = SimpleNamespace(returncode=0, stderr='', stdout=json.dumps(found))
  monkeypatch.setattr(ahead.subprocess, 'run', lambda *_, **__: done)
  command.run(['hardware', '--topology=v5e:2x4', '--steps=base', f'--output={tmp_path}'])
  written = json.loads((tmp_path / 'hardware_v5e_2x4.json').read_text())
  assert written['rows'] == [row] and written['topology'] == 'v5e:2x4' and written['versions'] == about['versions']
  assert capsys.readouterr().out.endswith(ahead.render([written]) + '\n')
