"""Numbers as text: what plans print, and the same texts as input."""

import argparse
from collections.abc import Callable
import math
import re

from scaling.laws.intervals import Interval
from t5x_lite.core.errors import UserError

UNITS = {1e12: 'T', 1e9: 'B', 1e6: 'M'}


class AmountError(UserError, argparse.ArgumentTypeError):
  """A text that is no number; argparse names the flag."""


_SIZES = {'': 1.0, 'k': 1e3, 'm': 1e6, 'b': 1e9, 'g': 1e9, 't': 1e12, 'p': 1e15}
_NUMBER = r'\d[\d,_]*\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?'
_WHAT = '(?:kwh|tokens|parameters|flops|rows|hours?)?'
_HOURS = {'s': 1 / 3600, 'm': 1 / 60, 'h': 1, 'd': 24, 'w': 168}
_TIMES = r'(s|m|h|d|w|sec(?:onds?)?|min(?:utes?)?|hours?|days?|weeks?)?'


def parse_amount(text: str) -> float:
  """The number of '1e12', '1.41T', '70B', '400M', '$1,192,641' or '311,300 kWh'.

  A flag's type for argparse, which prints the message.
  """
  match = re.fullmatch(rf'\$?\s*([+-]?(?:{_NUMBER}))\s*([kmbgtp]?)\s*{_WHAT}',
                       text.strip().lower())
  if not match:
    raise AmountError(f'{text!r}: expected a number, e.g. 1e12, 1.5T, 70B or 400M')
  return float(match[1].replace(',', '').replace('_', '')) * _SIZES[match[2]]


def parse_count(text: str) -> int:
  """The whole number of '1024', '1,024' or '1k'; a flag's type."""
  value = parse_amount(text)
  if not math.isfinite(value) or value != round(value):
    raise AmountError(f'{text!r}: expected a whole number, e.g. 1024')
  return round(value)


def parse_duration(text: str) -> float:
  """Hours of '36', '36h', '90m', '2d' or '16.5 days'; an argparse type."""
  match = re.fullmatch(rf'({_NUMBER})\s*{_TIMES}', text.strip().lower())
  if not match:
    raise AmountError(f'{text!r}: expected hours, or a number with m, h or d, e.g. 36, 90m or 2d')
  return float(match[1].replace(',', '').replace('_', '')) * _HOURS[(match[2] or 'h')[0]]


def parse_share(text: str) -> float:
  """The fraction of '0.4' or '40%'; a flag's type."""
  number, percent = re.fullmatch(r'(.*?)\s*(%?)', text.strip()).groups()
  try:
    return parse_amount(number) / (100 if percent else 1)
  except AmountError:
    raise AmountError(f'{text!r}: expected a fraction, e.g. 0.4 or 40%') from None


def check_level(level: float) -> None:
  """Raises UserError for what is no level of an interval."""
  if not 0 < level < 1:
    raise UserError(f'--level={level}: give a number between 0 and 1, e.g. 0.95')


def check_seed(seed: int) -> None:
  """Raises UserError for what is no seed."""
  if not 0 <= seed < 2 ** 63:
    raise UserError(f'--seed={seed}: give a whole number of 0 or more')


def format_amount(value: float) -> str:
  """A number of parameters or tokens: '1.41T', '70.2B', '400M'."""
  for size, letter in UNITS.items():
    if value >= 0.9995 * size:
      return f'{value / size:.{3 if value < 999.5 * size else 5}g}{letter}'
  return f'{value:,.0f}'


def format_hours(value: float) -> str:
  """'2.1 hours', or days above two days."""
  return f'{value:.3g} hours' if value <= 48 else f'{value / 24:.3g} days'


def format_money(value: float) -> str:
  """'$1,192,641', or with cents below 100 dollars."""
  return f'${value:,.0f}' if value >= 100 else f'${value:.2f}' if value >= 0.1 else f'${value:.2g}'


def format_interval(value: float, interval: Interval | None, show: Callable[[float], str]) -> str:
  """'72B (49B–116B)'."""
  return show(value) + ('' if interval is None else f' ({show(interval[0])}–{show(interval[1])})')


def format_columns(rows: list[list[str]]) -> list[str]:
  """Rows as lines, each column as wide as its widest cell, two spaces between."""
  widths = [max(len(cell) for cell in column) for column in zip(*rows)]
  return ['  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths)).rstrip()
          for row in rows]
