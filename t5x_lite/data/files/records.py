"""Where the examples of a plain file begin and end, and what is in each.

A line ends at LF or CRLF, and at nothing else. The rows of a table are those of Python's csv
module, which also takes CR alone for the end of a row.
"""

from collections.abc import Iterator, Sequence
import csv
import io
import json
import math
import re
from typing import BinaryIO

from t5x_lite.data.files.templates import BadExample, listed, shorten

LONGEST = 2 ** 23   # bytes of an example: more is a file without line ends, or a quote left open
_HOPELESS = 2 ** 28   # bytes of a line: more is no text, and is not read to its end
DEEPEST = 500       # levels of brackets in JSON
SAMPLE_BY = ('line', 'paragraph', 'document')
TABLES = ('.csv', '.tsv')
_BOM = b'\xef\xbb\xbf'
_AFTER_CR = re.compile(rb'(?<=\r)(?!\n)(?=.)', re.DOTALL)
_OUTLINE = re.compile(rb'[^",\t\r\n]+')   # what it leaves says where a row ends

# What an example holds: fields by name, the cells of a row, or what is wrong with it.
Value = dict[str, object] | list[str] | BadExample


class Unreadable(Exception):
  """A file in which the examples after a bad one cannot be found."""


def scan(file: BinaryIO, kind: str, sample_by: str = 'line'
         ) -> Iterator[tuple[int, int, int, Value]]:
  """(number of its first line, offset, bytes, value) of each example of a file that is not blank.

  Args:
    file: at its beginning.
    kind: '.txt', '.jsonl', '.csv' or '.tsv'.
    sample_by: what is an example of a .txt file, of SAMPLE_BY.
  """
  begin = 0
  if file.peek(len(_BOM)).startswith(_BOM):
    begin = len(file.read(len(_BOM)))
  if kind in TABLES:
    return _rows(file, kind, begin)
  if kind == '.txt' and sample_by != 'line':
    return _blocks(file, begin, whole=sample_by == 'document')
  return _line_records(file, kind, begin)


def parse(raw: bytes, kind: str) -> Value:
  """The value of an example by its bytes, as `scan` gives it."""
  if kind in TABLES:
    with io.BytesIO(raw) as file:
      return next(_rows(file, kind, 0))[-1]
  return _fields(raw, kind)


def named(cells: Sequence[str], columns: Sequence[str]) -> dict[str, object]:
  """The fields of a row. Raises BadExample."""
  if len(cells) != len(columns):
    raise BadExample(f'{len(cells)} cell(s) where there are {len(columns)} columns '
                     f'({listed(columns)})')
  return dict(zip(columns, cells))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
  """(bytes, line with its end); of a line longer than LONGEST no more than its outline."""
  outline = lambda part: _OUTLINE.sub(b'', part)
  number = 0
  while line := file.readline(LONGEST + 1):
    size, number = len(line), number + 1
    if size > LONGEST:
      parts = [outline(line)]
      while not line.endswith(b'\n') and (line := file.readline(LONGEST)):
        size += len(line)
        parts.append(outline(line))
        if size > _HOPELESS:
          raise Unreadable(f'{number}: a line of more than {_HOPELESS:,} bytes: this is no text')
      line = b''.join(parts)
    yield size, line


def _line_records(file: BinaryIO, kind: str, begin: int) -> Iterator[tuple[int, int, int, Value]]:
  for number, (size, line) in enumerate(_lines(file), 1):
    if size > LONGEST:
      yield number, begin, size, _too_long(size)
    elif not line.isspace():
      yield number, begin, size, _fields(line, kind)
    begin += size


def _blocks(file: BinaryIO, begin: int, whole: bool) -> Iterator[tuple[int, int, int, Value]]:
  """Paragraphs, which blank lines part, or the whole of a file."""
  held, size, first = [], 0, 1

  def block():
    value = _too_long(size) if size > LONGEST else _fields(b''.join(held), '.txt')
    return first, begin, size, value

  for number, (length, line) in enumerate(_lines(file), 1):
    if not whole and line.isspace():
      if held:
        yield block()
      begin, held, size = begin + size + length, [], 0
      continue
    first = first if held else number
    size += length
    if size <= LONGEST or not held:
      held.append(line)
  if held and not b''.join(held).isspace():
    yield block()


def _rows(file: BinaryIO, kind: str, begin: int) -> Iterator[tuple[int, int, int, Value]]:
  """Rows as csv reads them: RFC 4180 for .csv; .tsv has no quotes, so they stand for themselves."""
  csv.field_size_limit(2 * LONGEST)   # the outline of what is too long comes after it
  options = dict(delimiter=',') if kind == '.csv' else dict(
      delimiter='\t', quoting=csv.QUOTE_NONE, quotechar=None)
  end, number, wrong, quoted, texts = begin, 0, None, False, []

  def lines() -> Iterator[str]:
    nonlocal end, number, wrong, quoted
    for size, line in _lines(file):
      parts, sizes = [line], [size]
      if b'\r' in line and line[line.find(b'\r'):] not in (b'\r', b'\r\n'):
        if size > LONGEST:
          raise Unreadable(f'{number + 1}: {size:,} bytes without LF, with CR in them: end lines '
                           'by LF')
        parts = _AFTER_CR.split(line)   # as csv wants its lines
        sizes = [*map(len, parts)]
      for size, part in zip(sizes, parts):
        end, number = end + size, number + 1
        if end - begin > LONGEST:   # the row is refused, but where it ends is still to be found
          part = _OUTLINE.sub(b'', part).rstrip(b'\r\n')
        try:
          text = part.decode()
        except UnicodeDecodeError as error:
          wrong, text = wrong or _not_utf8(part, error), part.decode('latin-1')
        if '\0' in text:
          wrong = wrong or BadExample(_NUL)
        if '"' in text:
          quoted = True
        texts.append(text)
        yield text

  reader = csv.reader(lines(), **options)
  while True:
    first = number + 1
    try:
      cells = next(reader, None)
    except csv.Error as error:
      raise Unreadable(f'{first}: not a row of a table: {error}') from error
    if cells is None:
      return
    size = end - begin
    if size > LONGEST:
      cells = _too_long(size, number - first)
    elif wrong is not None:
      cells = wrong
    elif quoted and kind == '.csv':
      cells = _strict(cells, texts)
    if cells:
      yield first, begin, size, cells
    begin, wrong, quoted = end, None, False
    texts.clear()


def _strict(cells: list[str], lines: list[str]) -> list[str] | BadExample:
  """The cells of a row with quotes, if these are where RFC 4180 has them."""
  try:
    if [*csv.reader(lines, strict=True)] == [cells]:
      return cells
    return BadExample('not CSV: its quotes can be read in two ways')
  except csv.Error as error:
    if 'end of data' in str(error):
      return BadExample(f'a quote that opens here is not closed in the {len(lines)} line(s) to the '
                        'end of the file: close it, or double quotes that stand for themselves')
    return BadExample(f'not CSV: {error}')


_NUL = ('has a NUL byte, as UTF-16 and files that are no text do: convert the file to UTF-8, or '
        'remove it')


def _too_long(size: int, lines: int = 0) -> BadExample:
  cure = f', over {lines + 1} lines: close the quote that opens here' if lines else (
      ': cut the text in pieces')
  return BadExample(f'{size:,} bytes, more than an example may have ({LONGEST:,}){cure}')


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> BadExample:
  before = raw[:error.start]
  further, byte = before.count(b'\n'), len(before) - before.rfind(b'\n')
  place = f'the line {further} further down' if further else 'the line'
  coding = 'UTF-16' if raw.startswith((b'\xff\xfe', b'\xfe\xff')) else 'ISO-8859-1'
  return BadExample(f'not UTF-8 at byte {byte} of {place}: convert the file to UTF-8, as by iconv '
                    f'-f {coding} -t UTF-8')


def _fields(raw: bytes, kind: str) -> dict[str, object] | BadExample:
  """Of a line, with its end, or of a paragraph or file."""
  try:
    text = raw.decode()
  except UnicodeDecodeError as error:
    return _not_utf8(raw, error)
  if kind == '.jsonl':
    return _json_object(text)
  if '\0' in text:
    return BadExample(_NUL)
  if text.endswith('\n'):
    text = text[:-2] if text.endswith('\r\n') else text[:-1]
  return {'text': text}


def _json_object(text: str) -> dict[str, object] | BadExample:
  """What RFC 8259 and a double can hold: no NaN, no name twice in an object."""
  try:
    record = _DECODER.decode(text)
    if text.count('[') + text.count('{') > DEEPEST:
      _check_depth(record)
  except json.JSONDecodeError as error:
    return BadExample(f'not JSON, {error.msg.removesuffix(" at")} at column {error.colno}')
  except RecursionError:
    return BadExample(_TOO_DEEP)
  except ValueError:   # of int()
    return BadExample('not JSON that can be read: a number has thousands of digits')
  except BadExample as error:
    return error
  if not isinstance(record, dict):
    return BadExample(f'expected a JSON object, got {type(record).__name__}')
  return record


_TOO_DEEP = f'its brackets are more than {DEEPEST} levels deep'


def _check_depth(value: object) -> None:
  level = [value]
  for _ in range(DEEPEST):
    level = [x for v in level if isinstance(v, dict | list)
             for x in (v.values() if isinstance(v, dict) else v)]
  if level:
    raise BadExample(_TOO_DEEP)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
  fields = dict(pairs)
  if len(fields) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise BadExample(f'the name {shorten(repr(twice))} is listed twice in an object')
  return fields


def _constant(name: str) -> float:
  raise BadExample(f'not JSON: {name} is no number there')


def _float(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise BadExample(f'{shorten(text)} is larger than any number that can be held')
  return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant,
                            parse_float=_float)
