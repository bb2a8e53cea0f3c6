"""Tables of other formats as JSON lines: Parquet, Arrow, arrays of JSON.

`READERS` maps an ending to (path) -> its rows as JSON, which are bytes without line ends; those of
tf.train.Example are added by tasks/files. For a damaged file they raise ValueError or OSError, for
another that cannot be read BadExample.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
import json
import math
import os
import re

from t5x_lite.data.files.templates import BadExample

LARGEST_ARRAY = 2 ** 30   # bytes of a .json file that is one array, which is read whole
_ROWS = 1024   # that are decoded at a time


def as_json(row: Mapping[str, object]) -> bytes:
  """A row without what is no text, number or truth value; bytes are text."""
  fields = {}
  for name, value in row.items():
    if isinstance(value, bytes):   # what is not UTF-8 becomes half a surrogate, which no text has
      value = value.decode('utf-8', 'surrogateescape')
    elif isinstance(value, float) and not math.isfinite(value):   # what pandas has for none
      value = None
    if value is None or isinstance(value, str | int | float):
      fields[name] = value
  try:
    return json.dumps(fields, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    return json.dumps(fields).encode()


def _of_pyarrow(reader: Callable[[str], Iterator[bytes]]) -> Callable[[str], Iterator[bytes]]:
  """A reader whose errors are ValueErrors, which not all of pyarrow's are."""
  @functools.wraps(reader)
  def read(path: str) -> Iterator[bytes]:
    import pyarrow
    try:
      yield from reader(path)
    except (pyarrow.ArrowException, OverflowError, TypeError) as error:
      raise ValueError(str(error)) from error
  return read


@_of_pyarrow
def _parquet(path: str) -> Iterator[bytes]:
  from pyarrow import parquet
  with open(path, 'rb') as file:
    reader = parquet.ParquetFile(file)
    names = _read_names(reader.schema_arrow)
    for batch in reader.iter_batches(_ROWS, columns=names):
      yield from _batch_rows(batch)


@_of_pyarrow
def _arrow(path: str) -> Iterator[bytes]:
  import pyarrow
  with pyarrow.memory_map(path) as file:
    if file.read(6) == b'ARROW1':
      reader = pyarrow.ipc.open_file(file)
      batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
      file.seek(0)
      reader = batches = pyarrow.ipc.open_stream(file)
    names = _read_names(reader.schema)
    for batch in batches:
      batch = batch.select(names)
      batch.validate(full=True)   # offsets of a damaged file may lead anywhere
      for start in range(0, len(batch), _ROWS):
        yield from _batch_rows(batch.slice(start, _ROWS))


def _json_array(path: str) -> Iterator[bytes]:
  """The elements of an array as they are written; whether they are good is seen later."""
  if os.path.getsize(path) > LARGEST_ARRAY:
    raise BadExample(f"an array of more than {LARGEST_ARRAY:,} bytes: write JSON lines, as by jq "
                     "-c '.[]' does")
  with open(path, encoding='utf-8-sig', newline='') as file:
    text = file.read()
  space = re.compile(r'[ \t\n\r]*')
  skip = lambda at: space.match(text, at).end()
  decoder = json.JSONDecoder(parse_int=str, parse_float=str)
  at = skip(skip(0) + 1)
  more = not text.startswith(']', at)
  while more:
    begin = at
    try:
      _, end = decoder.raw_decode(text, begin)
    except RecursionError as error:
      raise ValueError('its brackets are too many levels deep') from error
    yield re.sub(r'[\r\n]', ' ', text[begin:end]).encode()
    at = skip(end)
    more = text.startswith(',', at)
    at = skip(at + 1) if more else at
  if text[at:].rstrip(' \t\n\r') != ']':
    raise ValueError(f'the array does not end as JSON does, at character {at + 1}')


def _read_names(schema) -> list[str]:
  """Of the columns of text, numbers and truth values."""
  twice = {name for name in schema.names if schema.names.count(name) > 1}
  if twice:
    raise BadExample(f'several columns have the name {min(twice)!r}: rename them')
  names = [field.name for field in schema if _is_scalar(field.type)]
  if not names:
    raise BadExample('no column has text or numbers')
  return names


def _is_scalar(kind) -> bool:
  from pyarrow import types
  if types.is_dictionary(kind):
    kind = kind.value_type
  return any(check(kind) for check in (
      types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
      types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary, types.is_integer,
      types.is_floating, types.is_boolean, types.is_null))


def _batch_rows(batch) -> Iterator[bytes]:
  columns = {field.name: _values(column) for field, column in zip(batch.schema, batch.columns)
             if _is_scalar(field.type)}
  for values in zip(*columns.values()):
    yield as_json(dict(zip(columns, values)))


def _values(column) -> list[object]:
  try:
    return column.to_pylist()
  except UnicodeDecodeError:   # of one value, and others are good
    from pyarrow import types
    if types.is_dictionary(column.type):
      column = column.dictionary_decode()
    return [x.as_buffer().to_pybytes() if x.is_valid else None for x in column]


READERS = {'.parquet': _parquet, '.arrow': _arrow, '.json': _json_array}
