"""Where the examples of files begin and end, found while checking each of them.

An example is then read by its number, without reading the file again.
"""

import array
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import time
import zipfile
import zlib

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file
from t5x_lite.data.files import plain, records
from t5x_lite.data.files.find import find_files
from t5x_lite.data.files.plain import PlainFile
from t5x_lite.data.files.templates import BadExample, Template, listed

_KEPT_FROM = 2 ** 23   # bytes of all files from which on an index is kept for the next run
_FORMAT = 2   # of kept indices: another one when they are made in another way
_ARRAYS = ('file_of', 'start', 'size', 'held_out')
_recent = {}   # the last indices of this process by their key: a run asks for one some ten times
_NUM_RECENT = 8


@dataclasses.dataclass(frozen=True)
class FileIndex:
  """The examples of some files, in order.

  Attributes:
    files: the plain files.
    facts: of each of them, what changes when it is written: its bytes and times.
    columns: the names of the columns of each of them, if it is a table.
    templates: of each feature.
    file_of: int32 [n], which file holds each example.
    start: int64 [n], the offset of its first byte.
    size: int64 [n], its number of bytes, line end included.
    held_out: bool [n], whether a share taken by hash would have it.
    mean_size: characters of an example's features, in the mean.
    num_skipped: how many examples were left out.
    skipped: a message for the first of them, or ''.
    digest: a hash of the content of all files, in order.
  """

  files: tuple[PlainFile, ...]
  facts: tuple[tuple[int, ...], ...]
  columns: tuple[tuple[str, ...] | None, ...]
  templates: Mapping[str, Template]
  file_of: np.ndarray
  start: np.ndarray
  size: np.ndarray
  held_out: np.ndarray
  mean_size: float
  num_skipped: int
  skipped: str
  digest: bytes

  @property
  def paths(self) -> tuple[pathlib.Path, ...]:
    """Of the plain files."""
    return tuple(file.path for file in self.files)

  def __len__(self) -> int:
    return len(self.start)

  def __getitem__(self, index: int) -> dict[str, str]:
    """Returns the features of an example. Raises UserError if its file is another one by now."""
    number = self.file_of[index]
    file, columns = self.files[number], self.columns[number]
    try:
      descriptor = os.open(file.path, os.O_RDONLY)
      try:
        changed = _facts(os.fstat(descriptor)) != self.facts[number]
        raw = os.pread(descriptor, int(self.size[index]), int(self.start[index]))
      finally:
        os.close(descriptor)
    except OSError as error:
      raise UserError(f'cannot read {file.path} any more: {error.strerror}') from error
    if changed:
      raise UserError(f'{file.path} has changed since this run began to read it: start the run '
                      'again')
    value = records.parse(raw, file.kind)
    record = value if columns is None else records.named(value, columns)
    return {name: template(record) for name, template in self.templates.items()}

  def where(self, chosen: np.ndarray) -> 'FileIndex':
    """The examples for which the bool array [n] is true."""
    return dataclasses.replace(self, file_of=self.file_of[chosen], start=self.start[chosen],
                               size=self.size[chosen], held_out=self.held_out[chosen])


def index_files(pattern: str, templates: Mapping[str, Template], where: str, *,
                columns: Sequence[str] | None = None, sample_by: str = 'line',
                skip_bad: bool = False, held_out: float = 0.0) -> FileIndex:
  """Checks every example of the files that `pattern` matches, and returns where they are.

  Args:
    pattern: as find.find_files.
    templates: of each feature.
    where: the setting that gave the pattern, for messages.
    columns: the names of the columns of .csv and .tsv files without a line of names.
    sample_by: what is an example of a .txt file, of records.SAMPLE_BY.
    skip_bad: leave out examples that are not as they should be, and count them.
    held_out: share of the examples chosen by a hash of their features, so that equal ones are on
      one side.

  The last indices are held, and those of large files kept in plain.cache_folder(), and found there
  as long as the names, sizes and times of the files are the same.

  Raises:
    UserError: as find_files and plain_file, or an example is not UTF-8, not a JSON object, of
      another number of cells than its table has columns, too long, lacks a field, or there is no
      example.
  """
  names = find_files(pattern, where)
  found = tuple(plain.plain_file(name, where) for name in names)
  try:
    facts = tuple(_facts(os.stat(file.path)) for file in found)
  except OSError as error:
    raise UserError(f'{where}: cannot read {error.filename}: {error.strerror}') from error
  settings = (sorted(templates.items()), columns, sample_by, skip_bad, held_out)
  key = _key(names, found, facts, settings)
  if key in _recent:
    return _recent[key]
  large = sum(size for size, *_ in facts) >= _KEPT_FROM
  kept = plain.cache_folder() / f'{key}.index.npz' if key and large else None
  index = _load(kept, found, facts, templates) if kept else None
  if index is None:
    building = _Building(templates, where, columns, sample_by, skip_bad, held_out)
    for name, file, fact in zip(names, found, facts):
      building.read(name, file)
      if _facts(os.stat(file.path)) != fact:
        raise UserError(
            f'{where}: {name} changed while it was read: start again when it is complete')
    if not building.has_text:
      bad = f', only {building.num_skipped} bad line(s), the first: {building.skipped}' if (
          building.num_skipped) else ''
      raise UserError(
          f'{where}: {pattern!r} matches {len(names)} file(s), but they hold no text{bad}')
    index = FileIndex(files=found, facts=facts, templates=dict(templates), **building.results())
    if kept:
      _save(index, kept)
  if key:
    _recent[key] = index
    if len(_recent) > _NUM_RECENT:
      del _recent[next(iter(_recent))]
  return index


def read_texts(pattern: str, text: str, where: str) -> Iterator[str]:
  """The texts of files, in order, by one reader for all who want texts of files.

  Args:
    pattern: as find.find_files.
    text: a field, or a text with {names} of fields. That of a .txt file is `text`.
    where: the setting that gave the pattern, for messages.

  Raises:
    UserError: as index_files.
  """
  template = Template(text)
  try:
    _ = template.pieces
  except ValueError as error:
    raise UserError(f'{where}: {text!r} is not a template: {error}') from error
  examples = index_files(pattern, {'text': template}, where)
  return (examples[i]['text'] for i in range(len(examples)))


class _Building:
  """An index of the files that were read so far."""

  def __init__(self, templates, where, columns, sample_by, skip_bad, held_out):
    self._templates, self._where, self._columns = templates, where, columns
    self._sample_by, self._skip_bad, self._held_out = sample_by, skip_bad, held_out
    self._arrays = {name: array.array(kind) for name, kind in zip(_ARRAYS, 'iqqb')}
    self._digest, self._headers, self._text_size = hashlib.sha256(), [], 0
    self.has_text, self.num_skipped, self.skipped = False, 0, ''

  def read(self, name: str, file: PlainFile) -> None:
    """Adds the examples of a file, which messages call `name`."""
    self._digest.update(f'\0{file.kind}\0'.encode())   # folders do not matter
    table = file.kind in records.TABLES
    header = tuple(self._columns) if table and self._columns else None
    add = [self._arrays[key].append for key in _ARRAYS]
    file_number, share = len(self._headers), self._held_out
    try:
      with _hashed(file.path, self._digest) as content:
        for line, start, size, value in records.scan(content, file.kind, self._sample_by):
          try:
            if isinstance(value, BadExample):
              raise value
            if table and header is None:
              header = self._header(value, f'{name}:{line}')
              continue
            record = records.named(value, header) if table else value
            features = {key: template(record) for key, template in self._templates.items()}
          except BadExample as error:
            if table and header is None:
              raise UserError(f'{self._where}: {name}:{line}: {error}') from error
            self._skip(f'{self._where}: {name}:{line}: {error}', error)
            continue
          for text in features.values():
            self._text_size += len(text)
            self.has_text = self.has_text or bool(text) and not text.isspace()
          values = file_number, start, size, bool(share) and _share_of(features) < share
          for append, number in zip(add, values):
            append(number)
        content.read()   # for the digest
    except records.Unreadable as error:
      raise UserError(f'{self._where}: {name}:{error}') from error
    except OSError as error:
      raise UserError(f'{self._where}: cannot read {name}: {error.strerror}') from error
    self._headers.append(header)

  def results(self) -> dict[str, object]:
    """The fields of a FileIndex that are of its examples."""
    types = dict(zip(_ARRAYS, (np.int32, np.int64, np.int64, np.bool_)))
    arrays = {name: np.frombuffer(self._arrays[name], kind) for name, kind in types.items()}
    return arrays | dict(
        columns=tuple(self._headers), digest=self._digest.digest(), skipped=self.skipped,
        num_skipped=self.num_skipped, mean_size=self._text_size / max(len(arrays['start']), 1))

  def _header(self, names: list[str], place: str) -> tuple[str, ...]:
    if len(set(names)) < len(names) or '' in names:
      raise UserError(
          f'{self._where}: {place}: the line of column names has a duplicate or empty one: '
          f'{listed(names)}; if it is no such line, set FileTask.columns')
    return tuple(names)

  def _skip(self, message: str, error: BadExample) -> None:
    if not self._skip_bad:
      raise UserError(message) from error
    self.num_skipped += 1
    self.skipped = self.skipped or message


@contextlib.contextmanager
def _hashed(path: pathlib.Path, digest) -> Iterator[io.BufferedReader]:
  """A file that is hashed as it is read."""
  with open(path, 'rb', buffering=0) as file:
    class Hashed(io.RawIOBase):
      def readable(self):
        return True

      def readinto(self, buffer):
        size = file.readinto(buffer)
        digest.update(memoryview(buffer)[:size])
        return size
    yield io.BufferedReader(Hashed(), 2 ** 20)


def _facts(stat: os.stat_result) -> tuple[int, ...]:
  """What changes when a file is written, even if its time of writing is set back."""
  return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _key(names: Sequence[str], found: Sequence[PlainFile], facts: Sequence[tuple[int, ...]],
         settings: object) -> str | None:
  """Identifies these files, unchanged, with these settings; None for such as may change still."""
  # A user's file of this moment can change again without another time.
  young = any(max(times) > (time.time() - 2) * 1e9 and file.path.parent != plain.cache_folder()
              for file, (_, *times) in zip(found, facts))
  kinds = [file.kind for file in found]
  content = repr((_FORMAT, names, kinds, facts, settings))
  return None if young else hashlib.sha256(content.encode()).hexdigest()[:24]


def _save(index: FileIndex, path: pathlib.Path) -> None:
  arrays = {name: getattr(index, name) for name in _ARRAYS}
  rest = json.dumps([index.columns, index.mean_size, index.num_skipped, index.skipped,
                     index.digest.hex()])
  with contextlib.suppress(OSError), atomic_file(path) as file:
    np.savez(file, rest=np.array(rest), **arrays)   # a full disk is no reason to stop


def _load(path: pathlib.Path, files: tuple[PlainFile, ...], facts: tuple[tuple[int, ...], ...],
          templates: Mapping[str, Template]) -> FileIndex | None:
  try:
    with np.load(path) as file:
      columns, mean_size, num_skipped, skipped, digest = json.loads(str(file['rest']))
      return FileIndex(
          files=files, facts=facts, columns=tuple(c and tuple(c) for c in columns),
          templates=dict(templates), mean_size=mean_size, num_skipped=num_skipped, skipped=skipped,
          digest=bytes.fromhex(digest), **{n: file[n] for n in _ARRAYS})
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, zlib.error):
    return None   # there is none yet, or it is damaged


def _share_of(features: Mapping[str, str]) -> float:
  """A number in [0, 1) that the features fix."""
  digest = hashlib.sha256(repr(sorted(features.items())).encode()).digest()
  return int.from_bytes(digest[:7], 'big') / 2 ** 56
