"""Paths as users write them, on flags and in gin files."""

import os
import pathlib
import re

from t5x_lite.core.errors import UserError


def expand(text: str) -> str:
  """A path or URL with ~ and the environment's $NAMEs replaced, as a shell does it.

  What exists under the name as written is that. Raises UserError for a name that the environment
  or the system's users lack, and for what no path can be.
  """
  if not text or '\0' in text:
    raise UserError(f'{text!r} is not a path')
  if os.path.lexists(text):
    return text
  expanded = os.path.expanduser(text)
  printable = lambda text: text if text.isprintable() else repr(text)   # for one line
  shown = printable(text)
  if expanded.startswith('~') and expanded.split('/')[0] != '~':
    raise UserError(f'{shown}: there is no user {printable(expanded.split("/")[0])}; write '
                    f'./{shown} for a file of this name')

  def value(match: re.Match) -> str:
    name = match[1] or match[2]
    if name not in os.environ:
      raise UserError(f'{shown}: the environment has no {name}: set it, or write the path out')
    return os.environ[name]

  return re.sub(r'\$(?:(\w+)|\{(\w+)\})', value, expanded)


def local_path(text: str | os.PathLike) -> pathlib.Path:
  """The file or folder that a user names; UserError for a URL, and as `expand`."""
  expanded = expand(os.fspath(text))
  if re.match(r'[A-Za-z][\w+.-]*://', expanded):
    raise UserError(f'{text}: is a URL, and this must be a path of this machine')
  return pathlib.Path(expanded)
