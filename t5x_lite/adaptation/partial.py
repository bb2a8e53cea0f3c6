"""Partial fine-tuning: all parameters are frozen but those that a regular expression matches."""

from collections.abc import Iterable
import dataclasses
import re
from typing import Any

from t5x_lite.core.dataclass_checks import FieldError, check_types, nearest
from t5x_lite.models import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partial:
  """Trains the parameters whose path matches `trained`, such as 'bias' or 'blocks/(10|11)/'."""
  trained: str   # a regular expression, searched for in the paths of parameters

  def __post_init__(self):
    check_types(self)
    check_expressions(self, 'trained')

  def adapt(self, network: Network) -> Network:
    """The same network, of which the parameters that the expression matches are trained."""
    return dataclasses.replace(
        network, is_trained=lambda path: re.search(self.trained, path) is not None)


def check_expressions(owner: Any, *fields: str) -> None:
  """Raises FieldError for a field of an adaptation that is, or has, no regular expression."""
  for field in fields:
    value = getattr(owner, field) or ()
    for pattern in (value,) if isinstance(value, str) else value:
      try:
        re.compile(pattern)
      except re.error as e:
        raise FieldError(owner, field, f'not a regular expression: {e}') from e


def trained_whole(owner: Any, paths: Iterable[tuple]) -> set[str]:
  """The parameters that `owner.trained` matches, which are trained beside what is added.

  Raises FieldError if it matches none.
  """
  if owner.trained is None:
    return set()
  names = ['/'.join(map(str, path)) for path in paths]
  found = {name for name in names if re.search(owner.trained, name)}
  if not found:
    raise FieldError(owner, 'trained', 'matches no parameter of this model; '
                     + nearest(owner.trained, names))
  return found
