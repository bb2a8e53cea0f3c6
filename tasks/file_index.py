"""Where the examples of .jsonl and .txt files begin and end, found while checking each line.

Python and NumPy only. An example is then read by its index, without reading the file again.
"""

import array
from collections.abc import Mapping
import dataclasses
import difflib
import glob
import hashlib
import json
import os

import numpy as np

from t5x_lite.errors import UserError

_EXTENSIONS = ('.jsonl', '.txt')


@dataclasses.dataclass(frozen=True)
class FileIndex:
  """The examples of some files, in order.

  Attributes:
    paths: the files.
    fields: the JSONL field of each feature.
    file_of: int32 [n], which file holds each example.
    start: int64 [n], the offset of its first byte.
    size: int64 [n], its number of bytes, newline left out.
    digest: a hash of the paths and of the content of all files.
  """

  paths: tuple[str, ...]
  fields: Mapping[str, str]
  file_of: np.ndarray
  start: np.ndarray
  size: np.ndarray
  digest: bytes

  def __len__(self) -> int:
    return len(self.start)

  def __getitem__(self, index: int) -> dict[str, str]:
    """Returns the features of an example."""
    path = self.paths[self.file_of[index]]
    with open(path, 'rb') as file:
      file.seek(self.start[index])
      return parse_line(file.read(self.size[index]), path, self.fields, path)


def index_files(pattern: str, fields: Mapping[str, str], where: str) -> FileIndex:
  """Checks every line of the files that `pattern` matches, and returns where they are.

  Args:
    pattern: a glob.
    fields: the JSONL field of each feature.
    where: the setting that gave the pattern, for messages.

  Raises:
    UserError: no file matches, a file has another extension, a line is not UTF-8, not a JSON
      object or lacks a field, a field is not a string, or there is no example at all.
  """
  paths = tuple(
      os.path.abspath(p) for p in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(p)
  )
  if not paths:
    raise UserError(f'{where}: no file matches {pattern!r} (from {os.getcwd()})')
  file_of, start, size = array.array('i'), array.array('q'), array.array('q')
  digest = hashlib.sha256()
  has_text = False
  for number, path in enumerate(paths):
    if not path.endswith(_EXTENSIONS):
      raise UserError(f'{where}: {path} must end in {" or ".join(_EXTENSIONS)}')
    if path.endswith('.txt') and 'inputs' in fields:
      raise UserError(
          f'{where}: {path} has no fields, and text_to_text needs inputs and targets: use .jsonl'
      )
    digest.update(f'\0{path}\0'.encode())
    offset = 0
    try:
      with open(path, 'rb') as file:
        for line_number, line in enumerate(file, start=1):
          digest.update(line)
          text = line.rstrip(b'\r\n')
          if text.strip():
            features = parse_line(text, path, fields, f'{where}: {path}:{line_number}')
            has_text = has_text or bool(features['targets'].strip())
            file_of.append(number)
            start.append(offset)
            size.append(len(text))
          offset += len(line)
    except OSError as error:
      raise UserError(f'{where}: cannot read {path}: {error.strerror}') from error
  if not has_text:
    raise UserError(f'{where}: {pattern!r} matches {len(paths)} file(s), but they hold no text')
  as_array = lambda values, dtype: np.frombuffer(values, dtype)
  return FileIndex(
      paths, dict(fields), as_array(file_of, np.int32), as_array(start, np.int64),
      as_array(size, np.int64), digest.digest(),
  )


def parse_line(line: bytes, path: str, fields: Mapping[str, str], where: str) -> dict[str, str]:
  """Returns the features of one line.

  Raises:
    UserError: as for `index_files`, beginning with `where`.
  """
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
        f'{where}: not UTF-8 at byte {error.start + 1} of the line: convert the file to UTF-8'
    ) from error
  if path.endswith('.txt'):
    return {'targets': text}
  try:
    record = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f'{where}: not JSON, {error.msg} at column {error.colno}') from error
  if not isinstance(record, dict):
    raise UserError(f'{where}: expected a JSON object, got {type(record).__name__}')
  features = {}
  for feature, field in fields.items():
    if field not in record:
      nearest = difflib.get_close_matches(field, record, n=1)
      hint = f' (did you mean {nearest[0]!r}?)' if nearest else ''
      raise UserError(
          f'{where}: no field {field!r}{hint}; there are {", ".join(record) or "none"}'
      )
    if not isinstance(record[field], str):
      raise UserError(
          f'{where}: field {field!r} must be a string, got {type(record[field]).__name__}'
      )
    try:
      record[field].encode()
    except UnicodeEncodeError as error:
      raise UserError(f'{where}: field {field!r} has half a surrogate pair') from error
    features[feature] = record[field]
  return features
