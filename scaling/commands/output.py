"""What the commands print: strict JSON on stdout, warnings on stderr."""

from collections.abc import Iterable
import pathlib
import sys
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.core.strict_json import format_json

PICTURES = ('.png', '.pdf', '.svg')


def print_json(value: Any) -> None:
  """Prints a value as strict JSON: dataclasses as dicts, numbers that are not finite as null."""
  print(format_json(value, indent=1))


def print_warnings(lines: Iterable[str]) -> None:
  """Prints a line for each warning on stderr, so that JSON stands alone."""
  for line in lines:
    print(f'warning: {line}', file=sys.stderr)


def check_picture(path: pathlib.Path | None) -> None:
  """Raises UserError for an --output that is no picture."""
  if path is not None and path.suffix.lower() not in PICTURES:
    raise UserError(f'--output={path}: name a picture that ends in {", ".join(PICTURES[:-1])} or '
                    f'{PICTURES[-1]}')
