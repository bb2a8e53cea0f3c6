"""What plans print is what their flags take."""

import argparse

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from scaling.planning import amounts
from t5x_lite.core.errors import UserError


@pytest.mark.parametrize('text, value', [
    ('1B', 1e9), ('10T', 10e12), ('1.41T', 1.41e12), ('400M', 4e8), ('512k', 512e3), ('1e21', 1e21),
    ('5.76e+23', 5.76e23), ('72,431,686,656', 72431686656), ('$1,192,641', 1192641), ('.5', 0.5),
    ('311,300 kWh', 311300), ('70 B', 7e10), ('1_000', 1000), ('-1', -1), ('1e+05T', 1e17)])
def test_numbers(text, value):
  assert amounts.parse_amount(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize('text', ['', 'B', '1X', '1e', 'nan', 'inf', '1.2.3', '10 apples', '1BB'])
def test_what_is_no_number(text):
  with pytest.raises(UserError, match='expected a number, e.g. 1e12, 1.5T'):
    amounts.parse_amount(text)
  with pytest.raises(argparse.ArgumentTypeError):   # so that argparse names the flag
    amounts.parse_amount(text)


def test_counts_are_whole():
  assert amounts.parse_count('1,024') == 1024 and amounts.parse_count('1k') == 1000
  with pytest.raises(UserError, match="'8.5': expected a whole number"):
    amounts.parse_count('8.5')


def test_shares():
  assert [amounts.parse_share(text) for text in ('0.4', '40%', '40 %', '1')] == [0.4, 0.4, 0.4, 1]
  for text in ('%', 'x%', '4%%', ''):
    with pytest.raises(argparse.ArgumentTypeError, match='expected a fraction, e.g. 0.4 or 40%'):
      amounts.parse_share(text)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 24))
def test_every_amount_that_is_printed_is_read(log10):
  value = 10 ** log10
  assert amounts.parse_amount(amounts.format_amount(value)) == pytest.approx(
      value, rel=0.006 if value > 100 else 0.6)
  assert amounts.parse_amount(amounts.format_money(value)) == pytest.approx(value, rel=0.06)
  assert amounts.parse_duration(amounts.format_hours(value)) == pytest.approx(value, rel=0.006)


def test_columns_are_as_wide_as_their_cells():
  lines = amounts.format_columns([['law', 'N'], ['a' * 30, '1' * 40], ['b', '2']])
  assert lines == ['law' + ' ' * 29 + 'N', 'a' * 30 + '  ' + '1' * 40, 'b' + ' ' * 31 + '2']
