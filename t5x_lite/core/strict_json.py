"""Values as strict JSON: numbers that are not finite are null, arrays are lists.

Python's own writer prints Infinity and NaN, which no other reader of JSON accepts.
"""

from collections.abc import Iterator
import dataclasses
import datetime
import json
import math
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core.errors import UserError


def to_plain(value: Any) -> Any:
  """The value of dicts, lists, strings and numbers; TypeError for what has no such form.

  Dataclasses become dicts, tuples, sets and arrays lists, paths and dates strings; NaN and
  infinities None. A dict's keys become strings; ValueError if two of them become the same.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
  if isinstance(value, dict):
    plain = {str(key): to_plain(item) for key, item in value.items()}
    if len(plain) != len(value):
      raise ValueError(f'two keys are one string: {sorted(map(repr, value))}')
    return plain
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (list, tuple)):
    return [to_plain(item) for item in value]
  if isinstance(value, (set, frozenset)):
    return sorted(to_plain(item) for item in value)
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, (pathlib.PurePath, datetime.date)):
    return str(value)
  if value is None or isinstance(value, (bool, int, str)):
    return value
  raise TypeError(f'{value!r} of type {type(value).__name__} has no form in JSON')


def format_json(value: Any, indent: int | None = None) -> str:
  """The value as strict JSON (RFC 8259), by `to_plain`."""
  return json.dumps(to_plain(value), indent=indent, allow_nan=False)


def parse_lines(text: str, path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """('path, line n', value) of the lines of a JSONL file; blank ones are skipped.

  Texts may hold other ends of lines than that of the file. Raises UserError naming the line.
  """
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      where = f'{path}, line {number}'
      try:
        yield where, json.loads(line)
      except ValueError as e:
        raise UserError(f'{where}: no JSON: {e}') from e
