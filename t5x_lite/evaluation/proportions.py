"""Intervals of a proportion: Wald's, Wilson's, and the exact one of Clopper and Pearson."""

import math
from typing import NamedTuple

from scipy import stats

from t5x_lite.core.errors import UserError


class Interval(NamedTuple):
  """Both ends of an interval."""
  low: float
  high: float


def normal_quantile(level: float) -> float:
  """The standard errors on either side of a two-sided interval: 1.96 at a level of 0.95."""
  if not 0 < level < 1:
    raise UserError(f'an interval of level {level:g}: name one above 0 and below 1, such as 0.95')
  return float(stats.norm.ppf((1 + level) / 2))


def wald_half_width(successes: int, number: int, level: float = 0.95) -> float:
  """z sqrt(p (1 - p) / n), what papers print as 'p ± ...'; 0 where all or none succeed."""
  share = _share(successes, number)
  return normal_quantile(level) * math.sqrt(share * (1 - share) / number)


def wald_interval(successes: int, number: int, level: float = 0.95) -> Interval:
  """The share, less and plus its half-width, cut at 0 and 1.

  It holds the true share far less often than its level says where p n or (1 - p) n is small
  (Brown, Cai and DasGupta 2001, 'Interval estimation for a binomial proportion').
  """
  share, half = _share(successes, number), wald_half_width(successes, number, level)
  return Interval(max(share - half, 0.0), min(share + half, 1.0))


def wilson_interval(successes: int, number: int, level: float = 0.95) -> Interval:
  """The shares that a test of the score does not reject (Wilson 1927), uncorrected."""
  return _by_test(successes, number, level, 'wilson')


def exact_interval(successes: int, number: int, level: float = 0.95) -> Interval:
  """The shares that neither one-sided binomial test rejects (Clopper and Pearson 1934).

  It holds the true share at least as often as its level says, and is wide for it.
  """
  return _by_test(successes, number, level, 'exact')


def _by_test(successes: int, number: int, level: float, method: str) -> Interval:
  _share(successes, number)
  normal_quantile(level)
  found = stats.binomtest(successes, number).proportion_ci(level, method)
  return Interval(float(found.low), float(found.high))


def _share(successes: int, number: int) -> float:
  """successes / number; raises UserError for counts that are none of a share."""
  if number < 1 or not 0 <= successes <= number:
    raise UserError(f'{successes} successes of {number}: there is no such share')
  return successes / number
