"""Strict JSON: what other readers accept, and nothing lost in silence."""

import dataclasses
import datetime
import json
import math
import pathlib

import numpy as np
import pytest

from scaling.commands import output
from t5x_lite.core.strict_json import format_json, to_plain


@dataclasses.dataclass
class Point:
  x: float
  more: dict


def strict(text):
  def refuse(constant):
    raise AssertionError(constant)
  return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null_wherever_they_are():
  value = {'a': [1.5, math.inf, (-math.inf, {'b': math.nan})], 2: Point(math.inf, {'c': True}),
           'd': np.array([[1.0, np.nan]]), 'e': np.float32(np.inf), 'f': np.int64(3), 'g': 10 ** 20}
  assert strict(format_json(value)) == {
      'a': [1.5, None, [None, {'b': None}]], '2': {'x': None, 'more': {'c': True}},
      'd': [[1.0, None]], 'e': None, 'f': 3, 'g': 10 ** 20}


def test_paths_dates_and_sets_are_strings_and_lists():
  value = [pathlib.Path('a/b'), datetime.date(2026, 1, 2), {'y', 'x'}, 'ü', None]
  assert to_plain(value) == ['a/b', '2026-01-02', ['x', 'y'], 'ü', None]


def test_what_has_no_form_is_refused():
  with pytest.raises(TypeError, match='has no form in JSON'):
    to_plain({'a': object()})
  with pytest.raises(ValueError, match='one string'):
    to_plain({1: 'a', '1': 'b'})


def test_commands_print_it(capsys):
  output.print_json({'a': math.inf})
  output.print_warnings(['one', 'two'])
  out, err = capsys.readouterr()
  assert strict(out) == {'a': None} and err == 'warning: one\nwarning: two\n'
