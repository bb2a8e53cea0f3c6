"""Frozen dataclasses that gin fills check their own types and ranges, because gin does not.

A range is part of a field's type: `rate: Positive[float]`, `beta: Fraction`, `size: Count | None`.
"""

import collections.abc
import dataclasses
import difflib
import functools
import math
import reprlib
import struct
import types
import typing
from typing import Annotated, Any, TypeVar

from t5x_lite.core.errors import UserError

# Attribute of a config that was filled from outside: field -> ' (file:line)' of its binding.
ORIGINS = '_origins'
INT_MAX = 2 ** 31 - 1   # steps are counted in 32 bits
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 100


class FieldError(UserError):
  """An invalid field of a config.

  The message ends with the file and line of its binding if the config records it; else
  `owner`, the config or its class, `field` and `rule` let them be added.
  """

  def __init__(self, owner, field: str, rule: str):
    self.owner, self.field, self.rule = owner, field, rule
    name = (owner if isinstance(owner, type) else type(owner)).__name__
    value = '' if isinstance(owner, type) else f' = {short_repr(getattr(owner, field))}'
    self.origin = getattr(owner, ORIGINS, {}).get(field, '')
    super().__init__(f'{name}.{field}{value}: {rule}{self.origin}')

  def __reduce__(self):   # pickled between processes
    return UserError, self.args


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `min` or above `above`, to `max` or below `below`."""
  min: float = -math.inf
  above: float = -math.inf
  max: float = math.inf
  below: float = math.inf

  def holds(self, value: float) -> bool:
    """Whether a number is in the range; nan is in none."""
    return self.min <= value <= self.max and (self.above < value or self.above == -math.inf) and (
        value < self.below or self.below == math.inf)

  def __str__(self) -> str:
    return self.rule(0)

  def rule(self, value: float) -> str:
    """The range in words; the largest int only where `value` is beyond it."""
    words = {'at least': self.min, 'above': self.above, 'at most': self.max, 'below': self.below}
    if self.max == INT_MAX and value <= INT_MAX:
      del words['at most']
    return ' and '.join(f'{word} {_number(x)}' for word, x in words.items() if math.isfinite(x))


@dataclasses.dataclass(frozen=True)
class Mark:
  """What a field of text names: 'path' or 'module'."""
  what: str


_T = TypeVar('_T')
Positive = Annotated[_T, Range(above=0)]
NonNegative = Annotated[_T, Range(min=0)]
Fraction = Annotated[float, Range(min=0, below=1)]
Count = Annotated[int, Range(above=0, max=INT_MAX)]
Length = Annotated[int, Range(above=0, max=2 ** 24)]       # of a sequence, in tokens
Seed = Annotated[int, Range(min=0, max=2 ** 32 - 1)]       # JAX would take a larger one modulo that
Step = Annotated[int, Range(min=0, max=INT_MAX)]           # how many were taken
Path = Annotated[str, Mark('path')]
ModuleName = Annotated[str, Mark('module')]


def has_surrogate(text: str) -> bool:
  """Whether there is half of a surrogate pair in it, which no text in UTF-8 has."""
  return any('\ud800' <= char <= '\udfff' for char in text)


def nearest(name: str, choices) -> str:
  """'did you mean …?' with the choice nearest to `name`, else the list of choices."""
  choices = sorted(choices)
  close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if close:
    return f'did you mean {close[0]!r}?'
  return f'choose from {", ".join(choices)}' if choices else 'there are none'


def short_repr(value: Any) -> str:
  """A value for a message: its repr, the middle of a long one left out."""
  text = repr(value) if isinstance(value, (bool, float)) else _SHORT.repr(value)
  return ' '.join(text.split())


def check_types(config) -> None:
  """Raises FieldError for the first field of a dataclass that is not of its type or range."""
  for name, hint in type_hints(type(config)).items():
    if rule := broken_rule(getattr(config, name), hint):
      raise FieldError(config, name, rule)


def broken_rule(value: Any, hint: Any) -> str | None:
  """What a value that is not of this type, or out of its range, is to be; None if it is right."""
  try:
    _check(value, hint)
  except _NoMatch as e:
    return e.rule
  return None


def as_written(value: Any, hint: Any, text: str | None = None) -> Any:
  """A value of a config file as one of this type, if it can be; else as it is.

  A whole float is an int where one is expected, a list a tuple, and a number the `text` it was
  written as where text is expected.
  """
  kinds = {part: _bare(part) for part in parts_of(hint)}
  for part in kinds:
    if not isinstance(value, list) and broken_rule(value, part) is None:
      return value
  for kind in kinds.values():
    if kind is int and isinstance(value, float) and value.is_integer():
      return int(value)
    if kind is str and text is not None and type(value) in (int, float):
      return text
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(value, (tuple, list)):
      many = len(args) == 2 and args[1] is Ellipsis
      if many or len(args) == len(value):
        return tuple(map(as_written, value, [args[0]] * len(value) if many else args))
  return value


def _bare(hint: Any) -> Any:
  return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
  """{field: type} of a dataclass, with the ranges; Any for a name that its module lacks."""
  try:
    hints = typing.get_type_hints(cls, include_extras=True)
  except NameError:   # imported for type checkers alone
    hints = {}
  return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(cls)}


def parts_of(hint: Any) -> tuple[Any, ...]:
  """The alternatives of a union, or the type itself."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return tuple(part for arg in typing.get_args(hint) for part in parts_of(arg))
  return (hint,)


def mark_of(hint: Any) -> str | None:
  """'path' or 'module' if the type is so marked, as a whole or in one of its alternatives."""
  for part in parts_of(hint):
    for extra in getattr(part, '__metadata__', ()):
      if isinstance(extra, Mark):
        return extra.what
  return None


class _NoMatch(Exception):
  """A value that is not of a type; `near` if it is of the kind of value, in another range."""

  def __init__(self, rule: str, near: bool = False):
    self.rule, self.near = rule, near
    super().__init__(rule)


def _check(value: Any, hint: Any) -> None:
  """Raises _NoMatch with what was expected if the value is not of this type."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return
  if len(parts_of(hint)) > 1:
    _check_one_of(value, hint)
    return
  if origin is Annotated:
    _check(value, args[0])
    for extra in args[1:]:
      if isinstance(extra, Range) and not extra.holds(_as_float32(value)):
        raise _NoMatch(f'must be {extra.rule(value)}', near=True)
    return
  if origin is typing.Literal:
    if not any(value == a and type(value) is type(a) for a in args):
      cure = f'; {nearest(value, map(str, args))}' if isinstance(value, str) else ''
      raise _NoMatch(f'expected {type_name(hint)}{cure}', near=bool(cure))
    return
  if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
    if not math.isfinite(_as_float32(value)):
      raise _NoMatch('must be finite, as float32', near=True)
    if value != 0 and _as_float32(value) == 0:
      raise _NoMatch('is too small: float32 makes it 0', near=True)
    return
  if origin is tuple:
    many = len(args) == 2 and args[1] is Ellipsis
    good = isinstance(value, (tuple, list)) and (many or len(value) == len(args)) and all(
        broken_rule(v, a) is None for v, a in zip(value, [args[0]] * len(value) if many else args))
  elif origin is dict:
    good = isinstance(value, dict) and all(
        broken_rule(k, args[0]) is broken_rule(v, args[1]) is None for k, v in value.items())
  elif hint is int:
    good = isinstance(value, int) and not isinstance(value, bool)
  else:
    good = value is None if hint in (None, type(None)) else isinstance(value, origin or hint)
  if not good:
    raise _NoMatch(f'expected {type_name(hint)}')


def _check_one_of(value: Any, hint: Any) -> None:
  near = []
  for part in parts_of(hint):
    try:
      _check(value, part)
      return
    except _NoMatch as e:
      near += [e] if e.near else []
  raise near[0] if len(near) == 1 else _NoMatch(f'expected {type_name(hint)}')


def _as_float32(value: Any) -> Any:
  """A float, or an int that is too large for one, as devices have it: inf, or 0 for a tiny one."""
  if isinstance(value, int) and abs(value) < 2 ** 64:
    return value
  try:
    rounded = struct.unpack('f', struct.pack('f', float(value)))[0]
  except OverflowError:
    return math.inf if value > 0 else -math.inf
  return 0.0 if abs(rounded) < 2.0 ** -126 else rounded   # devices flush what is smaller


def type_name(hint: Any) -> str:
  """A type for people: 'int or None', 'one of …', 'a tuple of str'."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if len(parts_of(hint)) > 1:
    return ' or '.join(type_name(part) for part in parts_of(hint))
  if origin is Annotated:
    return type_name(args[0])
  if origin is typing.Literal:
    return 'one of ' + ', '.join(map(repr, args))
  if origin in (tuple, collections.abc.Sequence) and args:
    inner = [type_name(a) for a in args if a is not Ellipsis]
    many = len(inner) == 1
    return f'a tuple of {inner[0]}' if many else f'a tuple ({", ".join(inner)})'
  if origin in (dict, collections.abc.Mapping) and args:
    return f'a dict of {type_name(args[0])} to {type_name(args[1])}'
  if hint is Any:
    return 'anything'
  return 'None' if hint in (None, type(None)) else getattr(hint, '__name__', str(hint))


def _number(x: float) -> str:
  return f'{x:,}' if isinstance(x, int) else f'{x:g}'
