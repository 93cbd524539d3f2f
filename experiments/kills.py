"""The drill's faults that need a process of their own: kills and signals, streams, environments, two runs at once."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.faults import read_report
from experiments.files import ROOT
from experiments.lab import EQUAL, LOST, REFUSED, TRACEBACK, WRONG, Case, Lab, Verdict, difference, judged, snapshot

PATIENCE = 600.0  # seconds, on a machine that others use too, for a process to come to a place, or to its end
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def command(lab: Lab, variant: str, workdir: Path) -> list[str]:
  """The command line of the lab's own run."""
  flags = [f'--config.{name}={value}' for name, value in lab.fields(variant).items() if name != 'tasks']
  return [sys.executable, '-m', 'abd_jax.main', '--config=configs/digits.py:tasks=3', *flags, f'--workdir={workdir}']


def environment(lab: Lab, **more: str | None) -> dict[str, str]:
  """Ours, with compiled programs kept beside the lab; None takes a variable out."""
  env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str((lab.root / 'compiled').absolute())} | more
  return {name: value for name, value in env.items() if value is not None}


def start(lab: Lab, words: list[str], env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen:
  streams: dict[str, Any] = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | how
  return subprocess.Popen(words, env=env or environment(lab), cwd=ROOT, text=True, **streams)


def ended(process: subprocess.Popen) -> Verdict:
  """Whether it ended well, in one line, or otherwise."""
  try:
    stderr = process.communicate(timeout=PATIENCE)[1] or ''
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    return Verdict(TRACEBACK, 'it hangs')
  lines = [line for line in stderr.splitlines() if not re.match(r'after task|task \d|pausing', line)]
  told = ' '.join(lines)[:300]
  if 'Traceback' in stderr or len(lines) > 1:
    return Verdict(TRACEBACK, told)
  if process.returncode == 0:
    return Verdict(EQUAL, told)
  stopped = process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT)
  return Verdict(REFUSED if lines or stopped else TRACEBACK, told or f'exit code {process.returncode}')


def wait_until(process: subprocess.Popen, there: Callable[[], bool]) -> bool:
  """Whether something came about before the process ended."""
  end = time.monotonic() + PATIENCE
  while process.poll() is None and time.monotonic() < end:
    with suppress(OSError, ValueError):  # what is being written
      if there():
        return True
    time.sleep(0.002)
  return False


def _lines(workdir: Path) -> int:
  return (workdir / 'metrics.jsonl').read_bytes().count(b'\n')


def _handles_signals(process: subprocess.Popen) -> bool:
  """Whether the command has come to its first line, and not only Python."""
  (caught,) = re.findall(r'SigCgt:\s*(\w+)', Path(f'/proc/{process.pid}/status').read_text())
  return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


class Moments:
  """When a run is at a stage: from where on to look, and how long to wait then, at random."""

  def __init__(self, lab: Lab, variant: str):
    log = (lab.finished(variant) / 'metrics.jsonl').read_text().splitlines()
    self._phases = [json.loads(line)['phase'] for line in log]

  def _line(self, phase: str, rng: random.Random) -> int:
    """How many lines of the log there are just before a random one of that phase."""
    return rng.choice([k for k, one in enumerate(self._phases) if one == phase and 0 < k < len(self._phases) - 3])

  def of(self, stage: str, rng: random.Random) -> tuple[Callable[[subprocess.Popen, Path], bool], float]:
    """(whether the process is there, the longest delay from then on in seconds)."""
    ends = [k for k, one in enumerate(self._phases[:-1]) if one == 'dreaming' and self._phases[k + 1] != one]
    line = {'evaluation': 'evaluating', 'inversion': 'dreaming'}.get(stage, 'learning')
    at = rng.choice(ends) + 1 if stage == 'picture' else self._line(line, rng)
    saving = lambda workdir: any(workdir.glob('checkpoints/*/*.orbax-checkpoint-tmp*'))
    return {
      'start': (lambda process, workdir: _handles_signals(process), 1.5),
      'compile': (lambda process, workdir: (workdir / 'config.json').exists(), 1.0),
      'checkpoint write': (lambda process, workdir: _lines(workdir) >= at and saving(workdir), 0.003),
    }.get(stage, (lambda process, workdir: _lines(workdir) >= at, 0.03))


STAGES = ('start', 'compile', 'training', 'inversion', 'evaluation', 'checkpoint write', 'picture')


def kills(lab: Lab, count: int, variant: str = 'long') -> Iterator[Case]:
  """Each signal `count` times at a random moment of each stage; the run is resumed in this process."""

  def case(number: signal.Signals, stage: str, k: int) -> Case:
    def try_it(folder: Path) -> Verdict:
      rng, workdir = random.Random(f'{number.name} {stage} {k}'), folder / 'run'
      there, delay = Moments(lab, variant).of(stage, rng)
      compiles = {'JAX_ENABLE_COMPILATION_CACHE': 'false'} if stage == 'compile' else {}
      for _ in range(5):  # until it is hit before its end
        shutil.rmtree(workdir, ignore_errors=True)
        process = start(lab, command(lab, variant, workdir), environment(lab, **compiles))
        hit = wait_until(process, lambda process=process: there(process, workdir))
        time.sleep(rng.random() * delay)
        process.send_signal(number)
        verdict = ended(process)
        if hit and not (workdir / 'results.json').exists():
          break
      return _resumed(lab, workdir, variant, verdict)

    return Case(f'{number.name} at: {stage}', f'{k}', try_it)

  for stage in STAGES:
    for number in SIGNALS:
      for k in range(count):
        yield case(number, stage, k)


def _resumed(lab: Lab, workdir: Path, variant: str, verdict: Verdict) -> Verdict:
  """What comes of a run that was stopped, once it is resumed."""
  if verdict.outcome == TRACEBACK:
    return verdict
  again = judged(lambda: lab.run(workdir, variant))
  if again.outcome != EQUAL:
    return Verdict(LOST, again.told)
  other = difference(workdir, lab.finished(variant))
  return Verdict(WRONG, other) if other else Verdict(EQUAL)


def kills_of_a_report(lab: Lab, count: int) -> Iterator[Case]:
  """A report is stopped at a random moment; the run is as it was, and the same command writes the report."""

  def case(number: signal.Signals, k: int) -> Case:
    def try_it(folder: Path) -> Verdict:
      rng, workdir = random.Random(f'report {number.name} {k}'), lab.copy_finished(folder)
      sound = snapshot(workdir)
      process = start(lab, [sys.executable, '-m', 'abd_jax', 'report', str(workdir), '--no-diagnosis'])
      wait_until(process, lambda: _handles_signals(process))
      time.sleep(rng.random() * 4)
      process.send_signal(number)
      verdict = ended(process)
      if verdict.outcome == TRACEBACK:
        return verdict
      read_report(lab, workdir)
      left = {name: content for name, content in snapshot(workdir).items() if name in sound or 'report' not in name}
      return Verdict(EQUAL) if left == sound else Verdict(LOST, 'the run is not as it was')

    return Case(f'{number.name} at: report', f'{k}', try_it)

  yield from (case(number, k) for number in SIGNALS for k in range(count))


ODD: dict[str, dict[str, str | None]] = {
  'JAX_ENABLE_X64=1': {'JAX_ENABLE_X64': '1'},
  'JAX_DEFAULT_PRNG_IMPL=rbg': {'JAX_DEFAULT_PRNG_IMPL': 'rbg'},
  'JAX_THREEFRY_PARTITIONABLE=0': {'JAX_THREEFRY_PARTITIONABLE': '0'},
  'JAX_DEFAULT_MATMUL_PRECISION=bfloat16': {'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16'},
  'JAX_DEBUG_NANS=1': {'JAX_DEBUG_NANS': '1'},
  'JAX_PLATFORMS=cuda': {'JAX_PLATFORMS': 'cuda'},
  'JAX_PLATFORMS=tpu': {'JAX_PLATFORMS': 'tpu'},
  'JAX_PLATFORMS=nothing': {'JAX_PLATFORMS': 'nothing'},
  'XLA_FLAGS=--nonsense': {'XLA_FLAGS': '--nonsense'},
  'HOME that cannot be written': {'HOME': '/proc/nothing'},
  'no HOME': {'HOME': None},
  'no PATH': {'PATH': None},
  'TMPDIR that is not there': {'TMPDIR': '/proc/nothing'},
  'a cache that cannot be written': {'JAX_COMPILATION_CACHE_DIR': '/proc/nothing'},
  'LC_ALL=C': {'LC_ALL': 'C'},
  'LC_ALL=C, not UTF-8': {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
  'PYTHONWARNINGS=error': {'PYTHONWARNINGS': 'error'},
  'PYTHONOPTIMIZE=2': {'PYTHONOPTIMIZE': '2'},
  'TERM=nothing, COLUMNS=0': {'TERM': 'nothing', 'COLUMNS': '0'},
}


def environments(lab: Lab) -> Iterator[Case]:
  """Variables, flags and limits of the surroundings; the workdir has a name beyond ASCII."""
  places = {
    'a workdir in the cloud': ['--workdir=gs://bucket/run'],
    'a cluster that is not there': ['--config.distributed=true'],
    'a coordinator without a port': ['--config.cluster.coordinator=host', '--config.cluster.rank=1'],
  }
  for name, variables in ODD.items():
    yield _surrounded(lab, name, variables)
  for name, words in places.items():
    yield _surrounded(lab, name, {}, words)
  for limit in (1_000_000, 1_500_000):  # kB
    yield _surrounded(lab, f'ulimit -v {limit}', {}, shell=f'ulimit -v {limit}; exec "$0" "$@"')


def _surrounded(
  lab: Lab, name: str, variables: dict[str, str | None], more: list[str] | None = None, shell: str = ''
) -> Case:
  def try_it(folder: Path) -> Verdict:
    workdir = folder / 'rün'
    words = command(lab, 'abd', workdir)
    words = [*words[:-1], *(more or words[-1:])] if more and '--workdir' in more[0] else [*words, *(more or [])]
    words = ['bash', '-c', shell, *words] if shell else words
    verdict = ended(start(lab, words, environment(lab, **variables)))
    if verdict.outcome == EQUAL:
      other = difference(workdir, lab.finished('abd'))
      return Verdict(WRONG, other) if other else verdict
    return Verdict(LOST, 'it has begun to write') if workdir.exists() and verdict.outcome == REFUSED else verdict

  return Case('an odd environment', name, try_it)


def streams(lab: Lab) -> Iterator[Case]:
  """Standard streams that are closed, on a full disk, without a reader, or with one that never reads."""
  for name, numbers in (('stdout', (1,)), ('stderr', (2,)), ('stdout and stderr', (1, 2))):
    for way in ('closed', *ENDS):
      yield _streaming(lab, f'{name} {way}', way, numbers)
  yield _streaming(lab, 'stdin closed', 'closed', (0,))


def _streaming(lab: Lab, name: str, way: str, numbers: tuple[int, ...]) -> Case:
  def try_it(folder: Path) -> Verdict:
    words, ends = command(lab, 'abd', folder / 'run'), []
    if way == 'closed':
      without = ' '.join(f'{number}>&-' for number in numbers)
      process = start(lab, ['bash', '-c', f'exec "$0" "$@" {without}', *words])
    else:
      ends = ENDS[way]()
      redirected: dict[str, Any] = {('stdin', 'stdout', 'stderr')[number]: ends[0] for number in numbers}
      process = start(lab, words, **redirected)
    verdict = ended(process)
    for end in ends:
      os.close(end)
    if verdict.outcome != EQUAL:
      return verdict
    other = difference(folder / 'run', lab.finished('abd'))
    return Verdict(WRONG, other) if other else verdict

  return Case('an odd stream', name, try_it)


def _no_reader() -> list[int]:
  reader, writer = os.pipe()
  os.close(reader)
  return [writer]


def _unread() -> list[int]:
  """A pipe with no room left, whose reader is there but does not read."""
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  with suppress(BlockingIOError):
    while True:
      os.write(writer, b'x' * 4096)
  os.set_blocking(writer, True)
  return [writer, reader]


# What to write to, and what else is to stay open meanwhile.
ENDS: dict[str, Callable[[], list[int]]] = {
  'full': lambda: [os.open('/dev/full', os.O_WRONLY)],
  'of no reader': _no_reader,
  'unread': _unread,
}


def read_only(lab: Lab) -> Iterator[Case]:
  """A complete run where this user may not write prints its results, predicts and is reported on elsewhere."""

  def case(name: str, words: Callable[[Path, Path], list[str]], good: Callable[[str], bool]) -> Case:
    def try_it(folder: Path) -> Verdict:
      workdir, elsewhere = lab.copy_finished(folder), folder / 'elsewhere'
      elsewhere.mkdir()
      for path in (workdir, *workdir.rglob('*')):
        path.chmod(0o555 if path.is_dir() else 0o444)
      sound = snapshot(workdir)
      process = start(lab, [sys.executable, '-c', OBEY, *words(workdir.absolute(), elsewhere.absolute())])
      verdict = ended_with_output(process, good)
      for path in (workdir, *workdir.rglob('*')):
        path.chmod(0o755 if path.is_dir() else 0o644)
      return verdict if snapshot(workdir) == sound else Verdict(LOST, 'files were changed')

    return Case('a complete run that may only be read', name, try_it)

  module = [sys.executable, '-m', 'abd_jax']
  yield case('run again', lambda workdir, _: command(lab, 'abd', workdir), lambda out: '| abd ' in out)
  yield case(
    'report',
    lambda workdir, other: [*module, 'report', str(workdir), '--no-diagnosis', f'--output={other}/report.html'],
    lambda out: 'report.html' in out,
  )
  yield case(
    'export',
    lambda workdir, other: [*module, 'export', str(workdir), f'{other}/model.zip'],
    lambda out: 'model.zip' in out,
  )


# Takes root the right to write where permissions say otherwise (PR_CAPBSET_DROP, CAP_DAC_OVERRIDE); others have none.
OBEY = 'import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])'


def ended_with_output(process: subprocess.Popen, good: Callable[[str], bool]) -> Verdict:
  """As `ended`, of a process that must say something on stdout."""
  stdout, stderr = process.communicate(timeout=PATIENCE)
  if process.returncode or 'Traceback' in stderr:
    return Verdict(TRACEBACK, stderr[-300:])
  return Verdict(EQUAL) if good(stdout) else Verdict(WRONG, stdout[:300])


def two_at_once(lab: Lab) -> Iterator[Case]:
  """A second process in a workdir is refused, at different moments; the first ends as if alone."""

  def case(stage: str) -> Case:
    def try_it(folder: Path) -> Verdict:
      workdir = folder / 'run'
      first = start(lab, command(lab, 'long', workdir))
      there, _ = Moments(lab, 'long').of(stage, random.Random(stage))
      wait_until(first, lambda: there(first, workdir))
      second = judged(lambda: lab.run(workdir, 'long'))
      verdict = ended(first)
      if verdict.outcome != EQUAL or 'in use' not in second.told:
        return Verdict(LOST, f'{verdict.told} {second.told}')
      other = difference(workdir, lab.finished('long'))
      return Verdict(WRONG, other) if other else Verdict(REFUSED, second.told)

    return Case('two processes in one workdir', f'the second at: {stage}', try_it)

  yield from map(case, ('compile', 'training', 'inversion', 'picture'))


def in_processes(lab: Lab, few: bool) -> Iterator[Case]:
  """All of this file; few: one kill, while a run compiles."""
  if few:
    yield next(case for case in kills(lab, 1, 'abd') if case.kind == 'SIGKILL at: compile')
  else:
    yield from kills(lab, 2)
    yield from kills_of_a_report(lab, 1)
    yield from environments(lab)
    yield from streams(lab)
    yield from read_only(lab)
    yield from two_at_once(lab)
