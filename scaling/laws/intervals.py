"""Intervals of a law's predictions, from the uncertainty that its source reports.

A law has bootstrap samples, which give an interval of every quantity; or an interval of the
exponent a in N ~ C ** a, which gives one of N, wider with the distance from the middle of the runs;
or neither. No interval covers what all runs share: corpus, tokenizer and recipe.
"""

from collections.abc import Callable
import functools
import importlib.resources
import math

import numpy as np

from scaling.laws.laws import Law, ParametricLaw

Interval = tuple[float, float]
LEVEL = 0.95


@functools.cache
def load_bootstrap_samples(name: str) -> tuple[ParametricLaw, ...]:
  """The bootstrap samples of a file in scaling/data, with columns e, a, alpha, b, beta."""
  text = (importlib.resources.files('scaling') / 'data' / name).read_text(encoding='utf-8')
  rows = [line for line in text.splitlines() if line and not line.startswith('#')]
  names = rows[0].split(',')
  return tuple(ParametricLaw(**dict(zip(names, map(float, row.split(','))))) for row in rows[1:])


def bootstrap_intervals(law: Law, quantities: Callable[[ParametricLaw], tuple[float, ...]],
                        level: float = LEVEL) -> list[Interval] | None:
  """The central interval of each quantity over the bootstrap samples; None if there are none.

  A value that is not finite (the FLOPs for a loss that a sample never reaches) counts as infinite.
  """
  forms = law.bootstrap_samples
  if isinstance(forms, str):
    forms = load_bootstrap_samples(forms)
  if not forms:
    return None
  values = np.array([quantities(form) for form in forms], np.float64)
  values[np.isnan(values)] = np.inf
  ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method='inverted_cdf')
  return [(float(low), float(high)) for low, high in ends.T]


def exponent_interval(law: Law, flops: float) -> Interval | None:
  """The interval of the optimal N from that of the exponent; None if there is none.

  All power laws pass through the law's N at the geometric middle of its runs' budgets.
  """
  if law.exponents is None or law.fitted is None:
    return None
  middle = math.sqrt(law.fitted[0] * law.fitted[1])
  at_middle = law.form.optimum(middle)[0]
  low, high = sorted(at_middle * (flops / middle) ** a for a in law.exponents)
  return low, high
