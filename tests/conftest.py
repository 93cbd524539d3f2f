"""What every test file shares: data, compiled programs, eight CPU devices, strictness, a config of seconds.

The environment is set before anything imports jax. Subprocesses inherit it, but have one device (`cli_env`).
"""

import atexit
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
# pytest-xdist's workers share what the process that starts them has made.
if 'PYTEST_XDIST_WORKER' in os.environ:
  _scratch = Path(os.environ['ABD_JAX_TEST_SCRATCH'])
else:
  _scratch = Path(tempfile.mkdtemp(prefix='abd_jax_tests_'))
  os.environ['ABD_JAX_TEST_SCRATCH'] = str(_scratch)
  atexit.register(shutil.rmtree, _scratch, ignore_errors=True)

# The older of XLA's two ways to make programs for CPUs compiles faster; jaxlib 0.11 has only the newer one.
OLD_WAY = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
QUICK = OLD_WAY if version('jaxlib').startswith('0.10.') else ''

os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  # Compiling costs more than running here, and no claim depends on it; the slow tests compile as users do.
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'XLA_FLAGS': f'--xla_force_host_platform_device_count=8 {QUICK}',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',  # no array meets one of another rank unless the code says how
  'OMP_NUM_THREADS': '1',  # t-SNE's threads wait for each other where other processes run too: half a minute a picture
  'TFDS_DATA_DIR': str(_scratch / 'data'),
  # Programs are compiled once, not once per process. A folder in ABD_JAX_TEST_CACHE keeps them between calls of pytest.
  'JAX_COMPILATION_CACHE_DIR': os.environ.get('ABD_JAX_TEST_CACHE') or str(_scratch / 'compiled'),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}
sys.path.insert(0, str(REPO))  # for configs

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import logging  # noqa: E402

from abd_jax.errors import Paused, UserError  # noqa: E402

# The overrides of configs/digits.py that make a run small: six of the ten classes, 9 or 10 steps a task, 6 of dreaming.
TINY = {
  'task_sizes': (2, 2, 2),
  'devices': 1,
  'model.widths': (4, 4, 4),
  'generator.latent': 8,
  'generator.start': (2, 2, 8),
  'generator.widths': (8, 8),
  'student.epochs': 1,
  'student.milestones': (1,),
  'inversion.steps': 6,
  'inversion.batch_size': 16,
  'chunk_steps': 5,
  'checkpoint_seconds': 1000.0,
}

# The same on the smallest networks and with two tasks, for tests that read or damage the files of a finished run.
SMALLEST = {
  'task_sizes': (2, 2), 'model__blocks': (1,), 'model__widths': (4,), 'generator__latent': 4,
  'generator__start': (4, 4, 4), 'generator__widths': (4,), 'inversion__steps': 4, 'inversion__batch_size': 8,
  'memory__size': 12,
}  # fmt: skip


# The files that take longest, in order: begun first, so that pytest-xdist's workers end together.
LONGEST = (
  'test_resume', 'test_train', 'test_steps', 'test_parallel', 'test_extend', 'test_methods', 'test_hardware',
  'test_search', 'test_augment', 'test_audit', 'test_infer_config', 'test_main', 'test_models', 'test_checksums',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope='session')
def cli_env():
  """The environment of a subprocess that runs the command as a user would."""
  return {name: value for name, value in os.environ.items() if name != 'NO_COLOR'} | {'XLA_FLAGS': QUICK}


@pytest.fixture(scope='session')
def digits_data():
  """Prepares digits once; several processes of a test may then read it."""
  from abd_jax.data.sources import open_dataset

  open_dataset('digits', '')


MAPPED = 20_000  # of the 65,530 regions of memory that Linux gives a process; each program of XLA on CPU takes several


def let_programs_go():
  """Gives compiled programs up once they are many: at the limit XLA aborts the process."""
  regions = Path('/proc/self/maps')
  if 'jax' in sys.modules and regions.exists() and len(regions.read_text().splitlines()) > MAPPED:
    sys.modules['jax'].clear_caches()
    gc.collect()


@pytest.fixture(autouse=True, scope='module')
def programs_of_earlier_files_are_let_go():
  yield
  let_programs_go()


@pytest.fixture
def tiny_config(digits_data):
  """make(method='abd', **fields of the config, dots as '__') -> a config that runs in a second once compiled."""
  from configs.digits import get_config

  logging.set_verbosity(logging.ERROR)

  def make(method='abd', **fields):
    config = get_config(f'tasks=3,method={method}').unlock()
    config.update_from_flattened_dict(TINY)
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config.lock()

  return make


_compiled = {}
# What compiled programs do not depend on, but for a seed's first weights. Methods read `tasks` if they have a memory.
NOT_COMPILED = (
  'max_seconds', 'checkpoint_seconds', 'chunk_steps', 'oracle_dir', 'class_order', 'task_sizes', 'trial', 'seed',
  'collapse', 'profile', 'teachers_kept', 'extends', 'data.name', 'data.dir', 'data.prepared', 'data.fingerprint',
  'data.folds', 'data.fold', 'data.download', 'student.epochs', 'student.milestones', 'student.lr', 'inversion.steps',
  'inversion.lr', 'memory.size',
)  # fmt: skip


@pytest.fixture
def compile_once(monkeypatch):
  """Runs of this process share their compiled programs wherever their configs let them, made when first called."""
  import abd_jax.run.plan as plan
  from abd_jax.config import flatten

  compile_steps, once = plan.compile_steps, lambda key, make: _compiled.get(key) or _compiled.setdefault(key, make())

  def shared(config, components, method, shape, seed, mesh):
    make = lambda: (method, compile_steps(config, components, method, shape, seed, mesh))
    left_out = NOT_COMPILED if method.memory else (*NOT_COMPILED, 'tasks')
    fields = {name: value for name, value in flatten(config.to_dict()).items() if name not in left_out}
    key = json.dumps(fields), components.model.num_classes, shape
    (like, steps), (_, own) = once(key, make), once((*key, seed), make)
    train = dict(zip((*method.first, *method.later), map(steps.train.get, (*like.first, *like.later)), strict=True))
    return steps._replace(train=train, new_student=own.new_student, new_generator=own.new_generator)

  monkeypatch.setattr(plan, 'compile_steps', shared)


@pytest.fixture
def learn(compile_once, tiny_config):
  """learn(path, **fields) -> results: the library's own entry point, compiling once per method and not per run."""
  import abd_jax.train as train

  def run(path, on_metrics=None, **fields):
    return train.train_and_evaluate(tiny_config(**fields), str(path), on_metrics)

  return run


@pytest.fixture(scope='session')
def _learnt(tmp_path_factory):
  return tmp_path_factory.mktemp('learnt')


@pytest.fixture
def learnt(_learnt, learn):
  """learnt(method='abd', **fields) -> a finished run's workdir, made once for all tests: they change only copies."""

  def make(method='abd', **fields):
    path = _learnt / '-'.join([method, *(f'{name}={value}' for name, value in fields.items() if name != 'task_sizes')])
    learn(path, method=method, **fields)
    return path

  return make


@pytest.fixture
def small_run(learnt, tmp_path):
  """small_run(method='abd') -> a copy of the workdir of a finished run with SMALLEST."""
  return lambda method='abd': shutil.copytree(learnt(method, **SMALLEST), tmp_path / method)


@pytest.fixture
def few_dreams(monkeypatch):
  """A diagnosis looks at as many as tell right from wrong in a test."""
  from abd_jax.analysis import diagnose

  monkeypatch.setattr(diagnose, 'DREAMS', 64)
  monkeypatch.setattr(diagnose, 'PLANE_POINTS', 20)


@pytest.fixture(scope='session')
def _diagnosed(tmp_path_factory):
  return tmp_path_factory.mktemp('diagnosed') / 'run'


@pytest.fixture
def diagnosed(_diagnosed, learn, few_dreams):
  """The workdir of a run that dreams, with its diagnosis: one for all tests, so a test changes only copies."""
  from abd_jax.analysis.diagnose import diagnose

  if not (_diagnosed / 'diagnosis' / 'diagnosis.json').exists():
    learn(_diagnosed)
    diagnose(_diagnosed)
  return _diagnosed


@contextmanager
def refused(*words):
  """What the block does is refused as a mistake of the user, whose text has these words. UserErrors are one line."""
  with pytest.raises(UserError) as error:
    yield
  assert all(str(word) in str(error.value) for word in words), error.value


def until_complete(run):
  """(what run() returns in the end, how often it paused before)."""
  pauses = 0
  while True:
    try:
      return run(), pauses
    except Paused:
      pauses += 1


def snapshot(path):
  """Name -> bytes of every file under `path`."""
  return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob('*')) if file.is_file()}


def log_records(path):
  """The lines of metrics.jsonl as they would be on any other day."""
  records = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in record.items() if name != 'images_per_second'} for record in records]


def assert_same_outcome(path, reference):
  """Equal accuracies, log records, pictures; teachers (weights and their generators) equal bit by bit."""
  import jax
  import orbax.checkpoint as ocp

  from abd_jax.run.checkpoint import without_name

  ours, theirs = (json.loads((p / 'results.json').read_text()) for p in (path, reference))
  for name in ours.keys() - {'seconds', 'config', 'checksum'}:  # of all of them
    assert ours[name] == theirs[name], name
  assert log_records(path) == log_records(reference)
  assert snapshot(path / 'dreams') == snapshot(reference / 'dreams')
  names, those = (sorted(p.name for p in (root / 'teachers').iterdir() if p.is_dir()) for root in (reference, path))
  assert names == those
  with ocp.StandardCheckpointer() as checkpointer, without_name(path) as ours, without_name(reference) as theirs:
    for name in names:
      a, b = (jax.tree.leaves_with_path(checkpointer.restore(p / 'teachers' / name)) for p in (ours, theirs))
      assert [key for key, _ in a] == [key for key, _ in b]
      for (key, x), (_, y) in zip(a, b, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), (name, jax.tree_util.keystr(key))


def command(*words):
  """The command line as a list."""
  return [sys.executable, '-m', 'abd_jax.main', *map(str, words)]


def flags_of(fields):
  return [f'--config.{name}={value}' for name, value in fields.items()]


# Long enough to be killed in.
KILLABLE = TINY | {
  'student.epochs': 3, 'student.milestones': (1, 2), 'inversion.steps': 24, 'chunk_steps': 2, 'checkpoint_seconds': 0.05
}  # fmt: skip
RUN = ['--config=configs/digits.py:tasks=3', *flags_of(KILLABLE)]


@pytest.fixture(scope='session')
def finished(cli_env, digits_data):
  """(workdir, output, errors) of the command, undisturbed: run once for both of pytest-xdist's workers."""
  path, said = _scratch / 'finished', _scratch / 'said.json'
  with open(_scratch / 'finished.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not said.exists():
      done = subprocess.run(command(*RUN, f'--workdir={path}'), env=cli_env, cwd=REPO, capture_output=True, text=True)
      assert done.returncode == 0, done.stderr
      said.write_text(json.dumps([done.stdout, done.stderr]))
  return path, *json.loads(said.read_text())
