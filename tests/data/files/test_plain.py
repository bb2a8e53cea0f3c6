"""Files by their names, packed and unpacked, within limits; what a glob finds."""

import bz2
import gzip
import json
import os

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files import find, index, plain, rows
from t5x_lite.data.files.templates import Template
import tasks.files

TEXTS = ['one', 'two é']
JSON = ''.join(json.dumps({'text': text}) + '\n' for text in TEXTS).encode()
ARRAY = json.dumps([{'text': text} for text in TEXTS], indent=1).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  assert tasks.files   # adds TensorFlow's formats
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'files'


def read(path, **options) -> list[str]:
  found = index.index_files(str(path), {'x': Template('text')}, 'here', **options)
  return [found[i]['x'] for i in range(len(found))]


def refused(path, **options) -> str:
  with pytest.raises(UserError) as error:
    read(path, **options)
  assert str(error.value).isprintable()
  return str(error.value)


@pytest.mark.parametrize('name, want', [
    ('a.txt', ('.txt', None)), ('A.TXT', ('.txt', None)), ('a.b.JSONL.GZ', ('.jsonl', 'gzip')),
    ('a.ndjson.zst', ('.jsonl', 'zstd')), ('x.json.gz', ('.json', 'gzip')),
    ('c4-train.00000-of-01024.json.gz', ('.json', 'gzip')),
    ('sst2-train.tfrecord-00000-of-00001', ('.tfrecord', None)),
    ('a.tfrecords.gz-00000-of-00001', ('.tfrecord', 'gzip')),
    ('a.tfrecord-00000-of-00001.gz', ('.tfrecord', 'gzip')),
    ('a.array_record-00000-of-00010', ('.arrayrecord', None)),
    ('train-00000-of-00001.parquet', ('.parquet', None)),
    ('https://host/a.parquet?download=true', ('.parquet', None)), ('README', ('', None)),
    ('.txt', ('', None)), ('a.csv/b', ('', None)),
])
def test_the_format_of_a_name(name, want):
  assert find.format_of(f'/some.gz/{name}' if '://' not in name else name) == want


def tfrecord(path, compression: str = '') -> None:
  import tensorflow as tf
  feature = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for text in TEXTS:
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          'text': feature(text.encode()), 'image': feature(b'\xff\xfe')})).SerializeToString())


def table():
  import pyarrow
  return pyarrow.table({
      'text': pyarrow.array([text.encode() for text in TEXTS], pyarrow.binary()),
      'image': pyarrow.array([b'\xff', b'\xfe']), 'none': [None, float('nan')],
      'kind': pyarrow.array(['a', 'b']).dictionary_encode(), 'of': [{'text': 'x'}] * 2})


def parquet(path) -> None:
  from pyarrow import parquet
  parquet.write_table(table(), path)


def feather(path) -> None:
  import pyarrow
  with pyarrow.OSFile(str(path), 'wb') as file:
    with pyarrow.ipc.new_file(file, table().schema) as writer:
      writer.write_table(table())


def packed_parquet(path) -> None:
  parquet(path)
  path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize('name, write', [
    ('A.TXT', lambda path: path.write_text('\n'.join(TEXTS))),
    ('a.ndjson', lambda path: path.write_bytes(JSON)),
    ('a.json', lambda path: path.write_bytes(JSON)),
    ('b.json', lambda path: path.write_bytes(b'\xef\xbb\xbf\n' + ARRAY + b'\n')),
    ('A.JSON.GZ', lambda path: path.write_bytes(gzip.compress(JSON))),
    ('b.json.gz', lambda path: path.write_bytes(gzip.compress(ARRAY))),
    ('a.tfrecord-00000-of-00001', tfrecord),
    ('b.tfrecord-00000-of-00001', lambda path: tfrecord(path, 'GZIP')),
    ('a.tfrecord.gz', lambda path: tfrecord(path, 'GZIP')),
    ('a.parquet', parquet), ('a.Parquet.gz', packed_parquet), ('a.arrow', feather),
])
def test_formats_that_are_read(tmp_path, cache, name, write):
  write(tmp_path / name)
  assert read(tmp_path / name) == read(tmp_path / name) == TEXTS
  assert not cache.exists() or len(list(cache.iterdir())) == 1   # nothing on the way is left


@pytest.mark.parametrize('name, content, message', [
    ('a.json', b'[]', 'hold no text'), ('a.json', b'', 'hold no text'),
    ('a.json', b'[{"text": "a"},]', 'which is damaged or truncated \\(Expecting value'),
    ('a.json', b'[{"text": "a"}', 'the array does not end as JSON does, at character 15'),
    ('a.json', b'[{"text": "a"}] {}', 'the array does not end'),
    ('a.json', b'[' * 100_000, 'its brackets are too many levels deep'),
    ('a.json', b'[{"text": "a"}, {"text": NaN}]', 'a.json:2: not JSON: NaN'),
    ('a.json', b'[{"text": "a"},\n ["b"]]', 'a.json:2: expected a JSON object, got list'),
    ('a.json', b'{\n"text": "a"}', 'a.json:1: not JSON'),
    ('a.json', b'[{"text": "\xff"}]', 'damaged or truncated .*0xff'),
    ('a.bz2', bz2.compress(b'x'), r'must end in .txt, .jsonl, .csv, .tsv, .parquet, .arrow, .json'),
    ('a.txt', gzip.compress(b'x', mtime=0), 'a.txt: its first bytes are those of gzip'),
])
def test_files_that_are_refused(tmp_path, cache, name, content, message):
  import re
  (tmp_path / name).write_bytes(content)
  assert re.search(message, refused(tmp_path / name))


def test_an_array_of_json_has_a_largest_size(tmp_path, monkeypatch):
  monkeypatch.setattr(rows, 'LARGEST_ARRAY', 10)
  (tmp_path / 'a.json').write_bytes(ARRAY)
  assert 'a.json: an array of more than 10 bytes: write JSON lines' in refused(tmp_path / 'a.json')


GOOD = gzip.compress(b'one\n', mtime=0)   # the same on every run


@pytest.mark.parametrize('content, want', [
    (GOOD + gzip.compress(b'two\n', mtime=0), ['one', 'two']), (GOOD + bytes(512), ['one']),
    (GOOD + gzip.compress(b'', mtime=0) + GOOD, ['one', 'one']),
    (GOOD[:-1], 'ended before the end-of-stream marker'), (GOOD[:5], 'ended before'),
    (GOOD + b'garbage', "Not a gzipped file"), (GOOD[:-8] + b'\1\2\3\4' + GOOD[-4:], 'CRC check'),
    (GOOD[:-4] + b'\1\2\3\4', 'Incorrect length'), (b'one\n', 'Not a gzipped file'),
    (GOOD[:12] + b'\xff' + GOOD[13:], 'damaged or truncated'),
])
def test_gzip_is_what_gzip_reads(tmp_path, cache, content, want):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(content)
  if isinstance(want, list):
    assert read(path) == gzip.decompress(content).decode().split() == want
  else:
    assert want in refused(path)
    assert not cache.exists() or not list(cache.iterdir())


def zeros(path) -> None:
  with gzip.open(path, 'wb') as file:
    for _ in range(8):
      file.write(bytes(2 ** 20))


def repeated(path) -> None:
  import pyarrow
  with pyarrow.output_stream(str(path), compression='zstd') as file:
    for _ in range(8):
      file.write(b'{"text": "the same"}\n' * 50_000)


def repeated_cells(path) -> None:
  import pyarrow
  from pyarrow import parquet
  texts = pyarrow.DictionaryArray.from_arrays(
      pyarrow.array([0] * 8_000, pyarrow.int32()), pyarrow.array(['x' * 1_000]))
  parquet.write_table(pyarrow.table({'text': texts}), path)


@pytest.mark.parametrize('name, write', [
    ('a.txt.gz', zeros), ('a.jsonl.zst', repeated), ('a.parquet', repeated_cells)])
def test_what_unpacks_to_more_than_text_does_is_refused(tmp_path, cache, monkeypatch, name, write):
  monkeypatch.setattr(plain, '_WINDOW', 2 ** 22)
  monkeypatch.setattr(plain, '_CHUNK', 2 ** 20)
  write(tmp_path / name)
  message = refused(tmp_path / name, skip_bad=True)
  assert f'{name} unpacks to more than 200 times its size, as no text does' in message
  assert not list(cache.iterdir())


def test_a_long_text_after_a_long_one_may_be_packed_as_text_is(tmp_path, monkeypatch):
  monkeypatch.setattr(plain, '_WINDOW', 2 ** 16)
  monkeypatch.setattr(plain, '_CHUNK', 2 ** 14)
  path, text = tmp_path / 'a.txt.gz', [os.urandom(40).hex() for _ in range(5_000)]
  path.write_bytes(gzip.compress('\n'.join(text).encode()))
  assert read(path) == text


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, cache, monkeypatch):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(gzip.compress(os.urandom(2 ** 16).hex().encode()))
  monkeypatch.setattr(plain, '_WINDOW', 2 ** 16)
  monkeypatch.setattr(plain, '_CHUNK', 2 ** 14)
  monkeypatch.setattr(plain, 'MIN_FREE', 2 ** 80)
  assert f'cannot write to {cache}, where files are unpacked: No space left' in refused(path)
  assert not list(cache.iterdir())
  monkeypatch.setenv('T5X_LITE_CACHE', str(path))   # a file
  assert 'set T5X_LITE_CACHE to a folder with room' in refused(path)


def test_a_record_of_tfrecord_has_a_largest_size(tmp_path):
  import struct
  path = tmp_path / 'a.tfrecord'
  tfrecord(path)
  content = path.read_bytes()
  for size, message in ((2 ** 40, 'record 1 ends after the end of the file'),
                        (2 ** 63 + 8, 'record 1 ends after'), (9_000_000, 'has 9,000,000 bytes')):
    with open(path, 'wb') as file:
      file.write(struct.pack('<Q', size) + content[8:])
      file.truncate(10_000_000)
    assert message in refused(path)


@pytest.mark.parametrize('window', [20, 28, 30])
def test_zstandard_of_any_window(tmp_path, cache, window):
  zstandard = pytest.importorskip('zstandard')
  def pack(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=window)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return frame.compress(data) + frame.flush()
  path, packed = tmp_path / 'a.jsonl.zst', pack(JSON)
  path.write_bytes(packed + pack(b'') + packed)
  assert read(path) == TEXTS * 2
  for content in (packed[:-3], packed + packed[:9], packed + b'garbage', packed[:6]):
    path.write_bytes(content)
    assert 'which is damaged or truncated' in refused(path)
    assert len(list(cache.iterdir())) == 1


def test_links_and_names_with_brackets(tmp_path):
  (tmp_path / 'a.txt').write_text('a\n')
  (tmp_path / 'b.txt').symlink_to('a.txt')
  os.link(tmp_path / 'a.txt', tmp_path / 'c.txt')
  (tmp_path / 'loop').symlink_to('.')
  assert read(tmp_path / '*.txt') == read(tmp_path / '**' / '*.txt') == ['a']   # a file, once
  (tmp_path / 'x[1].txt').write_text('x\n')
  assert read(tmp_path / 'x[1].txt') == ['x']
  (tmp_path / 'd.txt').symlink_to('gone.txt')
  for pattern in ('*.txt', 'd.txt'):
    assert 'd.txt is a link to a file that does not exist' in refused(tmp_path / pattern)
  os.mkfifo(tmp_path / 'pipe.jsonl')
  assert 'pipe.jsonl is a pipe or a device' in refused(tmp_path / '*.jsonl')
  assert 'no file matches' in refused(tmp_path / '*.csv')


@pytest.mark.parametrize('state', ['{', '[]', '{"_data_files": []}', '{"_data_files": [3]}',
                                   '{"_data_files": [{"filename": "gone.arrow"}]}'])
def test_damaged_folders_of_hugging_face_datasets(tmp_path, state):
  (tmp_path / 'state.json').write_text(state)
  assert 'state.json' in refused(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('one\ntwo\n')
  found = index.index_files(str(path), {'x': Template('text')}, 'here')
  assert found[1] == {'x': 'two'}
  path.write_text('One\ntwo\n')
  with pytest.raises(UserError, match='a.txt has changed since this run began to read it'):
    found[1]
  path.unlink()
  with pytest.raises(UserError, match='cannot read .*a.txt any more: No such file'):
    found[0]
