"""Partial fine-tuning: all parameters are frozen but those that a regular expression matches."""

import dataclasses
import re

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.models import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partial:
  """Trains the parameters whose path matches `trained`, such as 'bias' or 'blocks/(10|11)/'."""
  trained: str   # a regular expression, searched for in the paths of parameters

  def __post_init__(self):
    check_types(self)
    try:
      re.compile(self.trained)
    except re.error as e:
      raise FieldError(self, 'trained', f'not a regular expression: {e}') from e

  def adapt(self, network: Network) -> Network:
    """The same network, of which the parameters that the expression matches are trained."""
    return dataclasses.replace(
        network, is_trained=lambda path: re.search(self.trained, path) is not None)
