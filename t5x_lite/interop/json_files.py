"""JSON objects beside a checkpoint, and what is in them; errors are of one line."""

import json
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError

Json = dict[str, Any]


def read_object(path: pathlib.Path) -> Json:
  """The JSON object of a file; UserError if it holds anything else."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'), parse_constant=_refuse)
  except (ValueError, RecursionError) as e:   # of JSON, of UTF-8, of numbers of 5,000 digits
    raise UserError(f'{path} is not JSON ({e}): fetch it again') from e
  if not isinstance(value, dict):
    raise UserError(f'{path} holds no JSON object: fetch it again')
  return value


def read_optional(path: pathlib.Path) -> Json:
  """The same of a file that need not be there: {} then."""
  return read_object(path) if path.is_file() else {}


def token_text(token: Any) -> Any:
  """The text of a token in tokenizer_config.json, which has it plain or as an object."""
  return token.get('content') if isinstance(token, dict) else token


def listed(names, limit: int = 5) -> str:
  """'a, b, c, d, e … and 12 more': the first of some names."""
  names = list(names)
  more = f' … and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(map(str, names[:limit])) + more


def _refuse(constant: str):
  raise ValueError(f'{constant} is no number')
