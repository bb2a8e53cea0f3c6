"""The fields of the web page: their texts to a request, and to a link that restores them."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any
import urllib.parse

from scaling.laws.hyperparameters import RECIPES
from scaling.planning.amounts import parse_amount, parse_count, parse_duration, parse_share
from scaling.planning.budget import MFU, PUE
from scaling.planning.request import HARDWARE, LAW, PRESETS, Request
from t5x_lite.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
  """A text field: its label, parser, hint and initial value.

  `decades` are the powers of ten of its slider; larger values than `max_value` take too long.
  """
  label: str
  read: Callable[[str], Any]
  hint: str
  value: str = ''
  decades: tuple[int, int] | None = None
  max_value: float = math.inf


FIELDS = {
    'flops': Field('Training FLOPs', parse_amount, 'e.g. 1e21', '1e21', (17, 27)),
    'hours': Field('Time', parse_duration, 'e.g. 36, 90m or 2d (hours if no unit)', '24'),
    'dollars': Field('Dollars', parse_amount, 'e.g. 1000', '1000', (1, 8)),
    'kwh': Field('Energy (kWh)', parse_amount, 'e.g. 500', '500', (1, 8)),
    'loss': Field('Target loss', parse_amount, 'nats a token, e.g. 2.5', '2.5'),
    'chips': Field('Chips', parse_count, 'empty: as few as suffice', max_value=2 ** 20),
    'price': Field('Dollars a chip-hour', parse_amount, "empty: the catalogue's"),
    'mfu': Field('MFU', parse_share, f'fraction of the peak; empty: {MFU}'),
    'pue': Field('PUE', parse_amount, f'data centre over chips; empty: {PUE}'),
    'deadline': Field('Deadline', parse_duration, 'e.g. 36, 90m or 2d'),
    'unique_tokens': Field('Unique tokens', parse_amount, 'e.g. 1e11; more are repeats'),
    'served_tokens': Field('Tokens to be served', parse_amount,
                           'e.g. 1e12; the budget includes them'),
    'prompt': Field('Tokens of a prompt', parse_count, 'of those served; empty: half a row'),
    'generated': Field('Tokens of an answer', parse_count, 'of those served; empty: half a row'),
    'max_parameters': Field('Largest model', parse_amount, 'parameters, e.g. 8e9'),
    'length': Field('Row length', parse_count, "tokens; empty: the family's", max_value=2 ** 20),
    'multiple': Field('Multiple of widths', parse_count, 'empty: 128'),
    'vocab_size': Field('Vocabulary', parse_count, "empty: the family's"),
}
BUDGETS = {'flops': 'FLOPs', 'chips': 'Chips', 'dollars': '$', 'kwh': 'kWh', 'loss': 'Loss'}
OF_BUDGET = ('flops', 'hours', 'dollars', 'kwh', 'loss')
ALWAYS = ('chips', 'price')
DETAILS = tuple(name for name in FIELDS if name not in (*OF_BUDGET, *ALWAYS))


class TextError(UserError):
  """A text that its field cannot parse; `field` is its name."""

  def __init__(self, field: str, message: str):
    super().__init__(message)
    self.field = field


def shown_fields(budget: str) -> tuple[str, ...]:
  """The names of the fields of a kind of budget, one of BUDGETS."""
  return ('hours' if budget == 'chips' else budget, *ALWAYS, *DETAILS)


def read_request(texts: Mapping[str, str], budget: str, **choices) -> Request:
  """The request of the fields' texts; TextError or UserError if it is invalid."""
  values = {}
  for name in shown_fields(budget):
    field, text = FIELDS[name], (texts.get(name) or '').strip()
    if text:
      try:
        values[name] = field.read(text)
      except UserError as e:
        raise TextError(name, f'{field.label}: {e}') from None
      if values[name] > field.max_value:
        raise TextError(name, f'{field.label}={text}: give {field.max_value:,} or less')
  return Request(**values, **choices)


def explain_message(message: str) -> tuple[str, str | None]:
  """A message with the page's labels in place of command-line flags, and its field."""
  name = re.match(r'--(\w+)', message)
  labels = {**{name: field.label for name, field in FIELDS.items()}, 'law': 'Law',
            'hardware': 'Hardware', 'family': 'Family', 'columns': 'Columns'}
  text = re.sub(r'--(\w+)', lambda found: labels.get(found[1], found[0]), message)
  return text, name[1] if name and name[1] in FIELDS else None


# What is chosen from lists, and what it is at first.
CHOICES = {'budget': 'flops', 'hardware': HARDWARE, 'family': 'llama', 'law': LAW,
           'recipe': 'step_law'}


def format_link(texts: Mapping[str, str]) -> str:
  """The query of a link that restores all fields and choices; '' if they are as at first."""
  initial = {**CHOICES, **{name: field.value for name, field in FIELDS.items()}}
  return urllib.parse.urlencode({name: texts.get(name) or '' for name in initial
                                 if (texts.get(name) or '') != initial[name]})


def read_link(query: Mapping[str, str], chips: Mapping[str, Any], laws: Mapping[str, Any]
              ) -> tuple[dict[str, str], list[str]]:
  """(the texts of all fields and choices, what of the link was not understood).

  Args:
    query: of the link; names that are not there are as at first.
    chips, laws: those to choose from.
  """
  texts = {**CHOICES, **{name: field.value for name, field in FIELDS.items()}}
  known = {'budget': BUDGETS, 'hardware': chips, 'family': PRESETS, 'law': laws,
           'recipe': RECIPES}
  unknown = []
  for name, text in query.items():
    if name not in texts:
      unknown.append(f'{name}={text}: there is no such field')
    elif name in known and text not in known[name]:
      cure = 'upload its runs again' if (name, text) == ('law', 'fit') else (
          f'choose from {", ".join(known[name])}')
      unknown.append(f'{name}={text}: {cure}')
    else:
      texts[name] = text
  return texts, unknown
