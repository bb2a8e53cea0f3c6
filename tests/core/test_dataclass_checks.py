"""Type checks of config dataclasses: what passes, what does not, and the line that is printed."""

from collections.abc import Callable
import dataclasses
import typing
from typing import Any, Literal

import pytest

from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  Fraction,
  NonNegative,
  Positive,
  Seed,
  as_written,
  check_types,
  nearest,
)
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


@pytest.mark.parametrize('name, choices, want', [
    ('tokns', ['tokens', 'positions'], "did you mean 'tokens'?"),
    ('zzz', ['b', 'a'], 'choose from a, b'), ('x', [], 'there are none')])
def test_nearest(name, choices, want):
  assert nearest(name, choices) == want


@pytest.mark.parametrize('hint, value, rule', [
    (Count, 0, 'must be above 0'), (Count, 2 ** 31, 'at most 2,147,483,647'),
    (Count, 10 ** 400, ''),
    (Count | None, -1, 'must be above 0'), (Seed, -1, 'must be at least 0'), (Seed, 2 ** 32, ''),
    (Positive[float], 0, 'must be above 0'), (Positive[float], 1e-40, 'float32 makes it 0'),
    (Positive[float] | None, float('nan'), 'must be finite'),
    (NonNegative[float], -1e-9, 'must be at least 0'), (NonNegative[float], 10 ** 400, 'finite'),
    (Fraction, 1.0, 'must be at least 0 and below 1'), (Fraction, -0.1, 'must be at least 0'),
    (Fraction, 1 - 1e-12, 'below 1'),   # in float32, as devices compute
    (float, float('inf'), 'must be finite'), (float, 1e39, 'must be finite')])
def test_a_number_out_of_range_is_refused_with_the_rule(hint, value, rule):
  message = problem(hint, value)
  assert message.startswith('Config.field = ') and rule in message and '\n' not in message
  assert len(message) < 200


@pytest.mark.parametrize('hint, value', [
    (Count, 1), (Count, 2 ** 31 - 1), (Count | None, None), (Seed, 0), (Seed, 2 ** 32 - 1),
    (Positive[float], 1e-30), (Positive[int], 1), (NonNegative[float], 0), (Fraction, 0),
    (Fraction, 0.9999), (float, 1e38)])
def test_a_number_at_the_edge_of_its_range_passes(hint, value):
  assert problem(hint, value) is None


@pytest.mark.parametrize('hint, value, text, taken', [
    (int, 1e2, '1e2', 100), (Count, 3.0, None, 3), (Count | None, 3.0, None, 3),
    (int, 1.5, '1.5', 1.5), (float, 1e2, '1e2', 1e2), (int | float, 1e2, None, 1e2),
    (int, float('inf'), '1e999', float('inf')), (bool, 1.0, None, 1.0),
    (str, 2024, '2024', '2024'), (str | None, 7, '007', '007'), (str, 1e3, '1e3', '1e3'),
    (str, 2024, None, 2024), (str, True, 'True', True), (str, None, 'None', None),
    (str | None, None, 'None', None), (str | float | None, 0.5, '0.5', 0.5),
    (tuple[int, ...], [1.0, 2], None, (1, 2)), (tuple[int, str], [1.0, 'a'], None, (1, 'a')),
    (Any, 1.0, '1', 1.0), (Literal['1'], 1, '1', 1)])
def test_what_is_written_is_taken_as_the_type_that_is_expected(hint, value, text, taken):
  got = as_written(value, hint, text)
  assert got == taken and type(got) is type(taken)
