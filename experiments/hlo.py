"""What stands in a program that XLA has optimised, `compiled.as_text()`: kernels, collectives, bytes."""

import re
from collections import Counter
from typing import Any, NamedTuple

_OPERATION = re.compile(r'^(?:ROOT )?%([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)$')
_HEADER = re.compile(r'^(ENTRY )?%([\w.\-]+) \(.*\{$')
_ARRAY = re.compile(r'\b([a-z]+)(\d*)\[([\d,]*)\]')
_COLLECTIVE = re.compile(r'(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?')
# Operations that launch nothing, or the second half of one that has been counted.
_FREE = {'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant', 'after-all', 'partition-id'}
_FREE |= {f'{name}-done' for name in ('copy', 'slice', 'async', 'all-reduce', 'all-gather', 'collective-permute')}
_FREE |= {'async-update', 'copy-start', 'slice-start'}
_LARGE = 150  # operations: a loop of fewer is one inside a step, not the scan over steps


class Operation(NamedTuple):
  name: str
  shape: str
  kind: str  # 'fusion', 'all-reduce', ...
  rest: str  # operands and attributes


def read(text: str) -> dict[str, Any]:
  """Of one step: the body of the scan where the program is one, else the whole program.

  kernels: operations that are launched; kinds: of them, by operation; parts: by the model's part and direction, as JAX
  named them; convolutions: by what they call. collectives: how many, and the bytes of their results.
  """
  operations = [one for one in _step(text) if one.kind not in _FREE]
  collectives = [one for one in operations if _COLLECTIVE.fullmatch(one.kind)]
  return {
    'kernels': len(operations),
    'kinds': dict(Counter(one.kind.removesuffix('-start') for one in operations).most_common()),
    'parts': dict(Counter(_part(one) for one in operations).most_common()),
    'collectives': {
      'count': len(collectives),
      'kinds': dict(Counter(one.kind.removesuffix('-start') for one in collectives)),
      # One that only starts has its operands in its type, beside its results.
      'bytes': sum(_bytes(one.shape) // (1 + one.kind.endswith('-start')) for one in collectives),
    },
    'aliased': len(re.findall(r'(?:may|must)-alias', text.partition('\n')[0])),
  }


def _step(text: str) -> list[Operation]:
  computations, entry = _computations(text)
  bodies = re.findall(r'\bbody=%([\w.\-]+)', text)
  largest = max(bodies, key=lambda name: len(computations[name]), default=entry)
  return computations[largest if len(computations[largest]) > _LARGE else entry]


def _computations(text: str) -> tuple[dict[str, list[Operation]], str]:
  """The operations of each computation, and the name of the entry."""
  found, name, entry = {}, '', ''
  for line in text.splitlines():
    if header := _HEADER.match(line):
      name = header.group(2)
      found[name], entry = [], name if header.group(1) else entry
    elif operation := _OPERATION.match(line.strip()):
      found[name].append(Operation(*operation.groups()))
  return found, entry


def _part(operation: Operation) -> str:
  """'Classifier norm backward', 'Generator conv', or 'rest': optimizer, losses, augmentation, random numbers."""
  found = re.search(r'op_name="([^"]*)"', operation.rest)
  path = found.group(1) if found else ''
  module = re.search(r'Classifier|Generator', path)
  if not module:
    return 'rest'
  layer = re.search(r'/(norm|conv|head)', path)
  direction = 'backward' if 'transpose(' in path else 'forward' if 'jvp(' in path else 'frozen'
  return f'{module.group()} {layer.group(1) if layer else "rest"} {direction}'


def _bytes(shape: str) -> int:
  """Of all arrays in a type."""
  total = 0
  for kind, bits, sides in _ARRAY.findall(shape):
    size = 8 if kind == 'pred' else int(bits or 0)
    for side in filter(None, sides.split(',')):
      size *= int(side)
    total += size // 8
  return total
