"""The config: every field with its default, unit and limits; what methods add; and loading one from files and words.

The defaults are the paper's values for CIFAR-100. Files in configs/ start from `default()` and change what their data
set needs. Where the paper and the authors' released code disagree, a field usually chooses (docs/paper_vs_code.md
lists the rest). The released way is the default, because the published tables presumably came from it, except for
memory.redraw, e2e.new_target, bic.evaluate and bn_gamma_init, whose defaults are what the authors meant.
"""

import json
import re
import runpy
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from abd_jax import methods
from abd_jax.errors import UserError, nearest
from abd_jax.fields import Choice, Field, Number, Numbers, Share, Switch, Text, count, rate, weight
from abd_jax.methods.types import MEMORY
from abd_jax.models import BACKBONES

Config = Any  # an ml_collections.ConfigDict, whose fields no type checker knows

SHORT = 8  # the option `short`: an eighth of the epochs and of the steps of inversion
_MEAN = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)  # of the channels of CIFAR-100
_STD = (0.2673342858792409, 0.25643846291708816, 0.2761504713256834)

# free: may differ when a run is resumed. Tuples are written as --config.student.milestones='(5, 10)'.
FIELDS: dict[str, Field] = {
  'method': Text('abd'),  # a file in abd_jax/methods
  'trial': Number(0, 0, 2**32 - 1),  # seeds the class order, as in the paper: python's random.seed(trial), shuffle
  'trials': Number(1, 1, 10**4),  # how many, from `trial` on; if several, each in WORKDIR/trial_<number>
  'trials_at_once': Number(0, 0, 10**4),  # each in a process; 0: all if each gets an accelerator, else one by one
  'seed': Number(-1, -1, 2**32 - 1),  # of every other random number; -1: the trial
  # Tasks.
  'tasks': count(10),  # of equal size, unless:
  'first_task_classes': Number(0, 0, 10**9),  # >0: the first task has this many classes, the others share the rest
  'task_sizes': Numbers((), 1, 10**6),  # classes of each task, which also says how many; may sum to less than all
  'class_order': Text(''),  # '': shuffled by trial; ids, names, a file, a seed: docs/running.md tells all forms
  'extends': Text(''),  # workdir of a finished run whose last model this one starts from; set by abd-jax extend
  # Data.
  'data.name': Text('cifar100'),  # a TFDS builder, ours or any prepared as array_record under data.dir
  'data.dir': Text('', free=True),  # of prepared data; '': TFDS's default
  'data.folds': Number(0, 0, 65536),  # >0: train and test on folds of the TRAINING split, to choose hyper-parameters
  'data.fold': Number(0, 0, 65536),  # 0-based; the one held out
  'data.prepared': Text('', free=True),  # where copies are written; '': data.dir, or FOLDER.prepared beside photographs
  'data.fingerprint': Text(''),  # of the images, measured: a run is not resumed on others
  'data.size': Number(0, 0, 4096),  # pixels, of a square; 0: as stored, or for photographs 32, 64, 128 or 224
  'data.channels': Choice(0, 1, 3),  # of a folder of photographs; 0: what they have
  'data.layout': Text(''),  # of photographs, '': by names; 'classes': each folder is one; else splits, as in train,test
  'data.value_range': Numbers((), -1e12, 1e12, (0, 2), whole=False),  # raw values of photographs with more than 8 bits
  # a channel that become black and white; (): the lowest and highest of the training images
  'data.crop': Choice('padded', 'resized'),  # 'resized': the host cuts out 8 to 100 % and resizes it, as for ImageNet
  'data.test_fraction': Number(0.2, 0.001, 0.999),  # of each class, for photographs without a test folder
  'data.split_seed': Number(0, 0, 10**9),  # chooses those images
  'data.damaged': Choice('refuse', 'skip'),  # a damaged photograph stops the preparation, or is named and left out
  'data.device_mib': Number(4096, 0, 10**9, free=True),  # a larger task with its memory is streamed to the devices
  'data.max_value': Number(255.0, 0, 1e9, above=True),  # images are divided by it, then normalised by channel
  'data.mean': Numbers(_MEAN, -1e3, 1e3, range(5), whole=False),  # (): measured on the first task
  'data.std': Numbers(_STD, 1e-6, 1e3, range(5), whole=False),
  'data.pad': Number(4, 0, 1024),  # pixels around training images before a random crop
  'data.pad_value': Choice('black', 'mean'),  # raw 0; 'mean': 0 after normalising, as the authors of R-DFCIL pad
  'data.flip': Switch(True),  # half of the training images left to right
  'data.brightness': Number(63 / 255, 0, 1),  # each training image times a factor uniform in 1 +- this. As released
  'data.contrast': Number(0.8, 0, 1),  # likewise, around its mean grey. The paper names flips and crops only
  'data.download': Switch(True, free=True),  # False: no network; the data, or their archive, must be in data.dir
  # Networks. The trunk is the student without its head.
  'model.init': Text('', free=True),  # trunk to start from: a safetensors file, or hf:OWNER/NAME; '': random weights
  'model.init_hash': Text(''),  # SHA-256 of that file, by which a run knows it
  'model.init_licence': Text(''),  # of those weights, if the file says so
  'model.trainable': Choice('all', 'last_stage', 'none'),  # what learns of the trunk; 'none': nor do its statistics
  'model.trunk_rate': Number(1.0, 0, 100, above=True),  # factor of the trunk's learning rate
  'model.frozen_stats': Switch(False),  # True: the student's batch norms use their running statistics and keep them
  'model.blocks': Numbers((5, 5, 5), 1, 1000, range(17)),  # per stage: ResNet-32; (): the file's, or by the images
  'model.widths': Numbers((16, 32, 64), 1, 65536, range(17)),  # channels per stage
  'model.variant': Choice(*BACKBONES),  # models/resnet.py describes them
  'generator.latent': Number(1000, 1, 65536),
  'generator.start': Numbers((8, 8, 128), 1, 65536, (0, 3)),  # height, width, channels; (): what fits the images
  'generator.widths': Numbers((128, 64), 1, 65536, range(17)),  # channels after each doubling of the resolution
  'bn_gamma_init': Choice('ones', 'uniform'),  # 'uniform': U(0, 1), what the authors' framework version drew
  # What predicts.
  'head': Choice('trained', 'gaussians'),  # 'gaussians': of each class's features, carried (methods/class_gaussians.py)
  'gaussians.dreams': weight(1.0),  # of a dream among the samples that show where features went; an image has 1
  'gaussians.measured': Choice('images', 'copies'),  # what means and covariances are of; 'copies': copies as well
  'gaussians.distance_shrinkage': Number(0.1, 0, 1e3, above=True),  # of a class's covariance, for distances to it
  'gaussians.ridge': Number(1e-3, 0, 1e3, above=True),  # of the regression, times the mean variance
  'gaussians.own_share': Number(0.1, 0, 1),  # of a class's own covariance in its density; the rest: the mean's
  'gaussians.head_shrinkage': Number(0.03, 0, 1, above=True),  # of that covariance, for the head
  # The student, task by task.
  'student.batch_size': count(128),  # real images, over all devices; as many dreams are added
  'student.epochs': count(250),
  'student.milestones': Numbers((100, 150, 200), 0, 10**6),  # 0-based epochs; lr / 10 from each on
  'student.lr': rate(0.1),
  'student.momentum': Number(0.9, 0, 0.9999),
  'student.weight_decay': Number(2e-4, 0, 1),  # coupled, on all parameters
  # Dreaming: Eq. 7 at the end of every task but the last.
  'inversion.what': Choice('generator', 'pixels'),  # what is optimised; 'pixels': a fixed set of images (after Eq. 7)
  'inversion.pixel_images': count(2048),  # how many, for 'pixels'; fresh for each task
  'inversion.pixel_lr': rate(0.05),  # Adam, for 'pixels'
  'inversion.steps': Number(10000, 0, 10**9),  # released; the paper says 5000
  'inversion.batch_size': count(128),
  'inversion.lr': rate(1e-3),  # Adam
  'inversion.content_weight': weight(1.0),
  'inversion.diversity_weight': weight(1.0),
  'inversion.stat_weight': weight(50.0),
  'inversion.prior_weight': weight(1e-3),
  'inversion.temperature': Number(1e3, 1e-3, 1e9),  # divides the logits of Eq. 2
  'inversion.diversity': Choice('normalised', 'entropy'),  # released: 1 - H/ln K; 'entropy': -H, Eq. 1
  'inversion.prior_sigma': Number(2.0**0.5, 0.01, 1e3),  # pixels; of the released blur kernel, meant as 1
  'inversion.warm_start': Switch(True),  # released: one generator for all tasks; False: a fresh one per task
  # Running.
  'precision': Choice('float32', 'bfloat16'),  # on every device; 'bfloat16': convolutions and what lies between them
  'devices': Number(0, 0, 65536, free=True),  # how many to use; 0: all. Batch sizes must be multiples of it
  'distributed': Switch(False, free=True),  # several hosts: calls jax.distributed.initialize()
  'cluster.coordinator': Text('', free=True),  # host:port of the first process, where JAX cannot find it out
  'cluster.count': Number(0, 0, 65536, free=True),  # processes; 0: as the cluster says
  'cluster.rank': Number(-1, -1, 65535, free=True),  # 0-based, of this process; -1: as the cluster says
  'eval_batch_size': count(512),  # images
  'oracle_dir': Text('', free=True),  # of upper bounds; '': beside the workdir
  'chunk_steps': count(100),  # steps between looks at the host; one compiled scan on GPU and TPU
  'teachers_kept': Number(0, 0, 10**9, free=True),  # >0: only the newest frozen models stay, and those still needed
  'collapse': Choice('stop', 'tell', free=True),  # when a student is at chance or a generator dreams of one class
  'checkpoint_seconds': Number(60.0, 0, 1e9, free=True),  # between checkpoints, at the end of a chunk
  'profile': Switch(False, free=True),  # writes a trace of one compiled chunk of each kind, for XProf or TensorBoard
  'max_seconds': Number(0.0, 0, 1e9, free=True),  # >0: save and stop after this long; the same command resumes
}

# Methods: each may add a group of fields named after it, read other groups, and change fields by a recipe.
_FILES = {name: methods.module(name) for name in methods.available()}
_SETTINGS = {name: file.SETTINGS for name, file in _FILES.items() if hasattr(file, 'SETTINGS')}
for _group, _fields in {'memory': MEMORY, **_SETTINGS}.items():
  FIELDS |= {f'{_group}.{name}': field for name, field in _fields.items()}
FREE_FIELDS = tuple(name for name, field in FIELDS.items() if field.free)

# Group -> the methods that read it. All methods read every other group.
READERS: dict[str, list[str]] = {'memory': [], **{name: [name] for name in _SETTINGS}}
for _method, _file in _FILES.items():
  for _group in getattr(_file, 'READS', ()):
    READERS[_group].append(_method)

# Fields that --config.model.init opens unless they are given beside it, or the method's recipe sets them.
OPENED_BY_INIT = ('model.blocks', 'model.widths', 'data.mean', 'data.std')

# Fields that may be empty: the data then decide. The first field of a group decides for the whole group.
# Where config.model.init is set, its file decides rather than the data.
FROM_DATA = (
  ('data.mean', 'data.std'),
  ('data.fingerprint',),
  ('model.blocks', 'model.widths', 'model.variant'),
  ('generator.start', 'generator.widths'),
)


def default() -> Config:
  """An unlocked config with every field at its default."""
  config: Config = ConfigDict()
  for name, field in FIELDS.items():
    group, _, leaf = name.rpartition('.')
    if group and group not in config:
      config[group] = ConfigDict()
    (config[group] if group else config)[leaf] = field.default
  return config


def parse_argument(text: str | None) -> dict:
  """The part of --config after the colon: 'tasks=5,method=lwf,trial=1,quick' as a dict. `short` alone: an eighth.

  Raises UserError for an unknown or ill-formed item.
  """
  kinds = {'tasks': int, 'method': str, 'trial': int}
  kinds |= {'short': lambda text: int(text or SHORT), 'quick': lambda text: bool(int(text or '1'))}
  options = {}
  for item in filter(None, (text or '').split(',')):
    name, _, value = item.partition('=')
    if name not in kinds:
      raise UserError(f"'{name}' in --config=...:{text} is not an option.{nearest(name, kinds)}")
    try:
      options[name] = kinds[name](value)
    except ValueError as error:
      raise UserError(f"'{item}' in --config=...:{text}: expected a whole number, such as {name}=1.") from error
  return options


def finish(config: Config, argument: str | None, quick: dict, recipes: dict[str, dict] | None = None) -> Config:
  """Ends get_config of a file in configs/: applies the options after the colon, and locks `config`.

  A method's recipe wins over `config`; `quick` and the options win over the recipe.

  Args:
    config: from `default()`, with the values of its data set.
    argument: the part of --config after the colon.
    quick: dotted field -> value, for the option quick.
    recipes: method -> dotted field -> value, over the method's own recipe.

  Raises:
    UserError: an argument that does not fit.
  """
  options = parse_argument(argument)
  method = options.get('method', '')
  parts = options.pop('short', 1)
  if options.pop('quick', False):
    options |= {'collapse': 'tell'} | quick  # one epoch need not learn
    config.update_from_flattened_dict(quick)
  flat = flatten(config.to_dict())
  for name, value in _recipe(method, config.data.name).items():
    config.update_from_flattened_dict({name: value.taken_of(flat, name) if isinstance(value, Share) else value})
  config.update_from_flattened_dict((recipes or {}).get(method, {}))
  config.update_from_flattened_dict(_shorter(flatten(config.to_dict()), parts) | options)
  return config.lock()


def _shorter(flat: dict, parts: int) -> dict:
  """The fields that say how long phases and inversion are, divided by `parts`, rounded down, at least 1."""
  if parts < 1:
    raise UserError(f'short={parts}: expected a whole number of at least 1, such as short={SHORT}.')
  lengths = {name: flat[name] for name in flat if name.endswith(('epochs', 'milestones')) or name == 'inversion.steps'}
  part = lambda value: tuple(map(part, value)) if isinstance(value, tuple) else max(value // parts, min(value, 1))
  return {name: part(value) for name, value in lengths.items()}


def _recipe(method: str, data_name: str) -> dict[str, Any]:
  """Dotted field -> value of what a method changes on a data set."""
  file = _FILES.get(method)
  return getattr(file, 'RECIPE', {}) | getattr(file, 'RECIPE_ON', {}).get(data_name, {})


def reads(method: str, field: str) -> bool:
  """Whether a method's results may depend on a field."""
  return method in READERS.get(field.partition('.')[0], (method,))


def check_read(method: str, fields: Iterable[str]) -> None:
  """Raises UserError for a field that the method does not read."""
  for name in fields:
    if not reads(method, name):
      readers = READERS[name.partition('.')[0]]
      raise UserError(
        f"config.{name} is not read by method '{method}', but by {', '.join(readers)}. Leave it out, or choose that "
        f'method after the colon, as :method={readers[0]}.'
      )


def check(config: Config) -> None:
  """Raises UserError for a value that no run can use."""
  flat = flatten(config.to_dict())
  for name, field in FIELDS.items():
    field.check(name, flat[name])
  if len(flat['model.blocks']) != len(flat['model.widths']):
    raise UserError(
      f'config.model.blocks={flat["model.blocks"]} and .widths={flat["model.widths"]} must be as many: one of each per '
      'stage.'
    )
  folds, fold = flat['data.folds'], flat['data.fold']
  if folds == 1 or fold >= max(folds, 1):
    raise UserError(
      f'config.data.fold={fold} with config.data.folds={folds}: folds must be 0 or at least 2, and fold less than that.'
    )
  if (limits := flat['data.value_range']) and limits[0] >= limits[1]:
    raise UserError(f"config.data.value_range={limits}: expected (lowest, highest), such as '(0, 4095)'.")
  if (flat['data.brightness'] or flat['data.contrast']) and flat['data.max_value'] != 255:
    raise UserError(
      f'config.data.max_value={flat["data.max_value"]:g}: colour jitter needs values of 0 to 255. Set '
      'config.data.brightness and .contrast to 0.'
    )


def flatten(tree: dict, prefix: str = '') -> dict:
  """A nested dict as one of dotted names."""
  flat = {}
  for key, value in tree.items():
    flat |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return flat


def left_open(flat: dict) -> set[str]:
  """The fields of a flat config whose values come from the data, or from the file of model.init."""
  of_file = ('model.init_hash', 'model.init_licence') if flat.get('model.init') else ()
  groups = (*FROM_DATA, of_file) if of_file else FROM_DATA
  return {name for group in groups if not flat.get(group[0]) for name in group}


def changed(config: Config, fields: dict) -> Config:
  """A locked copy of `config` with some fields, by their dotted names, changed."""
  copy = ConfigDict(config.to_dict())
  copy.update_from_flattened_dict(fields)
  return copy.lock()


def read_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
  """`fields`, by their dotted names, with every text read as on the command line.

  Raises UserError for a name that is not a field, and for a value of another type.
  """
  values = {}
  for name, value in fields.items():
    if name == 'method':  # as a field it would come without its recipe
      raise UserError('the method is an option after the colon, as in --config=configs/digits.py:method=lwf.')
    if inside := [one for one in FIELDS if one.startswith(f'{name}.')]:
      raise UserError(f'config.{name} is a group of fields. Name one, such as config.{inside[0]}.')
    if name not in FIELDS:
      raise UserError(f'config.{name} is not a field.{nearest(name, FIELDS)}')
    values[name] = FIELDS[name].read(name, value) if isinstance(value, str) else value
    try:
      default().update_from_flattened_dict({name: values[name]})
    except (TypeError, ValueError) as error:
      raise UserError(f'config.{name}={value!r}: expected {FIELDS[name].expected}.') from error
  return values


def restored(stored: dict) -> Config:
  """The config that a run was written with, as JSON has it; fields that it lacks have their defaults.

  Raises UserError if no run can have had it.
  """
  config = default()
  tuples = lambda value: tuple(map(tuples, value)) if isinstance(value, list) else value
  there = {name: tuples(value) for name, value in flatten(stored).items() if name in FIELDS}
  try:
    config.update_from_flattened_dict(there)
    check(config)
  except (TypeError, ValueError) as error:
    raise UserError(f'the config of that run is damaged ({error}). Restore it.') from error
  return config.lock()


def load_config(name: str, /, **fields: Any) -> Config:
  """The config that --config=NAME and --config.FIELD=VALUE describe.

  Args:
    name: a config of this package, such as 'digits:tasks=5,method=lwf,trial=1,quick'; the path of another file with
      get_config; the config.json of a run; or '-', for such JSON on standard input.
    fields: dotted field -> value, or its text as on the command line; over all else.

  Raises:
    UserError: no such file, option or field, a value of another type, or a field that the method does not read.
  """
  config = _from_json(name) if name == '-' or name.endswith('.json') else _from_file(name)
  values = read_fields(fields)
  check_read(config.method, values)
  if values.get('model.init'):
    asked = {**values, **_recipe(config.method, config.data.name)}
    opened = dict.fromkeys(OPENED_BY_INIT, ()) | {'model.init_hash': '', 'model.init_licence': ''}
    values |= {name: value for name, value in opened.items() if name not in asked}
  config, option = changed(config, values), re.search(r'[:,]tasks=(\d+)', name)
  tasks = values.get('tasks', int(option[1]) if option else 0)
  if tasks and config.task_sizes and tasks != len(config.task_sizes):
    raise UserError(
      f'tasks={tasks}, but config.task_sizes={config.task_sizes} lists {len(config.task_sizes)}. Leave tasks out, or '
      'set config.task_sizes.'
    )
  return config


def packaged_configs() -> Path:
  """The folder of the configs that come with this package: its own, or a checkout's."""
  package = Path(__file__).resolve().parent
  return package / 'configs' if (package / 'configs').is_dir() else package.parent / 'configs'


def _from_file(text: str) -> Config:
  """What get_config of a Python file returns for FILE[:OPTIONS]."""
  name, _, argument = text.partition(':')
  stem, file = name.removeprefix('configs/').removesuffix('.py'), Path(name)
  if not file.is_file() and stem.isidentifier():
    file = packaged_configs() / f'{stem}.py'
  if not file.is_file():
    ours = [path.stem for path in packaged_configs().glob('*.py')]
    raise UserError(f"config file '{name}' does not exist.{nearest(Path(name).stem, ours)}")
  try:
    config = runpy.run_path(str(file))['get_config'](argument or None)
    fields = flatten(config.to_dict())
  except UserError:
    raise
  except Exception as error:
    reason = f'no {error}' if isinstance(error, KeyError) else str(error) or type(error).__name__
    raise UserError(
      f"config file '{name}' cannot be used ({' '.join(reason.split())}). `configs/` has working ones."
    ) from error
  _check_known(name, fields)
  if missing := sorted(set(FIELDS) - set(fields)):
    raise UserError(f"config file '{name}' lacks {missing[0]}. Begin it with abd_jax.config.default().")
  return config


def _from_json(name: str) -> Config:
  """The config in a JSON file, or on standard input for '-'."""
  try:
    text = sys.stdin.read() if name == '-' else Path(name).read_text(encoding='utf-8')
    stored = json.loads(text.removeprefix('\ufeff'))
    fields = flatten(stored)
  except (OSError, ValueError, AttributeError) as error:
    reason = error.strerror if isinstance(error, OSError) else 'it is not a config'
    raise UserError(f"config file '{name}' cannot be used ({reason}). Give the config.json of a run.") from error
  _check_known(name, fields)
  return changed(restored(stored), {'data.fingerprint': ''})  # the data of a new run may be others


def _check_known(name: str, fields: Collection[str]) -> None:
  if unknown := sorted(set(fields) - set(FIELDS)):
    raise UserError(f"config file '{name}': {unknown[0]} is not a field.{nearest(unknown[0], FIELDS)}")
