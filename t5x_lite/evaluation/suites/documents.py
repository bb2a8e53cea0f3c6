"""Rows of evaluation sets: from files of a folder, or from the hub where its library is installed.

A folder has `{name}_{split}` as .jsonl, .json (a list) or .parquet, compressed by gzip or not, or
`{name}/{split}…`, as the repositories of data sets on the hub, or a file in a bundle.
"""

from collections.abc import Mapping, Sequence
import gzip
import json
import pathlib
import re
from typing import Any, NamedTuple

from t5x_lite.core.errors import UserError

Row = Mapping[str, Any]
_ENDING = r'\.(jsonl|json)(\.gz)?$|\.parquet$'


class DataSet(NamedTuple):
  """Where rows of a task are.

  Attributes:
    names: of its files in a folder, the first that is there.
    hub: (repository, configuration) of the Hugging Face hub; None: it is not there.
    bundle: the path, without its ending, of a file that has the evaluated rows alone and comes
      before other files.
  """
  names: tuple[str, ...]
  hub: tuple[str, str | None] | None
  bundle: str = ''

  @property
  def layout(self) -> str:
    """Whose layout the rows have."""
    return self.hub[0] if self.hub else self.bundle


def read_rows(data: DataSet, split: str, folder: pathlib.Path | None) -> list[Row]:
  """The rows of a split, in their order.

  Args:
    data: which rows.
    split: such as 'test'.
    folder: where its files are; None: from the hub, by the package `datasets`, which may download.

  Raises UserError where there are none, and for a file that cannot be read.
  """
  if folder is None:
    return _from_hub(data, split)
  if not folder.is_dir():
    raise UserError(f'--data={folder} is no folder')
  files = find_files(data, split, folder)
  if not files and not data.names:
    raise UserError(f'--data={folder} has no {data.bundle}.jsonl: name the folder eval_bundle')
  if not files:
    raise UserError(f'--data={folder} has no {data.names[0]}_{split}.jsonl (or .json, .parquet, '
                    f'.gz; or {data.names[0]}/{split}…): put it there, or leave --data out where '
                    'there is a network')
  rows = [row for file in files for row in _read_file(file)]
  if not rows:
    raise UserError(f'{files[0]} is empty')
  return rows


def find_files(data: DataSet, split: str, folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a split in a folder, [] without any; several are parts of one."""
  bundled = folder / f'{data.bundle}.jsonl'
  if data.bundle and bundled.is_file():
    return [bundled]
  for name in data.names:
    for pattern in (rf'{name}_{split}\d*', rf'{name}/{split}(-\d+-of-\d+)?',
                    rf'{name}/data/{split}(-\d+-of-\d+)?'):
      parent, _, stem = pattern.rpartition('/')
      if found := sorted(p for p in (folder / parent).glob('*')
                         if re.fullmatch(f'{stem}({_ENDING})', p.name)):
        return found
  return []


def _read_file(path: pathlib.Path) -> Sequence[Row]:
  try:
    if path.suffix == '.parquet':
      import pyarrow.parquet
      return pyarrow.parquet.read_table(path).to_pylist()
    opened = gzip.open if path.suffix == '.gz' else open
    with opened(path, 'rt', encoding='utf-8') as file:
      if '.jsonl' in path.name:
        return [_parse(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
      rows = json.load(file)
  except (OSError, EOFError, UnicodeError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f'{path} cannot be read: {error}') from error
  if not isinstance(rows, list):
    raise UserError(f'{path} holds no list of rows')
  return rows


def _parse(line: str, path: pathlib.Path, number: int) -> Row:
  try:
    row = json.loads(line)
  except ValueError as error:
    raise UserError(f'{path}:{number} is no JSON: {error}') from error
  if not isinstance(row, dict):
    raise UserError(f'{path}:{number} is no JSON object')
  return row


def _from_hub(data: DataSet, split: str) -> list[Row]:
  if data.hub is None:
    raise UserError(f'{data.bundle} is in no data set of the hub: name the folder eval_bundle as '
                    '--data')
  repository, configuration = data.hub
  try:
    import datasets
  except ModuleNotFoundError as error:
    raise UserError(f"{repository} is read by the package datasets: pip install -e '.[eval]', or "
                    'name a folder of files as --data') from error
  try:
    return [*datasets.load_dataset(repository, configuration, split=split)]
  except Exception as error:   # of its many kinds, most for want of a network
    line = str(error).strip().splitlines()
    raise UserError(f'{repository} could not be read from the hub ({line[0] if line else error!r})'
                    ': name a folder of files as --data') from error
