"""Which files a path, URL or glob names, and which format each has by its name."""

from collections.abc import Iterable
import glob
import json
import os
import pathlib
import re

from t5x_lite.core import paths
from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import shorten

PACKED = {'.gz': 'gzip', '.zst': 'zstd', '.xz': 'xz'}
_SYNONYMS = {'.ndjson': '.jsonl', '.tfrecords': '.tfrecord', '.array_record': '.arrayrecord'}
_SHARD = re.compile(r'-\d+-of-\d+$')


def format_of(name: str) -> tuple[str, str | None]:
  """(ending, packing) of a file's name, such as ('.jsonl', 'gzip') of 'A.JSON.GZ' or 'a.ndjson.gz'.

  What names a shard is left out: 'a.tfrecord-00000-of-00001' ends in '.tfrecord'.
  """
  if '://' in name:
    name = re.split('[?#]', name)[0]
  stem, ending = os.path.splitext(_SHARD.sub('', os.path.basename(name).lower()))
  packing = PACKED.get(ending)
  if packing:
    ending = os.path.splitext(_SHARD.sub('', stem))[1]
  return _SYNONYMS.get(ending, ending), packing


def find_files(pattern: str, where: str) -> list[str]:
  """The files that a path, URL or glob names, in order; absolute paths, or URLs.

  A file that several links name is listed once.

  Args:
    pattern: `**` stands for any folders. It may name a folder of Hugging Face datasets.
    where: the setting that gave the pattern, for messages.

  Raises:
    UserError: nothing matches, what matches is another kind of folder or a broken link, or the
      URL's file system is not installed.
  """
  try:
    path = paths.expand(pattern)
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  if '://' in path:
    found = _find_urls(path, where)
  else:
    # A file may have brackets in its name.
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    broken = [p for p in matches if os.path.islink(p) and not os.path.exists(os.path.realpath(p))]
    if broken:
      raise UserError(f'{where}: {broken[0]} is a link to a file that does not exist: mend or '
                      'remove it')
    found = _each_once(p for p in matches if os.path.isfile(p))
    folders = [p for p in matches if os.path.isdir(p)]
    if folders and not found:
      return [p for folder in folders for p in _dataset_files(os.path.abspath(folder), where)]
    if matches and not found:
      raise UserError(f'{where}: {matches[0]} is a pipe or a device: write it to a file first')
  if not found:
    raise UserError(f'{where}: no file matches {pattern!r} (from {os.getcwd()})')
  return found


def _find_urls(pattern: str, where: str) -> list[str]:
  import fsspec
  try:
    system, path = fsspec.core.url_to_fs(pattern)
    return [system.unstrip_protocol(p) for p in sorted(system.glob(path)) if system.isfile(p)]
  except Exception as error:   # each file system has errors of its own, of HTTP and of accounts
    reason = shorten(str(error), 300) or type(error).__name__
    raise UserError(f'{where}: cannot look for {pattern!r}: {reason}') from error


def _each_once(found: Iterable[str]) -> list[str]:
  """Absolute paths of files, in order, less those that lead to an earlier one's file."""
  seen = {}
  for path in map(os.path.abspath, found):
    stat = os.stat(path)
    seen.setdefault((stat.st_dev, stat.st_ino), path)
  return list(seen.values())


def _dataset_files(folder: str, where: str) -> list[str]:
  """The Arrow files of a folder that Dataset.save_to_disk wrote."""
  def read(name: str, key: str) -> list:
    path = pathlib.Path(folder, name)
    try:
      value = json.loads(path.read_bytes())[key]
      if not isinstance(value, list) or not value:
        raise ValueError(f'{key} is no list')
      return value
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
      raise UserError(f'{where}: {path} is not what datasets.save_to_disk writes '
                      f'({type(error).__name__}): write the folder again') from error
  if os.path.exists(os.path.join(folder, 'dataset_dict.json')):
    splits = [str(split) for split in read('dataset_dict.json', 'splits')]
    raise UserError(f'{where}: {folder} holds the splits {", ".join(splits)}: name one, such as '
                    f'{os.path.join(folder, splits[0])}')
  if not os.path.exists(os.path.join(folder, 'state.json')):
    raise UserError(f'{where}: {folder} is a folder: name its files, such as '
                    f'{os.path.join(folder, "*.jsonl")}')
  files = read('state.json', '_data_files')
  names = [file.get('filename') if isinstance(file, dict) else None for file in files]
  found = [os.path.join(folder, str(name)) for name in names]
  for path in found:
    if not os.path.isfile(path):
      raise UserError(f'{where}: {folder}/state.json names {path}, which does not exist')
  return found
