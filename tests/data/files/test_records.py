"""Where records begin and end, and what is in them, beside csv and json."""

import csv
import gzip
import io
import json

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files import index, records
from t5x_lite.data.files.templates import Template


@pytest.fixture
def read(tmp_path, monkeypatch):
  """(name, content, field='text', ...) -> the texts of a file of that content."""
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))

  def read(name: str, content: bytes, field: str = 'text', **options) -> list[str]:
    (tmp_path / name).write_bytes(content)
    found = index.index_files(str(tmp_path / name), {'x': Template(field)}, 'here', **options)
    return [found[i]['x'] for i in range(len(found))]

  return read


def second_column(content: bytes) -> list[str]:
  csv.field_size_limit(2 ** 24)
  rows = csv.reader(io.StringIO(content.decode('utf-8-sig'), newline=''))
  return [row[1] for row in rows if row][1:]


@pytest.mark.parametrize('rows', [
    b'1,a 5" pipe\n2,b\n3,c\n4,d\n',        # the quote opens nothing
    b'1,a 5" pipe, \n'.replace(b', ', b'') + b'2,"b, ""c"""\n3,"d\n\ne"\n',
    b'1,""\n\n\r\n2," x "\r\n3,"\r\n"\r\n4,\n5,e',
    b'1,a\r2,"b\rc"\r\r\n3,d\r',            # CR alone, as csv has it
    '1,é\u2028\u0085\f\v世\n2,b\n'.encode(),
    b'1,"' + b'x\n' * 1000 + b'"\n2,y\n',
], ids=range(6))
@pytest.mark.parametrize('bom', [b'', b'\xef\xbb\xbf'])
def test_rows_are_those_of_csv(read, rows, bom):
  content = bom + b'id,text\n' + rows
  assert read('a.csv', content) == second_column(content)


def test_a_quote_left_open_swallows_nothing_in_silence(read):
  content = b'id,text\n1,a\n2,"b\n3,c\n4,d\n'
  assert len(second_column(content)) == 2   # csv has two rows, the second with the rest of the file
  message = (r'^here: \S*a.csv:3: a quote that opens here is not closed in the 3 line\(s\) to the '
             'end of the file: ')
  with pytest.raises(UserError, match=message):
    read('a.csv', content)
  assert read('a.csv', content, skip_bad=True) == ['a']


def test_after_a_bad_row_the_next_begins_where_csv_begins_it(read):
  content = b'id,text\n1,"x"y,"m\n2,n"\n3,good\n'
  assert len(second_column(content)) == 2
  with pytest.raises(UserError, match=r"a.csv:2: not CSV: ',' expected after '\"'"):
    read('a.csv', content)
  assert read('a.csv', content, skip_bad=True) == ['good']


def test_a_row_that_is_too_long_is_left_out_to_its_end(read, monkeypatch):
  monkeypatch.setattr(records, 'LONGEST', 1000)
  long = b'"' + b'2,line\n' * 500 + b'""x"'
  for row in (b'1,' + long, b'1,' + b'x' * 2000, b'"' + b'y' * 990 + b'"",\nz",' + long):
    content = b'id,text\n0,a\n' + row + b'\n3,b\n'
    assert second_column(content)[::2] == ['a', 'b']
    assert read('a.csv', content, skip_bad=True) == ['a', 'b']
    with pytest.raises(UserError, match=r'a.csv:3: [\d,]+ bytes, more than .* \(1,000\)'):
      read('a.csv', content)
  with pytest.raises(UserError, match='a.csv:3: not a row of a table: field larger than'):
    read('a.csv', b'id,text\n0,a\n1,"' + b'""' * 5000 + b'\n3,b\n', skip_bad=True)


def test_a_file_without_line_ends_is_not_read_to_its_end(read, monkeypatch):
  monkeypatch.setattr(records, '_HOPELESS', 2 * records.LONGEST)
  with pytest.raises(UserError, match=r'a.txt:2: a line of more than [\d,]+ bytes: this is no tex'):
    read('a.txt', b'fine\n' + bytes(3 * records.LONGEST), skip_bad=True)


def test_a_table_of_tabs_has_no_quotes(read):
  content = b'id\ttext\n1\t"a\n2\t b"c \r\n\n\t\n3\t\xc2\x85d'
  assert read('a.tsv', content) == ['"a', ' b"c ', '', '\x85d']


@pytest.mark.parametrize('rows, message', [
    (b'1,a\n2,b,c\n', r'a.csv:3: 3 cell\(s\) where there are 2 columns \(id, text\)'),
    (b'1\n', r'a.csv:2: 1 cell'),
    (b'1,a\n2,\xe9\n', 'a.csv:3: not UTF-8 at byte 3 of the line: convert .* iconv -f ISO-8859-1'),
    (b'1,a\0\n', 'a.csv:2: has a NUL byte, as UTF-16'),
])
def test_rows_that_are_refused(read, rows, message):
  with pytest.raises(UserError, match=message):
    read('a.csv', b'id,text\n' + rows)
  assert read('a.csv', b'id,text\n' + rows + b'9,good\n', skip_bad=True)[-1] == 'good'


@pytest.mark.parametrize('header, message', [
    (b'id,text,text', 'duplicate or empty one: id, text, text'),
    (b'id,,text', 'duplicate or empty one: id, , text'),
    (b'id,"te\nxt', 'a.csv:1: a quote that opens here'), (b'id,\xff', 'a.csv:1: not UTF-8'),
    (b'i\td,x', r"a.csv:2: no field 'text'; there are i\\td, x"),
])
def test_lines_of_column_names_that_are_refused(read, header, message):
  with pytest.raises(UserError, match=message) as error:
    read('a.csv', header + b'\n1,a\n')
  assert str(error.value).isprintable()


def test_column_names_may_have_quotes_and_a_byte_order_mark(read):
  content = b'\xef\xbb\xbf"id","a ""b"", c"\n1,x\n'
  assert read('a.csv', content, 'a "b", c') == ['x']


def test_a_line_ends_at_lf_or_crlf_and_at_nothing_else(read):
  odd = 'a\u2028b\u2029c\u0085d\fe\vf\x1cg\rh'
  content = ('\ufeff' + odd + '\r\n\n \t\f\v\r\n i \r\r\n\ufeffj\r').encode()
  assert read('a.txt', content) == [odd, ' i \r', '\ufeffj\r']
  for content in (b'one', b'one\n', b'\r\none\r\n'):
    assert read('b.txt', content) == ['one']
  lines = [json.dumps({'text': odd}, ensure_ascii=False), '', json.dumps({'text': 'x'})]
  assert read('a.jsonl', ('\ufeff' + '\r\n'.join(lines)).encode()) == [odd, 'x']


@pytest.mark.parametrize('content, message', [
    ('a\né\n'.encode('latin-1'), 'a.txt:2: not UTF-8 at byte 1 of the line: convert the file to '
     'UTF-8, as by iconv -f ISO-8859-1'),
    ('a\n'.encode('utf-16'), 'a.txt:1: not UTF-8 at byte 1 .* iconv -f UTF-16'),
    ('a\n'.encode('utf-16-le'), 'a.txt:1: has a NUL byte, as UTF-16'),
    (b'\xed\xa0\x80', 'a.txt:1: not UTF-8'),
])
def test_text_of_another_coding_is_refused(read, content, message):
  with pytest.raises(UserError, match=message):
    read('a.txt', content)


@pytest.mark.parametrize('name', ['a.txt', 'a.csv', 'a.jsonl', 'a.json', 'a.txt.gz'])
def test_a_packed_file_is_named_as_such(read, name):
  packed = gzip.compress(gzip.compress(b'a\n')) if name.endswith('.gz') else gzip.compress(b'a\n')
  cure = 'unpack it once' if name.endswith('.gz') else f'name it {name}.gz'
  with pytest.raises(UserError, match=f'{name}: its first bytes are those of gzip, .*{cure}'):
    read(name, packed)
  with pytest.raises(UserError, match='first bytes are those of zstd, .* name it b.txt.zst'):
    read('b.txt', b'\x28\xb5\x2f\xfd\0')
  assert read('c.txt', b'\x1fa\n') == ['\x1fa']


PROSE = b'\n \nIt was a\r\ndark night.\n\t\n\nThe end\n'


@pytest.mark.parametrize('sample_by, want', [
    ('line', ['It was a', 'dark night.', 'The end']),
    ('paragraph', ['It was a\r\ndark night.', 'The end']),
    ('document', [PROSE.decode()[:-1]]),
])
def test_what_an_example_of_prose_is(read, sample_by, want):
  assert read('a.txt', PROSE, sample_by=sample_by) == want
  assert read('a.txt', b'\xef\xbb\xbf' + PROSE[:-1], sample_by=sample_by) == want


@pytest.mark.parametrize('sample_by', ['paragraph', 'document'])
def test_blocks_that_are_refused(read, sample_by, monkeypatch):
  with pytest.raises(UserError, match='hold no text'):
    read('a.txt', b'\n \n', sample_by=sample_by)
  with pytest.raises(UserError, match='a.txt:1: not UTF-8 at byte 2 of the line 1 further down'):
    read('a.txt', b'a\nb\xff\n', sample_by=sample_by)
  monkeypatch.setattr(records, 'LONGEST', 100)
  with pytest.raises(UserError, match=r'a.txt:1: 120 bytes, more than an example may have \(100\)'):
    read('a.txt', b'0123456\n' * 15, sample_by=sample_by)


@pytest.mark.parametrize('line, message', [
    (b'{"text": ' + b'[' * 100_000, 'more than 500 levels deep'),
    (b'{"text": "a", "x": ' + b'[' * 600 + b']' * 600 + b'}', 'more than 500 levels deep'),
    (b'{"text": "a", "x": ' + b'9' * 5000 + b'}', 'a number has thousands of digits'),
    (b'{"text": NaN}', 'not JSON: NaN'),
    (b'{"text": "a", "x": [-Infinity]}', 'not JSON: -Infinity'),
    (b'{"text": 1e999}', '1e999 is larger than any number that can be held'),
    (b'{"text": "a", "text": "b"}', "the name 'text' is listed twice"),
    (b'{"text": "a", "x": {"y": 1, "y": 1}}', "the name 'y' is listed twice"),
    (b'{"text": "\\ud83d"}', "field 'text' is no Unicode text"),
    (b'{"\\ud83d\\n": 1}', r"no field 'text'; there are \\ud83d\\n"),
    (b'{"text": "a\0"}', 'not JSON, Invalid control character'),
    (b'{"text": "a"} {}', 'not JSON, Extra data at column 15'),
    (b"{'text': 'a'}", 'not JSON, '), (b'3', 'expected a JSON object, got int'),
    (b'{"' + b'k' * 5000 + b'": 1}', r'there are k+ … k+$'),
], ids=range(15))
def test_json_that_is_refused(read, line, message):
  content = line + b'\n{"text": "good"}\n'
  with pytest.raises(UserError, match='here: .*a.jsonl:1: .*' + message) as error:
    read('a.jsonl', content)
  assert str(error.value).isprintable() and len(str(error.value)) < 500
  assert read('a.jsonl', content, skip_bad=True) == ['good']


def test_json_that_is_read(read):
  rows = [{'text': '\x00[[' + '[' * 1000}, {'text': 12}, {'text': -0.5}, {'text': '\U0001f600'},
          {'text': 'a', 'x': [1] * 999}, {'text': 'a', 'x': {'y': {'y': 1}}}]
  content = '\n'.join(map(json.dumps, rows)).encode()
  assert read('a.jsonl', content) == [str(row['text']) for row in rows]


@pytest.mark.parametrize('labels, values, want', [
    (('0', '1'), ['1', '0', '1.0', '0.00', 1.0, 0], [1, 0, 1, 0, 1, 0]),
    (('1.0', '2.0'), ['1', '2.0', 2, 1.0], [0, 1, 1, 0]),
    (('1', '1.0'), ['1.0', '1'], [1, 0]),      # as they are given first
    (('-1', 'x.0'), ['-1.0', 'x.0'], [0, 1]),
])
def test_whole_floats_are_labels(labels, values, want):
  template = Template('label', labels, number=True)
  assert [int(template({'label': value})) for value in values] == want
  assert [Template('label', labels)({'label': value}) for value in values] == [
      labels[i] for i in want]


@pytest.mark.parametrize('value', ['1.5', '10', '', '1.', ' 1.0', 'x' * 5000])
def test_other_values_are_no_labels(value):
  from t5x_lite.data.files.templates import BadExample
  with pytest.raises(BadExample, match='is none of the labels 0, 1') as error:
    Template('label', ('0', '1'))({'label': value})
  assert len(str(error.value)) < 200
