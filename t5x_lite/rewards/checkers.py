"""Rewards that check a completion: 1 where it is right, 0 where it is not."""

import ast
import dataclasses
from decimal import Decimal, InvalidOperation
import re
from typing import ClassVar

from t5x_lite.core.dataclass_checks import FieldError, Positive, check_types
from t5x_lite.data.source import Source
from t5x_lite.rewards.reward import Completion, Rater, Rating

# A number as it is written: a sign, thousands with commas, a fraction.
_NUMBER = re.compile(r'-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?|-?\.\d+')
_LONGEST = 100_000   # characters of an expression that are parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactAnswer:
  """1 if a completion is the reference answer, but for space around it."""
  name: ClassVar[str] = 'exact_answer'
  ignore_case: bool = False   # whether letters of both cases are the same

  def __post_init__(self):
    check_types(self)

  def make(self, data: Source) -> Rater:
    """See Reward."""
    fold = lambda text: text.strip().casefold() if self.ignore_case else text.strip()
    return lambda completions: [
        Rating(float(fold(one.text) == fold(one.reference))) for one in completions]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericAnswer:
  """1 if a number of a completion is that of the reference answer, compared as decimals.

  The number is the first that follows `marker`, such as '####' in GSM8K, or the last one of the
  text where there is no marker. A completion without a number has 0.
  """
  name: ClassVar[str] = 'numeric_answer'
  marker: str | None = None   # after which the number is; None: the last number of the text

  def __post_init__(self):
    check_types(self)
    if self.marker == '':
      raise FieldError(self, 'marker', 'is empty: leave it out')

  def make(self, data: Source) -> Rater:
    """See Reward."""
    return lambda completions: [self._rate(one) for one in completions]

  def _rate(self, one: Completion) -> Rating:
    want = self._number(one.reference)
    if want is None:
      return Rating(0.0, f'the reference {one.reference!r:.40} has no number')
    return Rating(float(self._number(one.text) == want))

  def _number(self, text: str) -> Decimal | None:
    if self.marker is not None:
      _, found, text = text.partition(self.marker)
      if not found:
        return None
    numbers = _NUMBER.findall(text)
    if not numbers:
      return None
    try:
      return Decimal(numbers[0 if self.marker is not None else -1].replace(',', ''))
    except InvalidOperation:   # beyond what decimals can be
      return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
  """1 if a regular expression matches the whole of a completion.

  `{reference}` in the pattern stands for the reference answer, as it is.
  """
  name: ClassVar[str] = 'matches'
  pattern: str   # a regular expression, with {reference} or without

  def __post_init__(self):
    check_types(self)
    try:
      self._compiled('')
    except re.error as error:
      raise FieldError(self, 'pattern', f'{self.pattern!r} is no regular expression: {error}'
                       ) from error

  def make(self, data: Source) -> Rater:
    """See Reward."""
    return lambda completions: [
        Rating(float(self._compiled(one.reference).fullmatch(one.text) is not None))
        for one in completions]

  def _compiled(self, reference: str) -> re.Pattern:
    return re.compile(self.pattern.replace('{reference}', re.escape(reference)), re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonExpression:
  """1 if prompt and completion together are one Python expression that has a name or an operator.

  So that a bare number or string, which is always well formed, is no way to a reward.
  """
  name: ClassVar[str] = 'python_expression'
  with_prompt: bool = True   # whether the expression begins with the prompt

  def __post_init__(self):
    check_types(self)

  def make(self, data: Source) -> Rater:
    """See Reward."""
    return lambda completions: [self._rate(one) for one in completions]

  def _rate(self, one: Completion) -> Rating:
    text = (one.prompt if self.with_prompt else '') + one.text
    if len(text) > _LONGEST:
      return Rating(0.0, f'{len(text)} characters, and at most {_LONGEST} are parsed')
    try:
      tree = ast.parse(text.strip(), mode='eval')
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return Rating(0.0)
    return Rating(float(any(
        isinstance(node, (ast.Name, ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp))
        for node in ast.walk(tree))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
  """The closeness of a completion to a length: 1 at `target` characters, 0 at none and at twice."""
  name: ClassVar[str] = 'length'
  target: Positive[float]   # characters

  def __post_init__(self):
    check_types(self)

  def make(self, data: Source) -> Rater:
    """See Reward."""
    return lambda completions: [
        Rating(max(0.0, 1 - abs(len(one.text) - self.target) / self.target))
        for one in completions]


