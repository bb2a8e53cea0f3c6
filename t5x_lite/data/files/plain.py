"""Files of any format as plain local ones: fetched, unpacked or rewritten as JSON lines, once.

Plain are .txt, .jsonl, .csv and .tsv, which records.py reads in place. Also read are the formats of
`rows.READERS`, all of these packed by gzip (.gz), Zstandard (.zst) or xz (.xz), and under any URL
that fsspec knows (gs:// needs the package gcsfs).
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import errno
import gzip
import hashlib
import lzma
import os
import pathlib
import shutil
from typing import BinaryIO
import zlib

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file
from t5x_lite.data.files import rows
from t5x_lite.data.files.find import PACKED, format_of
from t5x_lite.data.files.templates import BadExample, shorten

KINDS = ('.txt', '.jsonl', '.csv', '.tsv')
MOST_UNPACKED = 200   # times its packed size: more is no text; looked at every _WINDOW bytes
MIN_FREE = 2 ** 30    # bytes that are left free on the disk
_MAGIC = {'gzip': b'\x1f\x8b', 'zstd': b'\x28\xb5\x2f\xfd', 'xz': b'\xfd7zXZ\0'}
_WINDOW = 2 ** 28
_CHUNK = 2 ** 22


@dataclasses.dataclass(frozen=True)
class PlainFile:
  """A local file that is read in place, and what it holds: one of KINDS."""
  path: pathlib.Path
  kind: str


def cache_folder() -> pathlib.Path:
  """Where unpacked and rewritten files are kept: T5X_LITE_CACHE, else ~/.cache/t5x_lite."""
  folder = os.environ.get('T5X_LITE_CACHE') or os.path.join(
      os.environ.get('XDG_CACHE_HOME') or '~/.cache', 't5x_lite')
  return pathlib.Path(folder).expanduser() / 'files'


def plain_file(name: str, where: str) -> PlainFile:
  """A plain local file with the examples of `name`: itself, or one in `cache_folder()`.

  A file of the cache is made once for each size and time of its original, and appears complete.

  Args:
    name: a path or URL.
    where: the setting that gave it, for messages.

  Raises:
    UserError: the format is not known, the file is damaged, cannot be read, or unpacks to more
      than MOST_UNPACKED times its size, or the disk is full.
  """
  kind, packing = format_of(name)
  if kind not in (*KINDS, *rows.READERS):
    endings = ', '.join(dict.fromkeys([*KINDS, *rows.READERS]))
    raise UserError(f'{where}: {name} must end in {endings}, or in {" or ".join(PACKED)} after one '
                    'of these')
  with _reading(name, where):
    plain = '://' not in name and not packing
    if plain and kind == '.tfrecord' and _begins(name, b'\x1f\x8b\x08'):
      plain, packing = False, 'gzip'   # TensorFlow gives both the same name
    if plain and kind == '.json' and not _begins(name, b'['):
      kind = '.jsonl'
    if plain and kind != '.tfrecord':
      _check_not_packed(name, name)
    if plain and kind in KINDS:
      return PlainFile(pathlib.Path(name), kind)
    target = _cached(name, kind if kind in KINDS else '.jsonl')
    if not target.exists():
      whole = pathlib.Path(name) if plain else target.with_name(
          f'{target.stem}.{os.getpid()}.whole{kind}')
      try:
        if not plain:
          _write(whole, _unpacked(name, packing, where), where)
          _check_not_packed(whole, name)
        if kind in KINDS or kind == '.json' and not _begins(whole, b'['):
          whole.replace(target)
        else:
          lines = rows.READERS[kind](str(whole))
          _write(target, _joined(lines, os.path.getsize(whole), name, where), where)
      finally:
        if not plain:
          with contextlib.suppress(OSError):   # there is no folder, perhaps
            whole.unlink()
    return PlainFile(target, kind if kind in KINDS else '.jsonl')


@contextlib.contextmanager
def _reading(name: str, where: str) -> Iterator[None]:
  """Errors of a file as one line; those of all libraries that read one are of these types."""
  try:
    yield
  except (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError) as error:
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else getattr(error, 'errno', None)
    if number in (errno.EACCES, errno.ENOENT, errno.EISDIR, errno.EIO):
      raise UserError(f'{where}: cannot read {name}: {os.strerror(number)}') from error
    reason = shorten((str(error).splitlines() or [''])[0], 200) or type(error).__name__
    raise UserError(f'{where}: cannot read {name}, which is damaged or truncated ({reason}): fetch '
                    'or write it again') from error
  except BadExample as error:
    raise UserError(f'{where}: {name}: {error}') from error


def _write(target: pathlib.Path, chunks: Iterable[bytes], where: str) -> None:
  """Writes a file of the cache. Errors of what is read pass through."""
  chunks = iter(chunks)
  first = next(chunks, b'')   # if it cannot be read, no folder is made
  try:
    with atomic_file(target) as file:
      written = file.write(first)
      for chunk in chunks:
        written += file.write(chunk)
        if written >= _WINDOW:
          written = 0
          if shutil.disk_usage(target.parent).free < MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  except OSError as error:
    if error.errno not in _OF_DISKS:
      raise
    raise UserError(f'{where}: cannot write to {target.parent}, where files are unpacked: '
                    f'{error.strerror}; set T5X_LITE_CACHE to a folder with room') from error


def _begins(path: os.PathLike | str, start: bytes) -> bool:
  """Whether a file begins so, after a byte order mark and white space."""
  with open(path, 'rb') as file:
    head = file.read(2 ** 16)
  return head.removeprefix(b'\xef\xbb\xbf').lstrip(b' \t\r\n').startswith(start)


def _check_not_packed(path: os.PathLike | str, name: str) -> None:
  """Raises BadExample for a packed file whose name does not say so; no text begins like one."""
  with open(path, 'rb') as file:
    head = file.read(6)
  for ending, packing in PACKED.items():
    if head.startswith(_MAGIC[packing]):
      cure = 'it is packed twice: unpack it once' if format_of(name)[1] else (
          f'name it {os.path.basename(name)}{ending}')
      raise BadExample(f'its first bytes are those of {packing}, and no text: {cure}')


def _cached(name: str, suffix: str) -> pathlib.Path:
  """Where the plain form of a file is kept, which changes with the file."""
  import fsspec
  system, inner = fsspec.core.url_to_fs(name)
  info = system.info(inner)
  facts = [str(info.get(key)) for key in ('size', 'mtime', 'etag', 'ETag', 'md5Hash', 'created')]
  key = hashlib.sha256(repr((name, facts)).encode()).hexdigest()[:24]
  return cache_folder() / f'{key}{suffix}'


def _unpacked(name: str, packing: str | None, where: str) -> Iterator[bytes]:
  """The content of a file, in pieces.

  Raises UserError for one that unpacks to more than any text would.
  """
  import fsspec
  with fsspec.open(name, 'rb') as packed:
    total, at = 0, 0   # of the pieces since the last look, and where that was
    for chunk in _PIECES[packing](packed):
      yield chunk
      total += len(chunk)
      if total >= _WINDOW:
        if total > MOST_UNPACKED * (packed.tell() - at):
          raise _too_much(name, where)
        total, at = 0, packed.tell()


def _joined(lines: Iterable[bytes], size: int, name: str, where: str) -> Iterator[bytes]:
  """Lines with their ends, of a file of so many bytes. Raises as _unpacked."""
  total = 0
  for line in lines:
    total += len(line) + 1
    if total > max(_WINDOW, MOST_UNPACKED * size):
      raise _too_much(name, where)
    yield line + b'\n'


def _too_much(name: str, where: str) -> UserError:
  return UserError(f'{where}: {name} unpacks to more than {MOST_UNPACKED} times its size, as no '
                   'text does: if it is right all the same, unpack it yourself and name the result')


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
  while piece := stream.read(_CHUNK):
    yield piece


def _gzip(packed: BinaryIO) -> Iterator[bytes]:
  return _pieces(gzip.GzipFile(fileobj=packed))


def _xz(packed: BinaryIO) -> Iterator[bytes]:
  return _pieces(lzma.LZMAFile(packed))


def _zstd(packed: BinaryIO) -> Iterator[bytes]:
  import pyarrow
  try:
    stream = pyarrow.input_stream(pyarrow.PythonFile(packed, 'r'), compression='zstd')
    first = stream.read(_CHUNK)
  except OSError as error:
    if 'too much memory' not in str(error):
      raise
    packed.seek(0)
    yield from _zstd_of_long_windows(packed)
    return
  if first:
    yield first
    yield from _pieces(stream)


def _zstd_of_long_windows(packed: BinaryIO) -> Iterator[bytes]:
  """Of windows above 128 MiB, which pyarrow does not read: up to 2 GiB, held in memory."""
  try:
    import zstandard
  except ImportError as error:
    raise UserError('this .zst file has a window above 128 MiB, as zstd --long makes: pip install '
                    'zstandard') from error
  # The reader stops in silence where a file is cut off. So a frame of our own follows, which comes
  # out at the end only if all before it is whole.
  mark = b't5x_lite: the end'
  stream = zstandard.ZstdDecompressor(max_window_size=2 ** 31).stream_reader(
      _Followed(packed, zstandard.compress(mark)), read_across_frames=True)
  held = b''
  try:
    for piece in _pieces(stream):
      held += piece
      yield held[:-len(mark)]
      held = held[-len(mark):]
  except zstandard.ZstdError as error:
    raise ValueError(str(error)) from error
  if held != mark:
    raise EOFError('it ends within a frame')


class _Followed:
  """A file, and some bytes after its end."""

  def __init__(self, file: BinaryIO, more: bytes):
    self._file, self._more = file, more

  def read(self, size: int) -> bytes:
    data = self._file.read(size)
    if not data:
      data, self._more = self._more, b''
    return data


_PIECES = {None: _pieces, 'gzip': _gzip, 'zstd': _zstd, 'xz': _xz}
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST,
             errno.EFBIG)
