"""The default configuration: every field there is, with its unit, and the paper's values for CIFAR-100.

Files in configs/ start from `default()` and change what their data set needs. Where the paper and the authors'
released code disagree, a field selects (docs/paper_vs_code.md lists what has none). The released way is the default, as
the published tables presumably came from it, but for memory.redraw, e2e.new_target, bic.evaluate and bn_gamma_init,
whose defaults are what was meant.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from abd_jax.errors import UserError, nearest

Config = Any  # an ml_collections.ConfigDict, whose fields no type checker knows

# Fields that are one of a few words.
CHOICES = {
  'collapse': ('stop', 'tell'),
  'precision': ('float32', 'bfloat16'),
  'bn_gamma_init': ('ones', 'uniform'),
  'model.variant': ('abd', 'rdfcil', 'imagenet'),
  'data.pad_value': ('black', 'mean'),
  'data.crop': ('padded', 'resized'),
  'data.damaged': ('refuse', 'skip'),
  'inversion.what': ('generator', 'pixels'),
  'inversion.diversity': ('normalised', 'entropy'),
  'deep_inversion.kd_real': ('old', 'padded'),
  'memory.redraw': ('never', 'released'),
  'e2e.new_target': ('stage_one', 'released'),
  'bic.evaluate': ('corrected', 'raw'),
  'abd.first_softmax': ('all', 'seen'),
  'abd.ft_softmax': ('all', 'seen'),
  'abd.local_classes': ('new', 'seen'),
  'abd.local_weight': ('balanced', 'one'),
  'abd.kd_images': ('both', 'real', 'dreamed'),
  'abd.balance': ('tasks', 'none'),
  'abd.kd_reduction': ('mean', 'sum'),
}


def default() -> Config:
  """An unlocked config. Tuples may be overridden as --config.student.milestones='(5, 10)'."""
  c: Config = ConfigDict()
  c.method = 'abd'  # a file in abd_jax/methods
  c.trial = 0  # seeds the class order, as in the paper: python's random.seed(trial), shuffle
  c.trials = 1  # how many, from `trial` on; more than one: each in WORKDIR/trial_<number>
  c.trials_at_once = 0  # each in a process, sharing out the accelerators; 0: all if each gets one, else in turn
  c.seed = -1  # of every other random number; -1: the trial

  # Tasks.
  c.tasks = 10  # equal ones, unless:
  c.first_task_classes = 0  # >0: the first task has this many classes, the others share the rest equally
  c.task_sizes = ()  # classes of each task, and so their number too; may sum to less than all
  c.class_order = ''  # '': shuffled by trial; '3,1,2,...': original ids; else the path of a file of ids or names
  c.extends = ''  # workdir of a finished run whose last model this one starts from; set by abd-jax extend

  c.data = ConfigDict()
  c.data.name = 'cifar100'  # a TFDS builder, ours or any prepared as array_record under data.dir
  c.data.dir = ''  # where prepared data lies; '': TFDS's default
  c.data.folds = 0  # >0: train and test on folds of the TRAINING split, for choosing hyper-parameters
  c.data.fold = 0  # 0-based; the one held out
  c.data.prepared = ''  # where copies are written; '': data.dir, or FOLDER.prepared beside a folder of photographs
  c.data.fingerprint = ''  # of the images: found out, so that a run is not resumed on others
  c.data.size = 0  # pixels, of a square; 0: as on disk. Of a folder of photographs 0: 32, 64, 128 or 224, what fits
  c.data.channels = 0  # of a folder of photographs: 1 or 3; 0: what they have
  c.data.crop = 'padded'  # as below; 'resized': the host cuts a random part of 8 to 100 % and resizes it, as ImageNet's
  c.data.test_fraction = 0.2  # of a folder of photographs without a test folder: the share of each class
  c.data.split_seed = 0  # which images these are
  c.data.damaged = 'refuse'  # a damaged file in a folder ends the preparation; 'skip': it is named and left out
  c.data.device_mib = 4096  # a task with its memory that is larger is streamed, not kept on the devices
  c.data.max_value = 255.0  # images are divided by it, then normalised by channel
  c.data.mean = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)  # (): measured on the first task
  c.data.std = (0.2673342858792409, 0.25643846291708816, 0.2761504713256834)
  c.data.pad = 4  # pixels of zeros around training images before a random crop
  c.data.pad_value = 'black'  # raw 0, before normalising; 'mean': 0 after it, as the authors of R-DFCIL pad
  c.data.flip = True  # half of the training images left to right
  c.data.brightness = 63 / 255  # each training image times a factor uniform in 1 +- this; 0: off. As released
  c.data.contrast = 0.8  # likewise, around its mean grey. The paper names flips and crops only
  c.data.download = True  # False: the network is never touched; the data, or its archive, must be in data.dir

  # Networks.
  c.model = ConfigDict()
  c.model.blocks = (5, 5, 5)  # per stage: ResNet-32; (): what fits the images
  c.model.widths = (16, 32, 64)  # channels per stage
  c.model.variant = 'abd'  # 'rdfcil': as its authors' code has it; 'imagenet': ResNet-18 and its like; models/resnet.py
  c.generator = ConfigDict()
  c.generator.latent = 1000
  c.generator.start = (8, 8, 128)  # height, width, channels; (): what fits the images
  c.generator.widths = (128, 64)  # channels after each doubling of the resolution
  c.bn_gamma_init = 'ones'  # 'uniform': U(0, 1), what the authors' framework version drew

  # The student, task by task.
  c.student = ConfigDict()
  c.student.batch_size = 128  # real images, over all devices; as many dreams are added
  c.student.epochs = 250
  c.student.milestones = (100, 150, 200)  # 0-based epochs; lr / 10 from each on
  c.student.lr = 0.1
  c.student.momentum = 0.9
  c.student.weight_decay = 2e-4  # coupled, on all parameters

  # Dreaming: Eq. 7 at the end of every task but the last.
  c.inversion = ConfigDict()
  c.inversion.what = 'generator'  # what is optimised; 'pixels': a fixed set of images themselves (after Eq. 7)
  c.inversion.pixel_images = 2048  # how many, for 'pixels'; fresh for each task
  c.inversion.pixel_lr = 0.05  # Adam, for 'pixels'
  c.inversion.steps = 10000  # released; the paper says 5000
  c.inversion.batch_size = 128
  c.inversion.lr = 1e-3  # Adam
  c.inversion.content_weight = 1.0
  c.inversion.diversity_weight = 1.0
  c.inversion.stat_weight = 50.0
  c.inversion.prior_weight = 1e-3
  c.inversion.temperature = 1e3  # divides the logits of Eq. 2
  c.inversion.diversity = 'normalised'  # released: 1 - H/ln K; 'entropy': -H, Eq. 1
  c.inversion.prior_sigma = 2.0**0.5  # pixels; of the released blur kernel, meant as 1
  c.inversion.warm_start = True  # released: one generator is kept over all tasks; False: a fresh one per task

  # Methods: one group each.
  c.abd = ConfigDict()
  c.abd.kd_weight = 0.1  # lambda_kd
  c.abd.ft_weight = 1.0  # lambda_ft; the paper's Table F says 0.1, its text and the released code 1
  c.abd.first_softmax = 'all'  # released: the first task's softmax runs over all classes of the head; or 'seen'
  c.abd.ft_softmax = 'all'  # released: so does Eq. 14's; 'seen': as in the paper
  c.abd.local_classes = 'new'  # Eq. 11; ablation 'seen': standard cross-entropy of real images
  c.abd.local_weight = 'balanced'  # released: Eq. 11 times new / seen classes; 'one': as in Eq. 15
  c.abd.kd_images = 'both'  # Eq. 13; ablations: 'real', 'dreamed'. The mean stays one over all images
  c.abd.balance = 'tasks'  # Eq. 14's weights; ablation 'none': all are 1, and that of Eq. 11 too
  c.abd.kd_reduction = 'mean'  # released: over old classes; 'sum': the squared norm of Eq. 13
  c.abd.bn_passes = 2  # released: two forward passes fold each batch into the running statistics twice
  c.lwf = ConfigDict(dict(weight=1.0, temperature=2.0))  # softmax distillation of all methods that have one
  c.lwf_synthetic = ConfigDict(dict(weight=0.1))
  c.deep_inversion = ConfigDict()
  c.deep_inversion.kd_real = 'old'  # released: over old classes alone; 'padded': new ones have probability 0, Eq. 9
  c.memory = ConfigDict()  # of rehearsal, lwf_coreset, e2e, bic
  c.memory.size = 2000  # images
  c.memory.redraw = 'never'  # 'released': random memories fill up with copies, as in the authors' code
  c.e2e = ConfigDict()
  c.e2e.balanced_lr = 1e-3  # of the second stage
  c.e2e.new_target = 'stage_one'  # new classes are held to the first stage's model; 'released': to a wrong tensor
  c.bic = ConfigDict()
  c.bic.held_out = 0.1  # share of the memory that the second stage learns from
  c.bic.bias_lr = 1e-3  # of the second stage
  c.bic.evaluate = 'corrected'  # through the bias layers; 'raw': without them, as the released code does
  c.dgr = ConfigDict(dict(widths=(64, 128, 512), latent=1024))  # the autoencoder
  c.rdfcil = ConfigDict(dict(finetune_epochs=40, finetune_lr=5e-3))  # the second stage

  # Running.
  c.precision = 'float32'  # on every device; 'bfloat16': convolutions and what goes from one to the next
  c.devices = 0  # how many to use; 0: all. Batch sizes must be multiples of it
  c.distributed = False  # several hosts: calls jax.distributed.initialize()
  c.cluster = ConfigDict()  # where the cluster does not tell JAX by itself; any of them implies distributed
  c.cluster.coordinator = ''  # host:port of the first process
  c.cluster.count = 0  # processes; 0: as the cluster says
  c.cluster.rank = -1  # 0-based, of this process; -1: as the cluster says
  c.eval_batch_size = 512  # images
  c.oracle_dir = ''  # where upper bounds are kept and found; '': beside the workdir
  c.chunk_steps = 100  # steps between looks at the host; one compiled scan on GPU and TPU
  c.teachers_kept = 0  # >0: only so many of the newest frozen models stay, and those that the run still needs; 0: all
  c.collapse = 'stop'  # of a student at chance, or a generator that dreams of one thing: the run; or it is only told
  c.checkpoint_seconds = 60.0  # between checkpoints, at the end of a chunk
  c.profile = False  # writes a trace of one compiled chunk of each kind to the workdir, for XProf or TensorBoard
  c.max_seconds = 0.0  # >0: save and stop after this long; the same command resumes it
  return c


# Groups of fields that some methods alone read; any other is of all.
READERS = {
  'lwf': ('lwf', 'lwf_synthetic', 'lwf_coreset', 'deep_inversion', 'e2e', 'bic', 'dgr'),
  'memory': ('rehearsal', 'lwf_coreset', 'e2e', 'bic'),
  **{name: (name,) for name in ('abd', 'lwf_synthetic', 'deep_inversion', 'e2e', 'bic', 'dgr', 'rdfcil')},
}

# R-DFCIL's network and crop, as its authors' code has them.
AS_RDFCIL = {'model.variant': 'rdfcil', 'data.pad_value': 'mean'}

# What else changes with the method: its own recipe, where configs/ name none of their own. Fields of --config win.
RECIPES = {
  'dgr': {'data.mean': (0.0, 0.0, 0.0), 'data.std': (1.0, 1.0, 1.0), 'student.weight_decay': 0.0},
  'rdfcil': {
    'student.epochs': 160,
    'student.milestones': (80, 120),
    'student.weight_decay': 5e-4,
    'inversion.steps': 5000,
    'inversion.warm_start': False,
    'data.brightness': 0.0,
    'data.contrast': 0.0,
    **AS_RDFCIL,
  },
}


def parse_argument(text: str | None) -> dict:
  """The part of --config after the colon: 'tasks=5,method=lwf,trial=1,quick' as a dict.

  Raises UserError for an unknown or ill-formed item.
  """
  kinds = {'tasks': int, 'method': str, 'trial': int, 'quick': _on}
  options = {}
  for item in filter(None, (text or '').split(',')):
    name, _, value = item.partition('=')
    if name not in kinds:
      raise UserError(f"'{name}' in --config=...:{text} is not an option.{nearest(name, kinds)}")
    if name in options:
      raise UserError(f"'{name}' stands twice in --config=...:{text}. Give it once.")
    try:
      options[name] = kinds[name](value)
    except ValueError as error:
      raise UserError(f"'{item}' in --config=...:{text} must be a whole number, such as {name}=1.") from error
  return options


def _on(text: str) -> bool:
  """'quick' and 'quick=1' are on, 'quick=0' is off."""
  return bool(int(text or '1'))


def finish(config: Config, argument: str | None, quick: dict, recipes: dict[str, dict] | None = None) -> Config:
  """`config` with the argument's fields set, its method's recipe, those of `quick` too if it asks for it; locked.

  recipes: by method, in place of RECIPES.

  Raises UserError for an argument that does not fit.
  """
  options = parse_argument(argument)
  if config.task_sizes and (tasks := options.get('tasks', len(config.task_sizes))) != len(config.task_sizes):
    raise UserError(
      f'tasks={tasks}: the tasks of this config are config.task_sizes={config.task_sizes}. Leave tasks= out, and set '
      'that field for others.'
    )
  config.update_from_flattened_dict({**RECIPES, **(recipes or {})}.get(options.get('method', ''), {}))
  if options.pop('quick', False):
    config.collapse = 'tell'  # a rehearsal of the command: one epoch need not learn
    config.update_from_flattened_dict(quick)
  config.update(options)
  return config.lock()


def reads(method: str, field: str) -> bool:
  """Whether a field, by its dotted name, may change what a method does."""
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


class Limits(NamedTuple):
  """The finite range of a number, or of every element of a tuple of them."""

  low: float
  high: float
  above: bool = False  # whether `low` itself is too low
  length: tuple[int, float] = (0, math.inf)  # of a tuple: fewest and most elements


def _each(limits: Limits, *names: str) -> dict[str, Limits]:
  return dict.fromkeys(names, limits)


# Every numeric field's range. Wide: what lies outside computes nothing, or nothing finite.
_STEPS, _SIZE, _RATE, _WEIGHT = Limits(0, 10**9), Limits(1, 10**6), Limits(0, 100, above=True), Limits(0, 1e6)
_SECONDS, _CHANNELS = Limits(0, 1e9), Limits(1, 65536)
LIMITS = {
  **_each(_SIZE, 'student.batch_size', 'inversion.batch_size', 'eval_batch_size', 'chunk_steps', 'student.epochs'),
  **_each(_SIZE, 'rdfcil.finetune_epochs', 'inversion.pixel_images', 'tasks'),
  **_each(_STEPS, 'inversion.steps', 'first_task_classes', 'memory.size', 'teachers_kept'),
  **_each(_RATE, 'student.lr', 'inversion.lr', 'inversion.pixel_lr', 'e2e.balanced_lr', 'bic.bias_lr'),
  **_each(_RATE, 'rdfcil.finetune_lr'),
  **_each(_WEIGHT, 'inversion.content_weight', 'inversion.diversity_weight', 'inversion.stat_weight'),
  **_each(_WEIGHT, 'inversion.prior_weight', 'abd.kd_weight', 'abd.ft_weight', 'lwf.weight', 'lwf_synthetic.weight'),
  **_each(Limits(1e-3, 1e9), 'inversion.temperature', 'lwf.temperature'),
  **_each(Limits(0.01, 1e3), 'inversion.prior_sigma'),
  **_each(Limits(0, 1), 'student.weight_decay', 'data.brightness', 'data.contrast', 'bic.held_out'),
  **_each(Limits(0, 0.9999), 'student.momentum'),
  **_each(_SECONDS, 'checkpoint_seconds', 'max_seconds'),
  **_each(_CHANNELS, 'generator.latent', 'dgr.latent'),
  **_each(Limits(0, 2**32 - 1), 'trial'),
  **_each(Limits(-1, 2**32 - 1), 'seed'),
  **_each(Limits(1, 10**4), 'trials'),
  **_each(Limits(0, 10**4), 'trials_at_once'),
  **_each(Limits(0, 65536), 'devices', 'cluster.count', 'data.folds', 'data.fold'),
  **_each(Limits(-1, 65535), 'cluster.rank'),
  **_each(Limits(0, 1024), 'data.pad'),
  **_each(Limits(0, 4096), 'data.size'),
  **_each(Limits(0, 3), 'data.channels'),
  **_each(_STEPS, 'data.device_mib', 'data.split_seed'),
  **_each(Limits(0, 1, above=True), 'data.test_fraction'),
  **_each(Limits(1, 100), 'abd.bn_passes'),
  **_each(Limits(0, 1e9, above=True), 'data.max_value'),
  **_each(Limits(-1e3, 1e3, length=(0, 4)), 'data.mean'),
  **_each(Limits(1e-6, 1e3, length=(0, 4)), 'data.std'),
  **_each(Limits(1, 10**6), 'task_sizes'),
  **_each(Limits(0, 10**6), 'student.milestones'),
  **_each(Limits(1, 1000, length=(0, 16)), 'model.blocks'),
  **_each(Limits(1, 65536, length=(0, 16)), 'model.widths'),
  **_each(Limits(1, 65536, length=(1, 16)), 'dgr.widths'),
  **_each(Limits(1, 65536, length=(0, 3)), 'generator.start'),
  **_each(Limits(1, 65536, length=(0, 16)), 'generator.widths'),
}


def check(config: Config) -> None:
  """Raises UserError for a value no run could use."""
  flat = flatten(config.to_dict())
  for name, words in CHOICES.items():
    if flat[name] not in words:
      raise UserError(f"config.{name}='{flat[name]}' is not a choice.{nearest(str(flat[name]), words)}")
  for name, limits in LIMITS.items():
    _check_number(name, flat[name], limits)
  blocks, widths = config.model.blocks, config.model.widths
  if len(blocks) != len(widths):
    raise UserError(f'config.model.blocks={blocks} and .widths={widths} must be as many: one of each per stage.')
  folds, fold = config.data.folds, config.data.fold
  if folds == 1 or fold >= max(folds, 1):
    raise UserError(
      f'config.data.fold={fold} with config.data.folds={folds}: folds must be 0 or at least 2, and fold less than that.'
    )
  if config.data.test_fraction == 1 or config.data.channels == 2:
    raise UserError('config.data.test_fraction must lie between 0 and 1, and .channels be 1, 3 or 0.')
  if (config.data.brightness or config.data.contrast) and config.data.max_value != 255:
    raise UserError(
      f'config.data.max_value={config.data.max_value:g}: colour jitter needs values of 0 to 255. Set '
      'config.data.brightness and .contrast to 0.'
    )
  if len(config.generator.start) not in (0, 3):
    raise UserError(f'config.generator.start={config.generator.start} must be (height, width, channels).')


def _check_number(name: str, value: Any, limits: Limits) -> None:
  numbers = value if isinstance(value, (tuple, list)) else (value,)
  whole = name in _WHOLE_TUPLES
  for number in numbers:
    good = isinstance(number, int if whole else (int, float)) and not isinstance(number, bool)
    if not good:
      raise UserError(f'config.{name}={value!r} must be {"whole " if whole else ""}numbers; {number!r} is none.')
    low_enough = limits.low < number if limits.above else limits.low <= number
    if not (low_enough and number <= limits.high):  # NaN fails too
      above = f'above {limits.low:g}' if limits.above else f'at least {limits.low:g}'
      raise UserError(f'config.{name}={value} must be {above} and at most {limits.high:g}.')
  if isinstance(value, (tuple, list)) and not limits.length[0] <= len(value) <= limits.length[1]:
    few, many = limits.length
    count = f'{few}' if few == many else f'{few} to {many:g}'
    raise UserError(f'config.{name}={value} has {len(value)} numbers; it needs {count}.')


_WHOLE_TUPLES = (
  'task_sizes', 'student.milestones', 'model.blocks', 'model.widths', 'dgr.widths', 'generator.start',
  'generator.widths',
)  # fmt: skip


def flatten(tree: dict, prefix: str = '') -> dict:
  """A nested dict as one of dotted names."""
  flat = {}
  for key, value in tree.items():
    flat |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return flat


# Fields that may be left empty, to be found out from the data: the first of each group says so for all of it.
FOUND = (
  ('data.mean', 'data.std'),
  ('data.fingerprint',),
  ('model.blocks', 'model.widths', 'model.variant'),
  ('generator.start', 'generator.widths'),
)


def left_open(flat: dict) -> set[str]:
  """Names of the fields of a flat config that are to be found out from the data."""
  return {name for group in FOUND if not flat.get(group[0]) for name in group}


def changed(config: Config, fields: dict) -> Config:
  """A copy of `config` with some fields, by their dotted names, changed; locked."""
  copy = ConfigDict(config.to_dict())
  copy.update_from_flattened_dict(fields)
  return copy.lock()


def restored(stored: dict) -> Config:
  """The config that a run was written with, as JSON has it: fields that came later at their defaults.

  Raises UserError if no run can have had it.
  """
  config, known = default(), flatten(default().to_dict())
  tuples = lambda value: tuple(map(tuples, value)) if isinstance(value, list) else value
  there = {name: tuples(value) for name, value in flatten(stored).items() if name in known}
  try:
    config.update_from_flattened_dict(there)
    check(config)
  except (TypeError, ValueError) as error:
    raise UserError(f'the config of that run is damaged ({error}): put it back as it was.') from error
  return config.lock()
