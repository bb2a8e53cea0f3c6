"""Random byte edits of small files of every format: refused in one line, or read as others read.

Beside the reader stand csv, json, gzip, pyarrow, TensorFlow and array_record, called as their own
documentation calls them. T5X_LITE_FUZZ_EDITS sets how many edits there are.
"""

import csv
import gzip
import io
import json
import os
import random
import re
import tempfile
import time

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files import index
from t5x_lite.data.files.templates import Template
import tasks.files

EDITS = int(os.environ.get('T5X_LITE_FUZZ_EDITS', 10_000))
ROWS = [{'id': 1, 'text': 'one, "two"\nthree', 'x': 0.5},
        {'id': 2, 'text': 'é 世界 5" pipe', 'x': 1.0},
        {'id': 3, 'text': ' a\tb ', 'x': -2e9}, {'id': 4, 'text': 'last [{', 'x': 3.25}] * 2


def lines_of(data: bytes) -> list[str]:
  text = data.decode('utf-8-sig', 'surrogateescape')
  return [line for line in re.split('\r?\n', text) if line.strip(' \t\n\r\v\f')]


def json_texts(values) -> list[str]:
  return [str(value['text']) if isinstance(value, dict) and isinstance(
      value.get('text'), str | int | float) else None for value in values]


def read_jsonl(data: bytes) -> list[str]:
  def load(line):
    try:
      return json.loads(line)
    except (ValueError, RecursionError):
      return None
  return json_texts(map(load, lines_of(data)))


def read_csv(data: bytes, **options) -> list[str]:
  text = data.decode('utf-8-sig', 'surrogateescape')
  rows = [row for row in csv.reader(io.StringIO(text, newline=''), **options) if row]
  column = rows[0].index('text')
  return [row[column] if len(row) > column else None for row in rows[1:]]


def read_csv_by_pyarrow(data: bytes) -> list[str] | None:
  """None where pyarrow refuses it, which is stricter in some ways."""
  import pyarrow
  from pyarrow import csv
  text = csv.ConvertOptions(include_columns=['text'], column_types={'text': pyarrow.string()},
                            strings_can_be_null=False)
  try:
    table = csv.read_csv(io.BytesIO(data), convert_options=text,
                         parse_options=csv.ParseOptions(newlines_in_values=True))
    return table.column('text').to_pylist()
  except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError):
    return None


def read_parquet(data: bytes) -> list[str]:
  import pyarrow
  from pyarrow import parquet
  table = parquet.read_table(io.BytesIO(data), columns=['text'])
  column = table.column('text')
  if pyarrow.types.is_string(column.type):   # of which some may not be UTF-8
    return [x.decode('utf-8', 'surrogateescape') for x in column.cast('binary').to_pylist()]
  return [*map(as_text, column.to_pylist())]


def as_text(value) -> str:
  return value.decode('utf-8', 'surrogateescape') if isinstance(value, bytes) else str(value)


def read_arrow(data: bytes) -> list[str]:
  import pyarrow
  table = pyarrow.ipc.open_stream(data).read_all()
  table.validate(full=True)
  return [*map(as_text, table.column('text').to_pylist())]


def example_text(record: bytes) -> str:
  import tensorflow as tf
  values = tf.train.Example.FromString(record).features.feature['text']
  values = getattr(values, values.WhichOneof('kind')).value
  return values[0].decode('utf-8', 'surrogateescape') if isinstance(values[0], bytes) else str(
      values[0])


def read_array_record(data: bytes) -> list[str]:
  from array_record.python import array_record_module
  with tempfile.NamedTemporaryFile() as file:
    file.write(data)
    file.flush()
    reader = array_record_module.ArrayRecordReader(file.name, options='')
    return [example_text(reader.read()) for _ in range(reader.num_records())]


def read_tfrecord(data: bytes) -> list[str]:
  import tensorflow as tf
  path = f'ram://fuzz-{random.random()}'
  with tf.io.gfile.GFile(path, 'wb') as file:
    file.write(data)
  return [*map(example_text, tf.data.TFRecordDataset(path).as_numpy_iterator())]


def as_jsonl() -> bytes:
  return ''.join(json.dumps(row, ensure_ascii=row['id'] > 2) + '\n' for row in ROWS).encode()


def as_csv() -> bytes:
  out = io.StringIO()
  writer = csv.DictWriter(out, ['id', 'text', 'x'])
  writer.writeheader()
  writer.writerows(ROWS)
  return out.getvalue().encode() + b'9,an odd 5" pipe,2\r\n8,"quoted ""again""",3\r\n'


def as_parquet() -> bytes:
  import pyarrow
  from pyarrow import parquet
  out = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), out, row_group_size=3)
  return out.getvalue()


def as_arrow() -> bytes:
  import pyarrow
  table, out = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
  with pyarrow.ipc.new_stream(out, table.schema) as writer:
    writer.write_table(table)
  return out.getvalue()


def tf_examples() -> list[bytes]:
  import tensorflow as tf
  text = lambda row: tf.train.Feature(bytes_list=tf.train.BytesList(value=[row['text'].encode()]))
  return [tf.train.Example(features=tf.train.Features(
      feature={'text': text(row)})).SerializeToString() for row in ROWS]


def as_tfrecord() -> bytes:
  import tensorflow as tf
  with tf.io.TFRecordWriter('ram://fuzz-made') as writer:
    for example in tf_examples():
      writer.write(example)
  with tf.io.gfile.GFile('ram://fuzz-made', 'rb') as file:
    return file.read()


def as_array_record() -> bytes:
  from array_record.python import array_record_module
  with tempfile.TemporaryDirectory() as folder:
    path = f'{folder}/a'
    writer = array_record_module.ArrayRecordWriter(path, 'group_size:2')
    for example in tf_examples():
      writer.write(example)
    writer.close()
    with open(path, 'rb') as file:
      return file.read()


def as_zstd() -> bytes:
  import pyarrow
  return bytes(pyarrow.compress(as_jsonl(), 'zstd', asbytes=True))


def read_zstd(data: bytes) -> list[str]:
  import pyarrow
  return read_jsonl(pyarrow.input_stream(io.BytesIO(data), compression='zstd').read())


BOM = b'\xef\xbb\xbf'
FORMATS = {   # name: (content, independent reader, share of the edits)
    'a.txt': (lambda: BOM + 'one\r\ntwo\u2028é\n\n \f\nfour\u0085\rfive'.encode(), lines_of, 3),
    'a.jsonl': (as_jsonl, read_jsonl, 4),
    'a.json': (lambda: json.dumps(ROWS, indent=1).encode(),
               lambda data: json_texts(json.loads(data.decode('utf-8-sig', 'surrogateescape'))), 4),
    'a.csv': (as_csv, read_csv, 6),
    'a.tsv': (lambda: 'id\ttext\n1\t"a\n2\tb"c é\r\n\t\n'.encode(),
              lambda data: read_csv(data, delimiter='\t', quoting=csv.QUOTE_NONE), 3),
    'a.csv.gz': (lambda: gzip.compress(as_csv()), lambda data: read_csv(gzip.decompress(data)), 3),
    'a.jsonl.gz': (lambda: gzip.compress(as_jsonl()[:90]) + gzip.compress(as_jsonl()[90:]),
                   lambda data: read_jsonl(gzip.decompress(data)), 3),
    'a.jsonl.zst': (as_zstd, read_zstd, 3),
    'a.parquet': (as_parquet, read_parquet, 4),
    'a.arrow': (as_arrow, read_arrow, 4),
    'a.tfrecord': (as_tfrecord, read_tfrecord, 2),
    'a.arrayrecord': (as_array_record, read_array_record, 2),
}
TOTAL = sum(share for *_, share in FORMATS.values())


def edited(data: bytes, rng: random.Random) -> bytes:
  """With one to three bytes changed, put in or left out, or cut off, or a piece of it twice."""
  data = bytearray(data)
  telling = b'""",,\n\n\r\t\\[]{}:019.eE- \x0c\x0b'
  for _ in range(rng.choice([1, 1, 1, 2])):
    at = rng.randrange(len(data) or 1)
    byte = rng.choice(telling) if rng.random() < 0.8 else rng.randrange(256)
    match rng.randrange(10):
      case 0:
        del data[at:]
      case 1:
        data[at:at] = data[at:at + rng.randrange(30)]
      case 2 | 3:
        del data[at:at + rng.choice([1, 1, 1, 5])]
      case 4 | 5 | 6:
        data[at:at] = bytes([byte])
      case 7 if data:
        data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
      case _ if data:
        data[min(at, len(data) - 1)] = byte
  return bytes(data)


def texts(path, **options) -> list[str] | None:
  """What the reader makes of a file; None if it refuses it in one line."""
  began = time.monotonic()
  try:
    found = index.index_files(str(path), {'text': Template('text')}, 'Fuzz', **options)
    return [found[i]['text'] for i in range(len(found))]
  except UserError as error:
    assert '\n' not in str(error) and 'Fuzz' in str(error)
    assert str(error).isprintable() and len(str(error)) < 1_500
    return None
  finally:
    assert time.monotonic() - began < 10


def is_among(some: list[str], those: list[str]) -> bool:
  """Whether `some` are in `those`, in their order."""
  rest = iter(those)
  return all(any(text == other for other in rest) for text in some)


def check(name: str, data: bytes, folder) -> bool:
  """Whether the reader takes a file; raises if it takes it for what it is not."""
  path = folder / name
  path.write_bytes(data)
  got, some = texts(path), texts(path, skip_bad=True)
  if got is None and some is None:
    return False
  want = FORMATS[name][1](data)   # raises if it is not readable, and we took it
  if got is not None:
    assert got == some == want
    if name == 'a.csv':
      assert read_csv_by_pyarrow(data) in (got, None)
  assert is_among(some, want), (some, want)
  return got is not None


@pytest.fixture
def folder(tmp_path, monkeypatch):
  assert tasks.files   # adds TensorFlow's formats
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
  return tmp_path


def fuzz(name: str, folder, edits: int, seed: int) -> int:
  """The number of edited files that are taken."""
  content, rng, taken = FORMATS[name][0](), random.Random(f'{name}{seed}'), 0
  for i in range(edits):
    data = edited(content, rng)
    try:
      taken += check(name, data, folder)
    except Exception as error:
      raise AssertionError(f'{name}, edit {i}: {data!r}') from error
    for left in (folder / 'cache').rglob('*'):
      assert left.suffix != '.partial' and '.whole' not in left.name
      if left.is_file():
        left.unlink()
  return taken


@pytest.mark.parametrize('name', FORMATS)
def test_as_it_is_written_it_is_read(name, folder):
  assert check(name, FORMATS[name][0](), folder)


@pytest.mark.parametrize('name', [name for name in FORMATS if 'record' not in name])
def test_a_few_edits(name, folder):
  fuzz(name, folder, 25, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.sweep
def test_random_byte_edits(name, folder):
  edits = EDITS * FORMATS[name][2] // TOTAL + 1
  taken = fuzz(name, folder, edits, seed=1)
  assert taken < edits
