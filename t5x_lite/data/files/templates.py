"""What makes a feature of the fields of an example: a name, or a text with {names} in it."""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import functools
import re
import string

_WHOLE = re.compile(r'([+-]?\d+)\.0+')


class BadExample(Exception):
  """What is wrong with an example, without its location."""


@dataclasses.dataclass(frozen=True)
class Template:
  """What makes a feature of a record: the name of a field, or a text with {names} of fields.

  Attributes:
    text: as given; braces that stand for themselves are doubled.
    labels: the values that the result may have, or none. 1.0 is the label 1.
    number: whether the result is the index of its value among them.
  """

  text: str
  labels: tuple[str, ...] = ()
  number: bool = False

  @functools.cached_property
  def pieces(self) -> list[tuple[str, str | None]]:
    """Text, and the field after it or None. Raises ValueError for a text that is no template."""
    if '{' not in self.text and '}' not in self.text:
      return [('', self.text)]
    parts = list(string.Formatter().parse(self.text))
    if any(spec or conversion for _, _, spec, conversion in parts):
      raise ValueError('only plain {names} of fields can stand in it')
    names = [name for _, name, _, _ in parts if name is not None]
    if not names or '' in names:
      raise ValueError('it names no field in braces')
    return [(text, name) for text, name, _, _ in parts]

  def __call__(self, record: Mapping[str, object]) -> str:
    """The feature of a record. Raises BadExample."""
    value = ''.join([text + (_text(record, name) if name else '') for text, name in self.pieces])
    if not self.labels:
      return value
    index = self._indices.get(value)
    if index is None:
      index = self._indices.get(_whole(value))
    if index is None:
      raise BadExample(f'{shorten(repr(value))} is none of the labels {listed(self.labels)}')
    return str(index) if self.number else self.labels[index]

  @functools.cached_property
  def _indices(self) -> dict[str, int]:
    """Of each label, as it is given and as a whole number."""
    whole = {_whole(label): i for i, label in reversed([*enumerate(self.labels)])}
    return whole | {label: i for i, label in enumerate(self.labels)}


def _whole(value: str) -> str:
  """'1' of '1.0' and '1.00'; other texts as they are."""
  match = _WHOLE.fullmatch(value)
  return match[1] if match else value


def _text(record: Mapping[str, object], name: str) -> str:
  """A field as text."""
  value = record.get(name)
  if value is None and name not in record:
    nearest = difflib.get_close_matches(name, record, n=1)
    hint = f' (did you mean {shorten(repr(nearest[0]))}?)' if nearest else ''
    raise BadExample(f'no field {name!r}{hint}; there are {listed(record) or "none"}')
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    kind = 'null' if value is None else type(value).__name__
    raise BadExample(f'field {name!r} must be a string or a number, got {kind}')
  try:
    text = str(value)
    text.encode()
  except UnicodeEncodeError as error:
    raise BadExample(f'field {name!r} is no Unicode text: it has half a surrogate pair, or is made '
                     'of bytes that are not UTF-8') from error
  return text


def shorten(text: str, longest: int = 100) -> str:
  """A text for a message: on one line, and cut in its middle if it is long."""
  half = longest // 2
  text = text if len(text) <= longest else f'{text[:half]} … {text[-half:]}'
  return text if text.isprintable() else repr(text)[1:-1]


def listed(names: Iterable[str], most: int = 12) -> str:
  """Names for a message."""
  names = list(names)
  shown = [shorten(name) for name in names[:most]]
  more = [f'and {len(names) - most} more'] if len(names) > most else []
  return ', '.join(shown + more)
