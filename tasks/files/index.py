"""Where the examples of plain files begin and end, found while checking each of them.

Python and NumPy only. An example is then read by its index, without reading the file again.
"""

import array
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import pathlib
import string
import time
import zipfile

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file
from tasks.files import formats

LONGEST = 2 ** 23   # bytes of an example: more is a file without line ends, or a quote left open
_KEPT_FROM = 2 ** 23   # bytes of all files from which on an index is kept for the next run
_BOM = b'\xef\xbb\xbf'


class BadExample(Exception):
  """What is wrong with an example, without its location."""


@dataclasses.dataclass(frozen=True)
class Template:
  """What makes a feature of a record: the name of a field, or a text with {names} of fields.

  Attributes:
    text: as given; braces that stand for themselves are doubled.
    labels: the values that the result may have, or none.
    number: whether the result is the index of its value among them.
  """

  text: str
  labels: tuple[str, ...] = ()
  number: bool = False

  @functools.cached_property
  def pieces(self) -> list[tuple[str, str | None]]:
    """Text, and the field after it or None. Raises ValueError for a text that is no template."""
    if '{' not in self.text and '}' not in self.text:
      return [('', self.text)]
    parts = list(string.Formatter().parse(self.text))
    if any(spec or conversion for _, _, spec, conversion in parts):
      raise ValueError('only plain {names} of fields can stand in it')
    names = [name for _, name, _, _ in parts if name is not None]
    if not names or '' in names:
      raise ValueError('it names no field in braces')
    return [(text, name) for text, name, _, _ in parts]

  def __call__(self, record: Mapping[str, object]) -> str:
    """The feature of a record. Raises BadExample."""
    value = ''.join(text + (_text(record, name) if name else '') for text, name in self.pieces)
    if self.labels and value not in self.labels:
      raise BadExample(f'{value!r} is none of the labels {", ".join(self.labels)}')
    return str(self.labels.index(value)) if self.number else value


def _text(record: Mapping[str, object], name: str) -> str:
  """A field as text; whole numbers are written without a point."""
  if name not in record:
    nearest = difflib.get_close_matches(name, record, n=1)
    hint = f' (did you mean {nearest[0]!r}?)' if nearest else ''
    raise BadExample(f'no field {name!r}{hint}; there are {", ".join(record) or "none"}')
  value = record[name]
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    kind = 'null' if value is None else type(value).__name__
    raise BadExample(f'field {name!r} must be a string or a number, got {kind}')
  try:
    str(value).encode()
  except UnicodeEncodeError as error:
    raise BadExample(f'field {name!r} has half a surrogate pair') from error
  return str(value)


@dataclasses.dataclass(frozen=True)
class FileIndex:
  """The examples of some files, in order.

  Attributes:
    paths: the plain files.
    columns: the names of the columns of each of them, if it is a table.
    templates: of each feature.
    file_of: int32 [n], which file holds each example.
    start: int64 [n], the offset of its first byte.
    size: int64 [n], its number of bytes, line end left out.
    held_out: bool [n], whether a share taken by hash would have it.
    skipped: a message for each example that was left out.
    digest: a hash of the names and of the content of all files.
  """

  paths: tuple[pathlib.Path, ...]
  columns: tuple[tuple[str, ...] | None, ...]
  templates: Mapping[str, Template]
  file_of: np.ndarray
  start: np.ndarray
  size: np.ndarray
  held_out: np.ndarray
  skipped: tuple[str, ...]
  digest: bytes

  def __len__(self) -> int:
    return len(self.start)

  def __getitem__(self, index: int) -> dict[str, str]:
    """Returns the features of an example."""
    number = self.file_of[index]
    with open(self.paths[number], 'rb') as file:
      file.seek(self.start[index])
      line = file.read(self.size[index])
    record = parse(line, self.paths[number].suffix, self.columns[number])
    return {name: template(record) for name, template in self.templates.items()}

  def where(self, chosen: np.ndarray) -> 'FileIndex':
    """The examples for which the bool array [n] is true."""
    return dataclasses.replace(self, file_of=self.file_of[chosen], start=self.start[chosen],
                               size=self.size[chosen], held_out=self.held_out[chosen])


_FORMAT = 1   # of kept indices: another one when they are made in another way
_ARRAYS = ('file_of', 'start', 'size', 'held_out')


def index_files(pattern: str, templates: Mapping[str, Template], where: str, *,
                columns: Sequence[str] | None = None, skip_bad: bool = False,
                held_out: float = 0.0) -> FileIndex:
  """Checks every example of the files that `pattern` matches, and returns where they are.

  Args:
    pattern: as formats.find_files.
    templates: of each feature.
    where: the setting that gave the pattern, for messages.
    columns: the names of the columns of .csv and .tsv files without a line of names.
    skip_bad: leave out examples that are not as they should be, and list them in `skipped`.
    held_out: share of the examples chosen by a hash of their features, so that equal ones are on
      one side.

  The index of large files is kept in formats.cache_folder(), and found there as long as their
  names, sizes and times are the same.

  Raises:
    UserError: as formats.find_files, or an example is not UTF-8, not a JSON object, of another
      number of cells than its table has columns, too long, lacks a field, or there is no example.
  """
  names = formats.find_files(pattern, where)
  paths = tuple(formats.plain_file(name, where) for name in names)
  kept = _kept_path(names, paths, (sorted(templates.items()), columns, skip_bad, held_out))
  if kept and (index := _load(kept, paths, templates)):
    return index
  file_of, start, size, chosen = (array.array(kind) for kind in 'iqqb')
  digest, skipped, headers, has_text = hashlib.sha256(), [], [], False
  for number, (name, path) in enumerate(zip(names, paths)):
    digest.update(f'\0{path.suffix}\0'.encode())   # folders do not matter
    table = path.suffix in ('.csv', '.tsv')
    header = tuple(columns) if table and columns else None
    try:
      with open(path, 'rb') as file:
        for line_number, offset, line in _records(file, path.suffix, digest):
          if table and header is None:
            header = _header(line, path.suffix, f'{where}: {name}:{line_number}')
            continue
          try:
            record = parse(line, path.suffix, header)
            features = {feature: template(record) for feature, template in templates.items()}
          except BadExample as error:
            message = f'{where}: {name}:{line_number}: {error}'
            if not skip_bad:
              raise UserError(message) from error
            skipped.append(message)
            continue
          has_text = has_text or any(map(str.strip, features.values()))
          file_of.append(number)
          start.append(offset)
          size.append(len(line))
          chosen.append(_share_of(features) < held_out)
    except OSError as error:
      raise UserError(f'{where}: cannot read {name}: {error.strerror}') from error
    headers.append(header)
  if not has_text:
    bad = f', only {len(skipped)} bad line(s), the first: {skipped[0]}' if skipped else ''
    raise UserError(
        f'{where}: {pattern!r} matches {len(paths)} file(s), but they hold no text{bad}')
  as_array = lambda values, dtype: np.frombuffer(values, dtype)
  index = FileIndex(
      paths, tuple(headers), dict(templates), as_array(file_of, np.int32),
      as_array(start, np.int64), as_array(size, np.int64), as_array(chosen, np.bool_),
      tuple(skipped), digest.digest())
  if kept:
    _save(index, kept)
  return index


def _kept_path(names: Sequence[str], paths: Sequence[pathlib.Path], settings: object
               ) -> pathlib.Path | None:
  """Where the index of these files is kept; None for small files, and for such as may change still.
  """
  folder = formats.cache_folder()
  stats = [path.stat() for path in paths]
  # A user's file of this moment can change again without another time.
  young = any(stat.st_mtime > time.time() - 2 and path.parent != folder
              for path, stat in zip(paths, stats))
  if young or sum(stat.st_size for stat in stats) < _KEPT_FROM:
    return None
  facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats)]
  key = hashlib.sha256(repr((_FORMAT, facts, settings)).encode()).hexdigest()[:24]
  return folder / f'{key}.index.npz'


def _save(index: FileIndex, path: pathlib.Path) -> None:
  arrays = {name: getattr(index, name) for name in _ARRAYS}
  rest = json.dumps([index.columns, index.skipped, index.digest.hex()])
  with contextlib.suppress(OSError), atomic_file(path) as file:
    np.savez(file, rest=np.array(rest), **arrays)   # a full disk is no reason to stop


def _load(path: pathlib.Path, paths: tuple[pathlib.Path, ...], templates: Mapping[str, Template]
          ) -> FileIndex | None:
  try:
    with np.load(path) as file:
      columns, skipped, digest = json.loads(str(file['rest']))
      return FileIndex(
          paths=paths, columns=tuple(c and tuple(c) for c in columns), templates=dict(templates),
          skipped=tuple(skipped), digest=bytes.fromhex(digest), **{n: file[n] for n in _ARRAYS})
  except (OSError, ValueError, KeyError, zipfile.BadZipFile):   # none yet, or damaged
    return None


def parse(line: bytes, suffix: str, columns: Sequence[str] | None) -> dict[str, object]:
  """The fields of an example; those of a line of a .txt file are its `text`.

  Raises:
    BadExample: the line is not what files with this suffix hold.
  """
  if len(line) > LONGEST:
    raise BadExample(f'{len(line):,} bytes, more than an example may have ({LONGEST:,}): cut the '
                     'text in pieces, or close the quote that opens here')
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError as error:
    raise BadExample(f'not UTF-8 at byte {error.start + 1} of the line: convert the file to '
                     'UTF-8') from error
  if suffix == '.txt':
    return {'text': text}
  if suffix == '.jsonl':
    try:
      record = json.loads(text)
    except json.JSONDecodeError as error:
      raise BadExample(f'not JSON, {error.msg} at column {error.colno}') from error
    if not isinstance(record, dict):
      raise BadExample(f'expected a JSON object, got {type(record).__name__}')
    return record
  cells = _cells(text, suffix)
  if len(cells) != len(columns):
    raise BadExample(f'{len(cells)} cell(s) where there are {len(columns)} columns '
                     f'({", ".join(columns)})')
  return dict(zip(columns, cells))


def _cells(text: str, suffix: str) -> list[str]:
  """Of a row: RFC 4180 for .csv; .tsv has no quotes, so they stand for themselves."""
  if suffix == '.tsv':
    return text.split('\t')
  csv.field_size_limit(LONGEST)
  try:
    return next(csv.reader(io.StringIO(text, newline=''), strict=True))
  except csv.Error as error:
    raise BadExample(f'not CSV: {error}') from error


def _header(line: bytes, suffix: str, where: str) -> tuple[str, ...]:
  try:
    names = tuple(_cells(str(parse(line, '.txt', None)['text']), suffix))
  except BadExample as error:
    raise UserError(f'{where}: {error}') from error
  if len(set(names)) < len(names) or '' in names:
    raise UserError(f'{where}: the line of column names has a duplicate or empty one: '
                    f'{", ".join(names)}; if it is no such line, set FileTask.columns')
  return names


def _records(file, suffix: str, digest) -> Iterator[tuple[int, int, bytes]]:
  """(number of the first line, offset, bytes without line end) of each example that is not blank.

  A line end inside the quotes of a .csv file is part of the example.
  """
  offset, begun, held, size, quotes = 0, 1, [], 0, 0
  for line_number, line in enumerate(file, 1):
    digest.update(line)
    if not held:
      begun = line_number
      if line_number == 1 and line.startswith(_BOM):
        offset, line = len(_BOM), line[len(_BOM):]
    held.append(line)
    size, quotes = size + len(line), quotes + line.count(b'"')
    if suffix == '.csv' and quotes % 2 and size <= LONGEST:
      continue
    whole, held, size, quotes = b''.join(held), [], 0, 0
    if whole.strip():
      yield begun, offset, whole.rstrip(b'\r\n')
    offset += len(whole)
  if held:
    yield begun, offset, b''.join(held).rstrip(b'\r\n')


def _share_of(features: Mapping[str, str]) -> float:
  """A number in [0, 1) that the features fix."""
  digest = hashlib.sha256(repr(sorted(features.items())).encode()).digest()
  return int.from_bytes(digest[:7], 'big') / 2 ** 56
