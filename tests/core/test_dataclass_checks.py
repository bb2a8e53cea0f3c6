"""Type checks of config dataclasses: what passes, what does not, and the line that is printed."""

from collections.abc import Callable
import dataclasses
import typing
from typing import Any, Literal

import pytest

from t5x_lite.core.dataclass_checks import FieldError, check_positive, check_types, nearest
from t5x_lite.core.errors import UserError


def problem(hint, value) -> str | None:
  """What check_types says of a field of type `hint` holding `value`."""
  cls = dataclasses.make_dataclass('Config', [('field', hint)])
  try:
    check_types(cls(value))
  except FieldError as error:
    assert type(error.owner) is cls and error.field == 'field'
    return str(error)
  return None


class Base:
  pass


class Derived(Base):
  pass


@pytest.mark.parametrize('hint, value', [
    (int, 3), (int, -1), (float, 1.5), (float, 2), (bool, True), (str, 'a'), (str, ''),
    (int | None, None), (int | None, 3), (typing.Optional[int], None), (None, None),  # noqa: UP045
    (float | str, 1), (float | str, 'a'), (Any, object()),
    (Literal['a', 'b'], 'b'), (Literal[1, 2], 2), (Literal['a'] | None, None),
    (tuple[int, ...], ()), (tuple[int, ...], (1, 2)), (tuple[int, ...], [1, 2]),
    (tuple[str, int], ('a', 1)), (tuple[tuple[str, tuple[str, ...]], ...], (('a', ('b',)),)),
    (dict[str, int], {}), (dict[str, float], {'a': 1}),
    (Callable[[int], int], len), (Base, Derived()), (Base | Literal['x'], 'x')])
def test_a_value_of_the_type_passes(hint, value):
  assert problem(hint, value) is None


@pytest.mark.parametrize('hint, value, expected', [
    (int, True, 'expected int'), (int, 1.0, 'expected int'), (int, '1', 'expected int'),
    (int, None, 'expected int'), (float, True, 'expected float'), (float, '1', 'expected float'),
    (bool, 1, 'expected bool'), (str, 1, 'expected str'),
    (int | None, 'a', 'expected int or None'), (int | None, False, 'expected int or None'),
    (float | str, None, 'expected float or str'),
    (tuple[int, ...], (1, 'a'), None), (tuple[int, ...], 3, None),
    (tuple[str, int], ('a',), None), (tuple[str, int], ('a', 1, 2), None),
    (tuple[str, int], (1, 'a'), None),
    (dict[str, int], {1: 1}, None), (dict[str, int], {'a': 'b'}, None), (dict[str, int], [], None),
    (Callable[[int], int], 3, None), (Base, 'a', 'expected Base'), (None, 0, 'expected None')])
def test_a_value_of_another_type_is_refused_with_field_value_and_type(hint, value, expected):
  message = problem(hint, value)
  assert message.startswith(f'Config.field = {value!r}: expected ') and '\n' not in message
  if expected:
    assert message == f'Config.field = {value!r}: {expected}'


def test_a_misspelt_choice_is_refused_with_the_nearest():
  assert problem(Literal['rms_norm', 'layer_norm'], 'rmsnorm') == (
      "Config.field = 'rmsnorm': expected one of 'rms_norm', 'layer_norm'; did you mean "
      "'rms_norm'?")


def test_an_unknown_choice_is_refused_with_all_of_them():
  assert problem(Literal['b', 'a'], 'zzz').endswith('choose from a, b')


def test_only_the_first_wrong_field_is_named():
  @dataclasses.dataclass
  class Two:
    first: int
    second: str
    third: str
  with pytest.raises(FieldError, match=r'^Two\.second = 1: expected str$'):
    check_types(Two(1, 1, 1))


def test_field_error_of_a_class_names_no_value():
  assert str(FieldError(Base, 'field', 'must be set')) == 'Base.field: must be set'
  assert issubclass(FieldError, UserError)


@pytest.mark.parametrize('value', [0, -1, 0.0, -0.5])
def test_what_is_not_above_zero_is_refused(value):
  @dataclasses.dataclass
  class Sizes:
    size: float
  with pytest.raises(FieldError, match=f'^Sizes.size = {value}: must be above 0$'):
    check_positive(Sizes(value), 'size')


def test_positive_values_and_unset_ones_pass():
  @dataclasses.dataclass
  class Sizes:
    a: float
    b: float | None
    c: int
  check_positive(Sizes(1e-9, None, -1), 'a', 'b')


@pytest.mark.parametrize('name, choices, want', [
    ('tokns', ['tokens', 'positions'], "did you mean 'tokens'?"),
    ('zzz', ['b', 'a'], 'choose from a, b'), ('x', [], 'there are none')])
def test_nearest(name, choices, want):
  assert nearest(name, choices) == want
