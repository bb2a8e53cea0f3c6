"""How uncertain a law's answer is: what its source says of it, carried to a budget.

A law has one of three: refits to resampled runs, of which everything has an interval; a range of
its exponent a in N ~ C ** a, of which N has one, widening with the distance from the middle of the
runs; or nothing. None holds what all runs share: another text, tokenizer or recipe.
"""

from collections.abc import Callable
import functools
import importlib.resources
import math

import numpy as np

from scaling.laws.laws import Additive, Law

Interval = tuple[float, float]
LEVEL = 0.95


@functools.cache
def shipped_draws(name: str) -> tuple[Additive, ...]:
  """The refits of a file in scaling/data, with columns e, a, alpha, b, beta."""
  text = (importlib.resources.files('scaling') / 'data' / name).read_text(encoding='utf-8')
  rows = [line for line in text.splitlines() if line and not line.startswith('#')]
  names = rows[0].split(',')
  return tuple(Additive(**dict(zip(names, map(float, row.split(','))))) for row in rows[1:])


def of_draws(law: Law, quantities: Callable[[Additive], tuple[float, ...]], level: float = LEVEL
             ) -> list[Interval] | None:
  """The central interval of each of the quantities over the law's refits; None if it has none.

  One that is not finite (the FLOPs for a loss that a refit never reaches) counts as the largest.
  """
  forms = shipped_draws(law.draws) if isinstance(law.draws, str) else law.draws
  if not forms:
    return None
  values = np.array([quantities(form) for form in forms], np.float64)
  values[np.isnan(values)] = np.inf
  ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method='inverted_cdf')
  return [(float(low), float(high)) for low, high in ends.T]


def of_exponent(law: Law, flops: float) -> Interval | None:
  """The interval of the optimal N that the range of the exponent gives; None if there is none.

  All the lines go through the law's N at the geometric middle of the budgets it was fitted on.
  """
  if law.exponents is None or law.fitted is None:
    return None
  middle = math.sqrt(law.fitted[0] * law.fitted[1])
  at_middle = law.form.optimum(middle)[0]
  low, high = sorted(at_middle * (flops / middle) ** a for a in law.exponents)
  return low, high
