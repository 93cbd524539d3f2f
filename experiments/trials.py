"""Several trials together and apart: python -m experiments trials [--trials=3] [--config=digits]

Wall clock of the same trials in one command, in turn and all at once, and in a command each; and whether they end in
the same bits. Every command begins without compiled programs. Take its times on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from abd_jax.devices.environment import environment
from abd_jax.errors import UserError
from abd_jax.report.tables import table
from experiments import lab, options
from experiments.files import RESULTS, ROOT, write_json

TOGETHER, AT_ONCE, APART = 'one command, in turn', 'one command, at once', 'a command each'


def learn(words: Sequence[str]) -> None:
  """`python -m abd_jax.main` with those words, in a process of its own. Raises UserError if it fails."""
  environ = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
  command = [sys.executable, '-m', 'abd_jax.main', *words]
  done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
  if done.returncode:
    last = (done.stderr.splitlines() or ['no word of why'])[-1]
    raise UserError(f'`{" ".join(words)}` ended with {done.returncode}: {last}')


def measure(config: str, trials: int) -> dict:
  """Seconds of each way, and which trials end otherwise than in the first, and in what."""
  folders = [f'trial_{trial}' for trial in range(trials)]
  with tempfile.TemporaryDirectory() as root:
    name = f'--config=configs/{config}.py'
    several = lambda folder: [name, f'--config.trials={trials}', f'--workdir={root}/{folder}']
    ways = {
      TOGETHER: [[*several(TOGETHER), '--config.trials_at_once=1']],
      AT_ONCE: [[*several(AT_ONCE), f'--config.trials_at_once={trials}']],
      APART: [[f'{name}:trial={trial}', f'--workdir={root}/{APART}/{folder}'] for trial, folder in enumerate(folders)],
    }
    seconds = {}
    for way, commands in ways.items():
      began = time.monotonic()
      for words in commands:
        learn(words)
      seconds[way] = round(time.monotonic() - began, 1)
    of = lambda way, folder: Path(root) / way / folder
    pairs = [(of(way, folder), of(TOGETHER, folder)) for way in (AT_ONCE, APART) for folder in folders]
    differing = {f'{ours.parent.name}, {ours.name}': what for ours, one in pairs if (what := lab.difference(ours, one))}
  return {'schema_version': 1, 'config': config, 'trials': trials, 'seconds': seconds, 'differing': differing}


def render(found: dict) -> str:
  """A table of one measurement's JSON."""
  rows = [(way, f'{seconds:.0f}') for way, seconds in found['seconds'].items()]
  return table((f'{found["trials"]} trials of {found["config"]}', 's'), rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--trials', type=options.whole(2), default=3, metavar='N', help='how many')
  options.add(parser, 'config', 'output', config='digits', output=RESULTS / 'trials_<backend>.json')


def main(arguments: argparse.Namespace) -> None:
  found = measure(arguments.config, arguments.trials) | environment()  # JAX starts after those that it would slow down
  platform = found['device']['platform']
  write_json(arguments.output.with_name(arguments.output.name.replace('<backend>', platform)), found)
  print(render(found))
  print(f'not in the same bits: {json.dumps(found["differing"])}' if found['differing'] else 'all in the same bits')
