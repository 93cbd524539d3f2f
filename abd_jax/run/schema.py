"""Whether a record read from JSON is of the form that its readers rely on."""

from types import NoneType
from typing import Any

NUMBER = (int, float)
MAYBE = (int, float, NoneType)


def misfit(value: Any, form: Any, name: str = '') -> str:
  """What in `value` is not as `form` has it, in a few words; '' if all is.

  form: a type or a tuple of types; [form] for a list of such, of any length; {key: form} for a dict with at least these
  keys. name: of the value, for the words.
  """
  if isinstance(form, dict):
    if not isinstance(value, dict):
      return f'{name or "it"} is no object'
    lacking = next((f'it lacks {name}{"." * bool(name)}{key}' for key in form if key not in value), '')
    return lacking or next(
      filter(None, (misfit(value[key], of, f'{name}{"." * bool(name)}{key}') for key, of in form.items())), ''
    )
  if isinstance(form, list):
    if not isinstance(value, list):
      return f'{name} is no list'
    return next(filter(None, (misfit(one, form[0], f'{name}[{k}]') for k, one in enumerate(value))), '')
  return '' if isinstance(value, form) and not isinstance(value, bool) else f'{name} is {str(value)[:40]!r}'
