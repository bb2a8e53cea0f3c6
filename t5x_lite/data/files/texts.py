"""The texts of files one after the other, in one pass that keeps no list of them."""

from collections.abc import Iterator
from typing import NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.data.files import plain, records
from t5x_lite.data.files.find import find_files
from t5x_lite.data.files.templates import BadExample, Template


class Text(NamedTuple):
  """A text, where it is ('file:line'), and whether it goes on where the one before it ended."""
  place: str
  text: str
  continues: bool = False


class TextStream:
  """Iterates over the Texts of files: of each line of a .txt file, which go on, or each record.

  Attributes:
    num_skipped: examples that were left out so far.
    skipped: what is wrong with the first of them, or ''.
  """

  def __init__(self, pattern: str, field: str, where: str, skip_bad: bool = False):
    """Finds the files; raises UserError as find.find_files.

    Args:
      pattern: as find.find_files.
      field: the name of a field, or a text with {names} of fields; that of .txt files is `text`.
      where: the flag that gave the pattern, for messages.
      skip_bad: leave out examples that are not as they should be, and count them.
    """
    self._template, self._where, self._skip_bad = Template(field), where, skip_bad
    try:
      _ = self._template.pieces
    except ValueError as error:
      raise UserError(f'{where}: {field!r} is not a template: {error}') from error
    self.files = find_files(pattern, where)
    self.num_skipped, self.skipped = 0, ''

  def __iter__(self) -> Iterator[Text]:
    """The texts; UserError naming file and line as plain.plain_file, and for a bad example."""
    for name in self.files:
      file = plain.plain_file(name, self._where)
      lines = file.kind == '.txt'
      template = Template('text') if lines else self._template
      goes_on = False   # into another file no text goes on
      for place, value in _read_file(name, file, self._where):
        try:
          if isinstance(value, BadExample):
            raise value
          text = template(value)
        except BadExample as error:
          self._skip(f'{self._where}: {place}: {error}', error)
          goes_on = False
          continue
        yield Text(place, text, continues=goes_on)
        goes_on = lines

  def _skip(self, message: str, error: BadExample) -> None:
    if not self._skip_bad:
      raise UserError(message) from error
    self.num_skipped += 1
    self.skipped = self.skipped or message


def read_records(pattern: str, where: str) -> Iterator[tuple[str, dict[str, object]]]:
  """('file:line', fields) of each record of files; raises UserError as a TextStream."""
  for name in find_files(pattern, where):
    for place, value in _read_file(name, plain.plain_file(name, where), where):
      if isinstance(value, BadExample):
        raise UserError(f'{where}: {place}: {value}') from value
      yield place, value


def _read_file(name: str, file: plain.PlainFile, where: str
               ) -> Iterator[tuple[str, dict[str, object] | BadExample]]:
  """('file:line', fields or what is wrong with them) of each example of a file, in one pass.

  `name` is what the user calls it, `where` the flag that named it. Raises UserError.
  """
  header = None
  try:
    with open(file.path, 'rb') as content:
      for line, _, _, value in records.scan(content, file.kind):
        if file.kind in records.TABLES and not isinstance(value, BadExample):
          if header is None:
            header = value
            continue
          try:
            value = records.named(value, header)
          except BadExample as error:
            value = error
        yield f'{name}:{line}', value
  except records.Unreadable as error:
    raise UserError(f'{where}: {name}:{error}') from error
  except OSError as error:
    raise UserError(f'{where}: cannot read {name}: {error.strerror}') from error
