"""Intervals of a law's predictions, from the uncertainty that its source reports.

A law has bootstrap samples, which give an interval of every quantity; or an interval of the
exponent a in N ~ C ** a, which gives one of N, wider with the distance from the middle of the runs
but not empty there; or neither. No interval covers what all runs share: corpus, tokenizer and
recipe.
"""

from collections.abc import Callable
import functools
import importlib.resources
import math

import numpy as np

from scaling.laws.laws import Form, Law, ParametricLaw

Interval = tuple[float, float]
LEVEL = 0.95


@functools.cache
def load_bootstrap_samples(name: str) -> tuple[ParametricLaw, ...]:
  """The bootstrap samples of a file in scaling/data, with columns e, a, alpha, b, beta."""
  text = (importlib.resources.files('scaling') / 'data' / name).read_text(encoding='utf-8')
  rows = [line for line in text.splitlines() if line and not line.startswith('#')]
  names = rows[0].split(',')
  return tuple(ParametricLaw(**dict(zip(names, map(float, row.split(','))))) for row in rows[1:])


def bootstrap_intervals(law: Law, quantities: Callable[[Form], tuple[float | None, ...]],
                        level: float = LEVEL) -> list[Interval | None] | None:
  """The central interval of each quantity over the bootstrap samples; None if there are none.

  A value that is not finite (the FLOPs for a loss that a sample never reaches) counts as infinite;
  of a quantity that is None for every sample (the loss of an allocation) the interval is None.
  """
  forms = law.bootstrap_samples
  if isinstance(forms, str):
    forms = load_bootstrap_samples(forms)
  if not forms:
    return None
  found = [quantities(form) for form in forms]
  absent = [all(value is None for value in column) for column in zip(*found)]
  values = np.array(found, np.float64)
  values[np.isnan(values)] = np.inf
  ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method='inverted_cdf')
  return [None if none else (float(low), float(high)) for none, (low, high) in zip(absent, ends.T)]


def exponent_interval(law: Law, flops: float) -> Interval | None:
  """The interval of the optimal N from that of the exponent; None if there is none.

  Of a line through optima that are even in ln C over a range S, whose slope has the error s, the
  height has the error s S / sqrt(12) in the middle, and s sqrt(S^2 / 12 + x^2) at a distance x.
  """
  if law.exponents is None or law.fitted is None:
    return None
  low, high = np.log(law.fitted)
  distance = math.log(flops) - (low + high) / 2
  reach = math.hypot((high - low) / math.sqrt(12), distance)
  exponent = math.log(law.form.optimum(math.e * flops)[0] / law.form.optimum(flops)[0])
  down, up = exponent - law.exponents[0], law.exponents[1] - exponent
  if distance < 0:
    down, up = up, down
  best = law.form.optimum(flops)[0]
  return best * math.exp(-max(down, 0.0) * reach), best * math.exp(max(up, 0.0) * reach)
