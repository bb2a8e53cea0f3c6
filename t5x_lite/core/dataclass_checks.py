"""Frozen dataclasses that gin fills check their own types, because gin does not."""

import dataclasses
import difflib
import types
import typing

from t5x_lite.core.errors import UserError

# Attribute of a config that was filled from outside: field -> ' (file:line)' of its binding.
ORIGINS = '_origins'


class FieldError(UserError):
  """An invalid field of a config.

  The message ends with the file and line of its binding if the config records it; else
  `owner`, the config or its class, and `field` let them be added.
  """

  def __init__(self, owner, field: str, rule: str):
    self.owner, self.field = owner, field
    name = (owner if isinstance(owner, type) else type(owner)).__name__
    value = '' if isinstance(owner, type) else f' = {getattr(owner, field)!r}'
    origin = getattr(owner, ORIGINS, {}).get(field, '')
    super().__init__(f'{name}.{field}{value}: {rule}{origin}')

  def __reduce__(self):   # pickled between processes
    return UserError, self.args


def nearest(name: str, choices) -> str:
  """'did you mean …?' with the choice nearest to `name`, else the list of choices."""
  choices = sorted(choices)
  close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if close:
    return f'did you mean {close[0]!r}?'
  return f'choose from {", ".join(choices)}' if choices else 'there are none'


def _matches(value, hint) -> bool:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is typing.Any or hint is None or hint is type(None):
    return hint is typing.Any or value is None
  if origin in (typing.Union, types.UnionType):
    return any(_matches(value, a) for a in args)
  if origin is typing.Literal:
    return value in args
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      return False
    if len(args) == 2 and args[1] is Ellipsis:
      return all(_matches(v, args[0]) for v in value)
    return len(value) == len(args) and all(map(_matches, value, args))
  if origin is dict:
    return isinstance(value, dict) and all(
        _matches(k, args[0]) and _matches(v, args[1]) for k, v in value.items())
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, origin or hint)


def _name(hint) -> str:
  if typing.get_origin(hint) is typing.Literal:
    return 'one of ' + ', '.join(map(repr, typing.get_args(hint)))
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return ' or '.join(_name(a) for a in typing.get_args(hint))
  return 'None' if hint is type(None) else getattr(hint, '__name__', str(hint))


def check_types(config) -> None:
  """Raises FieldError for the first field of dataclass `config` whose value is not of its type."""
  hints = typing.get_type_hints(type(config))
  for field in dataclasses.fields(config):
    value, hint = getattr(config, field.name), hints[field.name]
    if not _matches(value, hint):
      literal = typing.get_origin(hint) is typing.Literal and isinstance(value, str)
      cure = f'; {nearest(value, typing.get_args(hint))}' if literal else ''
      raise FieldError(config, field.name, f'expected {_name(hint)}{cure}')


def check_positive(config, *names: str) -> None:
  """Raises FieldError for the first of the named fields that is set and is not above zero."""
  for name in names:
    value = getattr(config, name)
    if value is not None and not value > 0:   # nan is not
      raise FieldError(config, name, 'must be above 0')
