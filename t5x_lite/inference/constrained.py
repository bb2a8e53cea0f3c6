"""What `InferConfig.constraint` may be: outputs that match, are one of several, or are JSON."""

import dataclasses
import pathlib

from t5x_lite.core.dataclass_checks import FieldError, Path, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.inference.constraints import Constraint, ConstraintBuilder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regex:
  """The whole output matches."""
  pattern: str   # in the syntax of Rust's crate regex, without look-around and back-references

  def __post_init__(self):
    check_types(self)

  def build(self, builder: ConstraintBuilder) -> Constraint:
    """Raises FieldError for a pattern that no output matches."""
    return _built(self, 'pattern', builder.regex, self.pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """The output is one of several texts."""
  texts: tuple[str, ...]   # each as it is

  def __post_init__(self):
    check_types(self)
    if not self.texts:
      raise FieldError(self, 'texts', 'names none')

  def build(self, builder: ConstraintBuilder) -> Constraint:
    """Raises FieldError where no output is one of them."""
    return _built(self, 'texts', builder.choice, self.texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonSchema:
  """The output is JSON that meets a schema."""
  file: Path   # which holds the schema

  def __post_init__(self):
    check_types(self)

  def build(self, builder: ConstraintBuilder) -> Constraint:
    """Raises FieldError for a file that cannot be read, or a schema that nothing meets."""
    try:
      text = pathlib.Path(self.file).read_text(encoding='utf-8')
    except (OSError, ValueError) as error:
      raise FieldError(self, 'file', getattr(error, 'strerror', None) or 'is not UTF-8') from error
    return _built(self, 'file', builder.json_schema, text)


OutputConstraint = Regex | Choice | JsonSchema


def _built(config: OutputConstraint, field: str, build, value) -> Constraint:
  try:
    return build(value)
  except UserError as error:
    raise FieldError(config, field, str(error)) from error
