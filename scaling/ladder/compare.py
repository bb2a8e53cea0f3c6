"""Two recipes compared at a scale that neither was trained at, from the runs of both.

Of each recipe a law is fitted by least squares of log loss, with an asymptote E of its own or one
for both. On its frontier of optimal N a law is L = E + K C^-kappa, kappa = alpha beta / (alpha +
beta), so that the FLOPs with which recipe A reaches the loss of B have a closed form: over those of
B they are the effective-compute multiplier of B. Intervals are percentiles over draws of the
constants from their Student distribution, whose covariance has the noise that runs of a size share.

P runs of both, K constants (10, or 9 with one asymptote).
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize, stats

from scaling.fitting.parametric import percentiles
from scaling.ladder.advice import Advice, Recipe, advise
from t5x_lite.core.errors import UserError

_DRAWS = 4000
_MAX_RUNS = 100     # of advice on how to settle the comparison


@dataclasses.dataclass(frozen=True)
class Row:
  """The comparison at one budget, as (value, low, high).

  Attributes:
    difference: loss of B less that of A, nats a token, each at its optimal N.
    multiplier: FLOPs with which A reaches the loss of B, over those of B; inf: with none.
  """
  flops: float
  asymptote: str      # 'own' of each recipe, or 'one' for both
  difference: tuple[float, float, float]
  multiplier: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What the runs of two recipes tell of them.

  Attributes:
    rows: of each budget, with either kind of asymptote.
    asymptotes: E of A and of B.
    same_asymptote: the probability of asymptotes so different, if they are the same (Wald's test).
    degenerate: fraction of draws without an optimum, which are left out.
    advice: runs that would settle it; None if the difference at the target is not 0 already.
  """
  target: float
  level: float
  rows: list[Row]
  asymptotes: tuple[float, float]
  same_asymptote: float
  degenerate: float
  advice: Advice | None


@dataclasses.dataclass(frozen=True)
class _Fit:
  """Constants [K] at the middle of the runs, and their covariance."""
  x: np.ndarray
  covariance: np.ndarray
  middle: np.ndarray      # ln N and ln D
  freedom: int

  def frontiers(self, x: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """(E, ln K, kappa) of A and of B, for constants [..., K]."""
    found = []
    for first in (0, 4):
      a, alpha, b, beta = (x[..., first + i] for i in range(4))
      e = np.exp(x[..., 8 if first == 0 else -1])
      a, b = a + alpha * self.middle[0], b + beta * self.middle[1]
      with np.errstate(invalid='ignore', divide='ignore'):
        total = alpha + beta
        log_g = (np.log(alpha / beta) + a - b) / total
        kappa = alpha * beta / total
        # A N^-alpha and B D^-beta at C / 6 = 1; both fall as (C / 6)^-kappa.
        log_k = np.logaddexp(a - alpha * log_g, b + beta * log_g)
      found.append((e, log_k, kappa))
    return found


def compare_recipes(recipes: Sequence[Recipe], target: float, level: float = 0.95) -> Comparison:
  """Compares recipe B with recipe A at the target and at the budgets of their runs."""
  if len(recipes) != 2:
    raise ValueError(f'{len(recipes)} recipes, expected two')
  largest = max(float(recipe.runs.flops.max()) for recipe in recipes)
  if not largest <= target < math.inf:
    raise UserError(f'--target={target:.3g}: give at least the FLOPs of the largest run, '
                    f'{largest:.3g}')
  budgets = sorted({largest, math.sqrt(largest * target), target})
  own, one = _fit(recipes, 10), _fit(recipes, 9)
  rows, degenerate = [], 0.0
  for name, fit in (('own', own), ('one', one)):
    found, lost = _rows(fit, name, budgets, level)
    rows, degenerate = rows + found, max(degenerate, lost)
  apart = own.x[8] - own.x[9]
  error = math.sqrt(own.covariance[8, 8] + own.covariance[9, 9] - 2 * own.covariance[8, 9])
  value, low, high = rows[len(budgets) - 1].difference
  advice = None
  if low <= 0 <= high:
    advice = advise(recipes, 'difference', target, budget=100 * target, error=abs(value),
                    count=_MAX_RUNS, level=level)
  return Comparison(target, level, rows, (math.exp(own.x[8]), math.exp(own.x[9])),
                    float(2 * stats.t.sf(abs(apart) / error, own.freedom)), degenerate, advice)


def _fit(recipes: Sequence[Recipe], count: int) -> _Fit:
  """The fit with `count` constants: (ln A, alpha, ln B, beta) of each recipe, and ln E."""
  n, d, y = (np.concatenate([np.log(getattr(r.runs, name)) for r in recipes])
             for name in ('parameters', 'tokens', 'loss'))
  second = np.repeat([0, 1], [len(r.runs) for r in recipes])
  if len(y) <= count:
    raise UserError(f'{len(y)} runs do not identify {count} constants and their noise: add runs')
  middle = np.array([n.mean(), d.mean()])
  floor = np.where(second == 1, count - 1, 8)

  def misses(x):
    a, alpha, b, beta = (x[4 * second + i] for i in range(4))
    return np.logaddexp(np.logaddexp(a - alpha * (n - middle[0]), b - beta * (d - middle[1])),
                        x[floor]) - y

  start = []
  for law in (recipe.fit.law for recipe in recipes):
    start += [math.log(law.a) - law.alpha * middle[0], law.alpha,
              math.log(law.b) - law.beta * middle[1], law.beta]
  start += [math.log(recipe.fit.law.e) for recipe in recipes][:count - 8]
  found = optimize.least_squares(lambda x: misses(x) / 1e-3, start, x_scale='jac', xtol=1e-12)
  inverse = np.linalg.pinv(found.jac * 1e-3, rcond=1e-13)
  covariance = np.zeros((len(y), len(y)))
  for i, recipe in enumerate(recipes):
    at = np.flatnonzero(second == i)
    covariance[np.ix_(at, at)] = recipe.noise.covariance(recipe.runs.clusters)
  return _Fit(found.x, inverse @ covariance @ inverse.T, middle, len(y) - count)


def _rows(fit: _Fit, name: str, budgets: Sequence[float], level: float) -> tuple[list[Row], float]:
  """The rows of a fit, and the fraction of draws without an optimum."""
  rng = np.random.default_rng(0)
  factor = np.linalg.cholesky(fit.covariance + 1e-18 * np.eye(len(fit.x)))
  scale = np.sqrt(fit.freedom / rng.chisquare(fit.freedom, (_DRAWS, 1)))
  draws = fit.x + scale * (rng.normal(size=(_DRAWS, len(fit.x))) @ factor.T)
  at, sampled = fit.frontiers(fit.x), fit.frontiers(draws)
  good = np.all([np.isfinite(part) for each in sampled for part in each], 0)
  sampled = [tuple(part[good] for part in each) for each in sampled]
  rows = []
  for flops in budgets:
    values, many = _quantities(*at, flops), _quantities(*sampled, flops)
    rows.append(Row(flops, name, *(
        (float(value), *_percentiles(draws_of, level)) for value, draws_of in zip(values, many))))
  return rows, float(1 - good.mean())


def _quantities(first, second, flops: float) -> tuple[np.ndarray, np.ndarray]:
  """(L_B - L_A, the FLOPs of A for the loss of B over those of B)."""
  log_c = math.log(flops / 6)
  losses = [e + np.exp(log_k - kappa * log_c) for e, log_k, kappa in (first, second)]
  e, log_k, kappa = first
  with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
    multiple = np.exp((log_k - np.log(losses[1] - e)) / kappa - log_c)
  return losses[1] - losses[0], np.where(losses[1] > e, multiple, np.inf)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
  """The central interval; its ends may be infinite."""
  if np.isfinite(values).all():
    return percentiles(values, level)
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method='inverted_cdf')
  return float(low), float(high)


def format_comparison(found: Comparison, names: Sequence[str]) -> str:
  """The comparison as text; `names` of A and of B."""
  percent = f'{found.level:.0%}'
  lines = [f'A: {names[0]}', f'B: {names[1]}', '',
           f'{"FLOPs":>10}{"asymptote":>11}{"loss of B less A":>18}{percent:>20}'
           f'{"effective compute":>19}{percent:>20}']
  for row in found.rows:
    lines.append(f'{row.flops:>10.3g}{row.asymptote:>11}{row.difference[0]:>+18.4f}'
                 f'{_between(row.difference, "+.4f"):>20}{"x " + _number(row.multiplier[0]):>19}'
                 f'{_between(row.multiplier, ".3g"):>20}')
  e_a, e_b = found.asymptotes
  same = found.same_asymptote > 0.05
  lines += ['', f'Asymptotes: E of A {e_a:.4g}, of B {e_b:.4g}; probability '
            f'{found.same_asymptote:.2g} of so much difference between equal ones: '
            + ('one for both is in accordance with the runs' if same else
               'they differ, read the rows of own ones')]
  if found.degenerate > 0.02:
    lines.append(f'{found.degenerate:.0%} of the draws have no optimum and are left out')
  what = f'At {found.target:.3g} FLOPs, with own asymptotes:'
  if found.advice is None:
    better = 'B' if found.rows[len(found.rows) // 2 - 1].difference[0] < 0 else 'A'
    return '\n'.join([*lines, f'{what} settled, {better} is better'])
  more = found.advice.runs
  difference = abs(found.rows[len(found.rows) // 2 - 1].difference[0])
  if more and more[-1]['after'] <= difference:
    total = sum(run['flops'] for run in more)
    return '\n'.join([*lines, f'{what} not settled: {len(more)} more runs of {total:.3g} FLOPs '
                      f'in all would tell ± {difference:.2g} nats (t5x-lite scaling suggest '
                      '--quantity=difference)'])
  return '\n'.join([*lines, f'{what} not settled, nor by {_MAX_RUNS} more runs: the difference is '
                    'too small for such runs'])


def _number(value: float) -> str:
  return f'{value:.3g}' if math.isfinite(value) else 'never'


def _between(values: tuple[float, float, float], form: str) -> str:
  low, high = (format(x, form) if math.isfinite(x) else 'never' for x in values[1:])
  return f'{low} to {high}'
