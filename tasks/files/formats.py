"""Files of any format as plain local ones: fetched, unpacked or rewritten as JSON lines, once.

Plain are .txt, .jsonl, .csv and .tsv, which index.py reads in place. Also read are the
same packed by gzip (.gz) or Zstandard (.zst), Parquet, TFRecord and ArrayRecord files of
tf.train.Example, folders that `datasets.Dataset.save_to_disk` wrote, and all of these under any URL
that fsspec knows (gs:// needs the package gcsfs).
"""

from collections.abc import Iterable, Iterator
import glob
import hashlib
import json
import os
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file

PLAIN = ('.txt', '.jsonl', '.csv', '.tsv')
_PACKED = {'.gz': 'gzip', '.zst': 'zstd'}
_CHUNK = 2 ** 22


def cache_folder() -> pathlib.Path:
  """Where unpacked and rewritten files are kept: T5X_LITE_CACHE, else ~/.cache/t5x_lite."""
  folder = os.environ.get('T5X_LITE_CACHE') or os.path.join(
      os.environ.get('XDG_CACHE_HOME') or '~/.cache', 't5x_lite')
  return pathlib.Path(folder).expanduser() / 'files'


def find_files(pattern: str, where: str) -> list[str]:
  """The files that a path, URL or glob names, in order; absolute paths, or URLs.

  Args:
    pattern: `**` stands for any folders. It may name a folder of Hugging Face datasets.
    where: the setting that gave the pattern, for messages.

  Raises:
    UserError: nothing matches, what matches is another kind of folder, or the URL's file system
      is not installed.
  """
  if '://' in pattern:
    import fsspec
    try:
      system, path = fsspec.core.url_to_fs(pattern)
      found = [system.unstrip_protocol(p) for p in sorted(system.glob(path)) if system.isfile(p)]
    except (ImportError, ValueError, OSError) as error:
      raise UserError(f'{where}: cannot look for {pattern!r}: {error}') from error
  else:
    matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    found = [os.path.abspath(p) for p in matches if os.path.isfile(p)]
    folders = [p for p in matches if os.path.isdir(p)]
    if folders and not found:
      return [p for folder in folders for p in _dataset_files(os.path.abspath(folder), where)]
  if not found:
    raise UserError(f'{where}: no file matches {pattern!r} (from {os.getcwd()})')
  return found


def plain_file(path: str, where: str) -> pathlib.Path:
  """A plain local file with the examples of `path`: itself, or one in `cache_folder()`.

  A file of the cache is made once for each size and time of its original, and appears complete.

  Raises:
    UserError: the format is not known, or the file is damaged or cannot be read.
  """
  name, packing = path, None
  if path.endswith(tuple(_PACKED)):
    name, suffix = os.path.splitext(path)
    packing = _PACKED[suffix]
  kind = os.path.splitext(name)[1]
  if kind not in (*PLAIN, *_ROWS) or packing and kind not in PLAIN:
    raise UserError(f'{where}: {path} must end in {", ".join((*PLAIN, *_ROWS))}, or in .gz or .zst '
                    f'after one of {", ".join(PLAIN)}')
  remote = '://' in path
  if kind in PLAIN and not packing and not remote:
    return pathlib.Path(path)
  try:
    target = _cached(path, kind if kind in PLAIN else '.jsonl')
    if not target.exists():
      with atomic_file(target) as file:
        if kind in PLAIN:
          _unpack(path, packing, file)
        else:
          for row in _ROWS[kind](path):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b'\n')
          if not file.tell():   # what some readers say of a file that is none of theirs
            raise ValueError('there is no record in it')
  except (OSError, EOFError, ValueError) as error:   # pyarrow's own are among these
    raise UserError(f'{where}: cannot read {path}, which is damaged or truncated '
                    f'({str(error).splitlines()[0]}): fetch or write it again') from error
  return target


def _dataset_files(folder: str, where: str) -> list[str]:
  """The Arrow files of a folder that Dataset.save_to_disk wrote."""
  if os.path.exists(os.path.join(folder, 'dataset_dict.json')):
    splits = json.loads(pathlib.Path(folder, 'dataset_dict.json').read_text())['splits']
    raise UserError(f'{where}: {folder} holds the splits {", ".join(splits)}: name one, such as '
                    f'{os.path.join(folder, splits[0])}')
  state = pathlib.Path(folder, 'state.json')
  if not state.exists():
    raise UserError(f'{where}: {folder} is a folder: name its files, such as '
                    f'{os.path.join(folder, "*.jsonl")}')
  files = json.loads(state.read_text())['_data_files']
  return [os.path.join(folder, file['filename']) for file in files]


def _cached(path: str, suffix: str) -> pathlib.Path:
  """Where the plain form of a file is kept, which changes with the file."""
  import fsspec
  system, inner = fsspec.core.url_to_fs(path)
  info = system.info(inner)
  facts = [str(info.get(name)) for name in ('size', 'mtime', 'etag', 'md5Hash', 'created')]
  key = hashlib.sha256(repr((path, facts)).encode()).hexdigest()[:24]
  return cache_folder() / f'{key}{suffix}'


def _unpack(path: str, packing: str | None, out) -> None:
  import fsspec
  import pyarrow
  with fsspec.open(path, 'rb') as packed:
    stream = pyarrow.input_stream(pyarrow.PythonFile(packed, 'r'), compression=packing)
    while chunk := stream.read(_CHUNK):
      out.write(chunk)


def _scalars(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """The text, numbers and truth values of each row; lists and images are left out."""
  for row in rows:
    yield {name: value for name, value in row.items()
           if value is None or isinstance(value, str | int | float)}


def _parquet(path: str) -> Iterator[dict[str, Any]]:
  import fsspec
  from pyarrow import parquet
  with fsspec.open(path, 'rb') as file:
    for batch in parquet.ParquetFile(file).iter_batches(1024):
      yield from _scalars(batch.to_pylist())


def _arrow(path: str) -> Iterator[dict[str, Any]]:
  import pyarrow
  with pyarrow.memory_map(path) as file:
    for batch in pyarrow.ipc.open_stream(file):
      yield from _scalars(batch.to_pylist())


def _tfrecord(path: str) -> Iterator[dict[str, Any]]:
  import tensorflow as tf
  try:
    yield from map(_example, tf.data.TFRecordDataset(path).as_numpy_iterator())
  except tf.errors.OpError as error:
    raise ValueError(error.message) from error


def _array_record(path: str) -> Iterator[dict[str, Any]]:
  from array_record.python import array_record_module
  try:
    reader = array_record_module.ArrayRecordReader(path, options='')
    for _ in range(reader.num_records()):
      yield _example(reader.read())
  except RuntimeError as error:   # the reader's word for everything
    raise ValueError(str(error)) from error


def _example(record: bytes) -> dict[str, Any]:
  """The features of a tf.train.Example that hold one value each."""
  import tensorflow as tf
  try:
    features = tf.train.Example.FromString(record).features.feature
  except Exception as error:   # protobuf has a type of its own, DecodeError
    raise ValueError('a record is not a tf.train.Example') from error
  row = {}
  for name, feature in features.items():
    values = getattr(feature, feature.WhichOneof('kind') or 'bytes_list').value
    if len(values) == 1:
      row[name] = values[0].decode() if isinstance(values[0], bytes) else values[0]
  return row


_ROWS = {'.parquet': _parquet, '.arrow': _arrow, '.tfrecord': _tfrecord,
         '.arrayrecord': _array_record, '.array_record': _array_record}
