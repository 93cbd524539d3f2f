"""abd-jax audit WORKDIR    what a run keeps from task to task, and whether an old image could hide in it

  --format=table   table: the arrays by their kind; arrays: each by its name and shape; json: everything

Reads the stores of arrays themselves, and needs no data. A run that is going on must be paused first. A method that
keeps images says how many. Exit code 0: nothing found; 1: an image is, or could be, where the method keeps none, or
`report` has put some there, or a read of the data was out of turn.
"""

import json
from typing import Any

from abd_jax.commands.options import parse
from abd_jax.errors import UserError

FORMATS = ('table', 'arrays', 'json')
KINDS = (
  ('student', ('params.', 'batch_stats.')),
  ('generator', ('generator.',)),
  ("the method's own parameters", ('extra.',)),
  ('real images and their labels', ('memory.',)),
)


def run(words: list[str]) -> int:
  """Prints the audit; returns 1 if it found something. Raises UserError."""
  given = parse(words, ('format',))
  form = given.options.get('format', 'table')
  if form not in FORMATS:
    raise UserError(f'--format={form} is not one of {", ".join(FORMATS)}.')
  if len(given.rest) != 1:
    raise UserError('give the workdir of one run, as in abd-jax audit runs/digits.')
  from abd_jax.analysis.audit import audit

  found = audit(given.rest[0])
  print(as_json(found) if form == 'json' else '\n'.join(_lines(found, form)))
  return int(bool(found.findings))


def as_json(found: Any) -> str:
  """An Audit as one JSON object."""
  kept = [
    {'name': name, 'shape': list(array.shape), 'dtype': array.dtype, 'bytes': array.nbytes}
    for name, array in found.kept.items()
  ]
  return json.dumps(found._asdict() | {'kept': kept})


def _lines(found: Any, form: str) -> list[str]:
  from abd_jax.report.tables import table

  if form == 'arrays':
    rows = [[name, f'{array.dtype}{list(array.shape)}', f'{array.nbytes:,}'] for name, array in found.kept.items()]
    header = ['kept between tasks', 'shape', 'bytes']
  else:
    groups = [(kind, [found.group(prefix) for prefix in prefixes]) for kind, prefixes in KINDS]
    sums = [(kind, sum(numbers for numbers, _ in of), sum(size for _, size in of)) for kind, of in groups]
    rows = [[kind, f'{numbers:,}', f'{size:,}'] for kind, numbers, size in sums if numbers]
    header = ['kept between tasks', 'numbers', 'bytes']
  parts = [[part, f'{size:,}'] for part, size in sorted(found.bytes.items())]
  parts.append(['in all, as du -b says', f'{sum(found.bytes.values()):,}'])
  return [
    table(header, rows), '', table(['workdir', 'bytes'], parts), '', *_argument(found), _images(found),
    *(f'note   {line}' for line in found.notes), *(f'found  {line}' for line in found.findings), _verdict(found),
  ]  # fmt: skip


def _images(found: Any) -> str:
  if not found.capacity:
    return f'{found.method} keeps no image'
  past = f'; older frozen models keep {found.past} others, which they had then' if found.past else ''
  now = f'{found.images} now, {found.distinct} of them different'
  return f'{found.method} keeps up to {found.capacity} real images: {now}{past}'


def _verdict(found: Any) -> str:
  if found.findings:
    return f'{len(found.findings)} found that should not be there'
  if found.capacity:
    return 'nothing else: every other array is one of the networks, by name, shape and type'
  return 'nothing found: every array is one of the networks by name, shape and type, every file one that a run writes'


def _argument(found: Any) -> list[str]:
  """The paper's argument about memory, in this run's numbers: those of a generator against those of a coreset."""
  from abd_jax.analysis.audit import CORESET
  from abd_jax.report.html import size

  numbers, nbytes = found.group('generator.')
  if not numbers:
    return []
  height, width, channels = found.image_shape
  pixels = CORESET * height * width * channels
  return [
    f'a memory of {CORESET:,} images of {height}x{width}x{channels} would be {pixels:,} numbers ({size(pixels)}): '
    f'{pixels / numbers:,.1f} times the numbers of the generator, {pixels / nbytes:,.1f} times its bytes'
  ]
