"""JSON records of files as the public corpora are published: plain, packed, a list, one a line."""

from collections.abc import Callable, Iterator
import gzip
import json
import lzma
import pathlib
from typing import Any
import zipfile
import zlib

from t5x_lite.core.errors import UserError, why

# What the corpora call a split.
SPLITS = {'train': ('train',), 'validation': ('val', 'dev', 'validation'), 'test': ('test',)}
_OPENERS = {'.gz': gzip.open, '.xz': lzma.open}
_ENDINGS = ('.json', '.jsonl')


def read_records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The dialogues of a file as JSON objects.

  A file is an object of dialogues by their id, which becomes their `id`; a list of dialogues; or
  one a line. Lines that begin with # come first in CamRest, and are skipped.

  Raises UserError for a file that cannot be read, or holds something else.
  """
  for name, content in _contents(path):
    try:
      lines = content.decode('utf-8-sig').splitlines(keepends=True)
      first = next((i for i, line in enumerate(lines) if not line.startswith('#')), len(lines))
      values = [*_of_lines(lines[first:], first + 1)] if (
          name.endswith('.jsonl')) else json.loads(''.join(lines[first:]))
    except ValueError as error:
      raise UserError(f'{path}: is not JSON: {error}') from error
    if isinstance(values, dict):
      values = [{'id': key} | value if isinstance(value, dict) else value
                for key, value in values.items()]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
      raise UserError(f'{path}: holds no dialogues, which are JSON objects in a list, in an object '
                      'by their id, or one a line')
    yield from values


def _of_lines(lines: list[str], first: int) -> Iterator[Any]:
  """The values of lines of JSON; ValueError with the number of a line that is none."""
  for number, line in enumerate(lines, first):
    if line.strip():
      try:
        yield json.loads(line)
      except json.JSONDecodeError as error:
        raise ValueError(f'line {number}, column {error.colno}: {error.msg}') from error


def files_of(source: pathlib.Path, split: str | None, wanted: Callable[[str], bool]
             ) -> list[pathlib.Path]:
  """The files of a split, in order of their names: `source`, or those that a folder has.

  Args:
    source: a file, or a folder as a corpus is published.
    split: one of SPLITS, which a folder's files or its folders are named after; None: all files.
    wanted: whether the name of a file without its endings is of dialogues.

  Raises UserError if there are none.
  """
  if source.is_file():
    return [source]
  if not source.is_dir():
    raise UserError(f'{source}: there is no such file or folder')
  found = [path for path in sorted(source.rglob('*')) if path.is_file() and _format(path.name)
           and wanted(path.name.split('.')[0])]
  if split is not None:
    names = SPLITS[split]
    found = [path for path in found if path.name.split('.')[0] in names
             or {*path.relative_to(source).parts[:-1]} & {*names}]
  if not found:
    of_split = '' if split is None else f' of the split {split}'
    raise UserError(f'{source}: has no file of dialogues{of_split}: name the file itself')
  return found


def _format(name: str) -> str | None:
  """'.json' or '.jsonl', under whatever packing."""
  for packing in ('.zip', *_OPENERS):
    name = name.removesuffix(packing)
  return next((ending for ending in _ENDINGS if name.endswith(ending)), None)


def _contents(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """(name without its packing, unpacked bytes): one, or as many as a zip has files of JSON."""
  if _format(path.name) is None:
    raise UserError(f'{path}: must end in .json or .jsonl, or in .zip, .gz or .xz after that')
  try:
    if path.suffix == '.zip':
      with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
          if name.endswith(_ENDINGS) and not name.startswith('__MACOSX'):
            yield name, archive.read(name)
    elif opener := _OPENERS.get(path.suffix):
      with opener(path) as file:
        yield path.stem, file.read()
    else:
      yield path.name, path.read_bytes()
  except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
    raise UserError(f'{path}: cannot be read: {why(error)}') from error
