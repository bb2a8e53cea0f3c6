"""TFRecord and ArrayRecord files of tf.train.Example as JSON lines: readers beside those of
t5x_lite/data/files/rows.py.
"""

from collections.abc import Iterator
import os
import struct
from typing import Any

from t5x_lite.data.files.records import LONGEST
from t5x_lite.data.files.rows import as_json


def _tfrecord(path: str) -> Iterator[bytes]:
  _check_lengths(path)
  import tensorflow as tf
  try:
    yield from map(_as_json, tf.data.TFRecordDataset(path).as_numpy_iterator())
  except tf.errors.OpError as error:
    raise ValueError(error.message) from error


def _check_lengths(path: str) -> None:
  """Raises ValueError if a record is longer than examples may be, for which TensorFlow would make
  room before it looks."""
  end, at, number = os.path.getsize(path), 0, 0
  with open(path, 'rb') as file:
    while at < end:
      file.seek(at)
      head, number = file.read(12), number + 1
      size = struct.unpack('<Q', head[:8])[0] if len(head) == 12 else end
      at += 16 + size
      if at > end:
        raise ValueError(f'record {number} ends after the end of the file')
      if size > LONGEST:
        raise ValueError(f'record {number} has {size:,} bytes, more than an example may have '
                         f'({LONGEST:,})')


def _array_record(path: str) -> Iterator[bytes]:
  from array_record.python import array_record_module
  try:
    reader = array_record_module.ArrayRecordReader(path, options='')
    if not reader.num_records():   # which it says of files that are none of its own, too
      raise ValueError('there is no record in it')
    for _ in range(reader.num_records()):
      yield _as_json(reader.read())
  except (RuntimeError, IndexError) as error:   # the reader's words for everything
    raise ValueError(str(error)) from error


def _as_json(record: bytes) -> bytes:
  """The features of a tf.train.Example that hold one value each."""
  import tensorflow as tf
  try:
    features = tf.train.Example.FromString(record).features.feature
  except Exception as error:   # protobuf has a type of its own, DecodeError
    raise ValueError('a record is not a tf.train.Example') from error
  row: dict[str, Any] = {}
  for name, feature in features.items():
    values = getattr(feature, feature.WhichOneof('kind') or 'bytes_list').value
    if len(values) == 1:
      row[name] = values[0]
  return as_json(row)


READERS = {'.tfrecord': _tfrecord, '.arrayrecord': _array_record}
