"""The texts that `infer` reads are those that a FileTask trains on and train-vocab counts."""

import gzip
import json

import pytest

from t5x_lite.commands.infer import read_texts
from t5x_lite.core.errors import UserError
from tasks import files
from tasks.files import FileTask
from tasks.pipeline import seqio_data

ODD = 'a\u2028b\u0085c\fd\ve\x1cf'


def table(path, texts) -> None:
  import pyarrow
  from pyarrow import parquet
  parquet.write_table(pyarrow.table({'inputs': texts}), path)


def comma_separated(texts) -> bytes:
  import csv
  import io
  out = io.StringIO()
  csv.writer(out).writerows([['id', 'inputs'], *([i, text] for i, text in enumerate(texts))])
  return out.getvalue().encode()


def tfrecord(path, texts) -> None:
  import tensorflow as tf
  with tf.io.TFRecordWriter(str(path)) as writer:
    for text in texts:
      feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
      writer.write(tf.train.Example(features=tf.train.Features(
          feature={'inputs': feature})).SerializeToString())


WRITERS = {
    'a.txt': lambda path, texts: path.write_bytes(('\ufeff' + '\r\n\n'.join(texts)).encode()),
    'a.TXT.gz': lambda path, texts: path.write_bytes(gzip.compress('\n'.join(texts).encode())),
    'a.jsonl': lambda path, texts: path.write_bytes('\r\n'.join(
        json.dumps({'inputs': text}, ensure_ascii=False) for text in texts).encode()),
    'a.json': lambda path, texts: path.write_text(json.dumps([{'inputs': t} for t in texts])),
    'a.csv': lambda path, texts: path.write_bytes(comma_separated(texts)),
    'a.tsv': lambda path, texts: path.write_bytes('\n'.join(['inputs\tx'] + [
        f'{text}\t1' for text in texts]).encode()),
    'a.parquet': table,
    'a.tfrecord-00000-of-00001': tfrecord,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))


@pytest.mark.parametrize('name', WRITERS)
def test_infer_and_training_and_vocabularies_read_the_same(tmp_path, name):
  import seqio
  assert seqio_data   # as a run's gin file imports it
  texts = [ODD, ' two "', 'é 世界']
  WRITERS[name](tmp_path / name, texts)
  pattern, field = str(tmp_path / name), 'text' if 'txt' in name.lower() else 'inputs'
  assert read_texts(pattern, 'inputs') == texts
  assert list(files.read_texts(pattern, field, '--files')) == texts
  task = seqio.TaskRegistry.get(FileTask(train=pattern, targets=field).register())
  read = task.source.get_dataset('train', shuffle=False).as_numpy_iterator()
  assert [example['targets'].decode() for example in read] == texts


def test_a_text_may_be_made_of_fields(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('q,a\none,two\n')
  assert read_texts(str(path), 'q: {q} a:') == ['q: one a:']


@pytest.mark.parametrize('name, content, message', [
    ('a.txt', 'a\né'.encode('latin-1'), r'^InferConfig.input: \S*a.txt:2: not UTF-8 at byte 1'),
    ('a.jsonl', b'{"input": "a"}', r"^InferConfig.input \(InferConfig.field = 'inputs'\): "
     r"\S*a.jsonl:1: no field 'inputs' \(did you mean 'input'\?\)"),
    ('a.jsonl', b'{"inputs": 1e999}', 'a.jsonl:1: 1e999 is larger than'),
    ('a.csv', b'inputs\n"a\nb', 'a.csv:2: a quote that opens here is not closed'),
    ('a.txt', b'\n', "a.txt' matches 1 file.* but they hold no text"),
    ('a.doc', b'x', 'a.doc must end in .txt, '),
])
def test_input_that_is_refused(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    read_texts(str(tmp_path / name), 'inputs')


def test_input_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="InferConfig.input: no file matches '.*gone.txt'"):
    read_texts(str(tmp_path / 'gone.txt'), 'inputs')
  (tmp_path / 'a.jsonl').write_text('{"inputs": "x"}')
  with pytest.raises(UserError, match="'a {b' is not a template: "):
    read_texts(str(tmp_path / 'a.jsonl'), 'a {b')
