"""Tables in CSV files: cells, their numbers, and the columns that a user names."""

from collections.abc import Sequence
import csv
import dataclasses
import difflib
import functools
import pathlib
import re

import numpy as np

from t5x_lite.core.errors import UserError, why
from t5x_lite.core.paths import local_path


@dataclasses.dataclass(frozen=True)
class Table:
  """A CSV file with a header, a run on each line that is not blank."""
  path: pathlib.Path
  header: list[str]
  rows: list[tuple[int, list[str]]]   # (line number, cells)

  def __len__(self) -> int:
    return len(self.rows)

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """Of the rows, for messages."""
    column = self.find(('name', 'run', 'run_name', 'id'))
    of = self.texts(column) if column else [''] * len(self)
    return tuple(f'{self.path.name}, line {i}' + (f' ({name})' if name else '')
                 for (i, _), name in zip(self.rows, of))

  def find(self, known: Sequence[str]) -> str | None:
    """The first column with one of these names, in lower case with _ for other characters."""
    plain = [re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') for name in self.header]
    return next((self.header[plain.index(name)] for name in known if name in plain), None)

  def check(self, name: str, flag: str) -> str:
    """The name of a column; UserError, which names the flag, unless there is one such column."""
    count = self.header.count(name)
    if count != 1:
      raise UserError(f'{flag}: {self.path} has {count or "no"} columns {name!r}; '
                      + (nearest(name, self.header) if not count else 'keep one'))
    return name

  def texts(self, name: str) -> list[str]:
    """The cells of a column."""
    at = self.header.index(name)
    return [row[at].strip() if at < len(row) else '' for _, row in self.rows]

  def numbers(self, name: str) -> np.ndarray:
    """The numbers of a column; UserError for a cell that is none."""
    return np.array([parse_number(text, where, name)
                     for text, where in zip(self.texts(name), self.names)])


def read_table(path: pathlib.Path | str) -> Table:
  """The table of a file; UserError if it has no rows, or one with more cells than the header."""
  path = local_path(path)
  (_, header), *rows = read_cells(path)
  header = [cell.strip() for cell in header]
  check_lengths(path, header, rows)
  return Table(path, header, rows)


def check_lengths(path: pathlib.Path, header: Sequence[str],
                  rows: Sequence[tuple[int, list[str]]]) -> None:
  """Raises UserError for a row with more cells than the header."""
  for i, row in rows:
    if any(cell.strip() for cell in row[len(header):]):
      raise UserError(f'{path.name}, line {i} has {len(row)} cells, and the header {len(header)}: '
                      'correct the line; a number with a decimal comma is two cells')


def read_cells(path: pathlib.Path) -> list[tuple[int, list[str]]]:
  """(line number, cells) of each line that is not blank, the header first."""
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      lines = file.read().splitlines(keepends=True)
      first = next((line for line in lines if line.strip()), '')
      outside = re.sub('"[^"]*"', '', first)   # of quotes
      counts = {mark: outside.count(mark) for mark in ',;\t'}
      rows = list(csv.reader(lines, delimiter=max(counts, key=counts.get)))
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise UserError(f'{path} cannot be read ({why(e)}): pass a CSV file with a header') from e
  numbered = [(i, row) for i, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
  if len(numbered) < 2:
    raise UserError(f'{path} has no runs: a header and a line for each run are needed')
  return numbered


def nearest(name: str, header: Sequence[str]) -> str:
  """The columns closest to `name`, at most eight."""
  close = sorted(header, key=lambda column: -difflib.SequenceMatcher(
      None, name.lower(), column.lower()).ratio())
  return f'choose from {", ".join(map(repr, close[:8]))}{" …" if len(close) > 8 else ""}'


def parse_number(text: str, location: str, column: str) -> float:
  """The number of a cell; UserError, which names location and column, if it is none."""
  try:
    return float(text.replace('_', ''))
  except ValueError:
    cure = 'correct it or leave the line out'
    if re.fullmatch(r'[-+]?\d+(,\d+)+([.eE][-+\d.eE]*)?', text):
      cure = 'write numbers with a decimal point and without separators of thousands'
    raise UserError(f'{location}: column {column!r} has {text!r}, not a number: {cure}') from None
