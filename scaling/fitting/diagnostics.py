"""Reasons to doubt a fitted law: another method, held-out runs, outliers, conditioning."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize, stats

from scaling.fitting import parametric, solver
from scaling.fitting.parametric import Fit
from scaling.fitting.runs import Runs, check_varied, describe_settings
from scaling.laws.laws import ParametricLaw
from t5x_lite.core.errors import UserError

RARE = 3.5                 # standard deviations of a normal from which a run is an outlier
FEW_SIZES = 6              # different N up to which a bend in N looks like noise of the sizes
_RUNS_PER_OUTLIER = 5      # at most one run in so many is an outlier
_GRID = np.geomspace(0.05, 1.5, 24)   # initial exponents of variable projection


@dataclasses.dataclass(frozen=True)
class Diagnostics:
  """What a fit says of itself, beside its numbers.

  Attributes:
    resampling: how the intervals were made, and the noise that they assume.
    warnings: a line for each reason to doubt the law.
  """
  resampling: str
  warnings: list[str]


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """The errors of a law, fitted below a compute cut, on the runs above it.

  `error` is the mean of |log loss - log law|, `bias` the mean of log loss - log law,
  `reach` the largest C over the cut.
  """
  cut: float
  fitted: int
  tested: int
  error: float
  bias: float
  reach: float


@dataclasses.dataclass(frozen=True)
class Outlier:
  """A run far from the law of the others: its residual in log loss, and in units of their noise."""
  name: str
  index: int
  residual: float
  z: float


def fit_kept(runs: Runs, loss: parametric.Loss = 'huber', drop: bool = True
             ) -> tuple[Fit, Fit, list[Outlier]]:
  """(the fit to all runs, unchecked; the fit that stands; the outliers among them).

  The second is without outliers if they are dropped; UserError if its runs identify no law.
  """
  every = parametric.fit_unchecked(runs, loss)
  outlying = outliers(every)
  if drop and outlying:
    left_out = {outlier.index for outlier in outlying}
    kept = runs.select([i not in left_out for i in range(len(runs))])
    return every, parametric.fit_law(kept, loss), outlying
  # An outlier may prevent identification.
  parametric.check_identified(every, (outlier.name for outlier in outlying))
  return every, every, outlying


def diagnose(found: Fit, outlying: Sequence[Outlier] = ()) -> Diagnostics:
  """The diagnostics of a fit with bootstrap samples.

  `outlying` are the `outliers` of a fit to all runs, which this one may leave out.
  """
  return Diagnostics(found.resampling, [*_outlier_lines(found, outlying), *_doubt_lines(found)])


def _outlier_lines(found: Fit, outlying: Sequence[Outlier]) -> list[str]:
  if not outlying:
    return []
  names = ', '.join(outlier.name for outlier in outlying[:4])
  names += ' …' if len(outlying) > 4 else ''
  count = f'{len(outlying)} outlier{"s" if len(outlying) > 1 else ""}'
  if {outlier.name for outlier in outlying}.isdisjoint(found.runs.names):
    return [f'{count} left out of the fit: {names}']
  return [f'{count} among the {len(found.runs)} runs: {names}; find their cause, or fit without '
          'them']


def _doubt_lines(found: Fit) -> list[str]:
  sizes = len(np.unique(np.round(np.log(found.runs.parameters), 2)))
  lines = describe_settings(found.runs)
  if found.misfit is None:
    lines.append('the runs are too few to test whether they follow the law')
  elif found.misfit.doubted:
    lines.append(f'the runs may not follow one law: {found.misfit.describe()}; the intervals cover '
                 'the law of either side')
  elif sizes <= FEW_SIZES:
    lines.append(f'{sizes} sizes cannot tell a law that bends at some N, or large models that are '
                 'tuned worse, from noise that the runs of a size share: add sizes')
  return lines


def variable_projection(runs: Runs) -> ParametricLaw:
  """The law of the least squares of relative residuals, L / law - 1 with the sign of log L.

  For given alpha and beta the law is linear in E, A, B >= 0, solved exactly by nonnegative least
  squares; alpha and beta are searched on a grid, then by Nelder and Mead (Golub & Pereyra 1973).
  Not robust, but independent of a start: a check on `parametric.fit_law`.
  """
  n, d = np.log(runs.parameters), np.log(runs.tokens)
  n, d = n - n.mean(), d - d.mean()

  def solve(alpha, beta):
    columns = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], 1)
    return optimize.nnls(columns / runs.loss[:, None], np.ones_like(n))

  miss = lambda x: solve(*np.exp(x))[1]
  start = min(((math.log(alpha), math.log(beta)) for alpha in _GRID for beta in _GRID), key=miss)
  best = optimize.minimize(miss, start, method='Nelder-Mead',
                           options={'xatol': 1e-9, 'fatol': 1e-14, 'maxiter': 2000})
  alpha, beta = np.exp(best.x)
  (e, a, b), _ = solve(alpha, beta)
  a *= math.exp(alpha * np.log(runs.parameters).mean())
  b *= math.exp(beta * np.log(runs.tokens).mean())
  return ParametricLaw(*map(float, (e, a, alpha, b, beta)))


def held_out(found: Fit, cuts: int = 3) -> list[HeldOut]:
  """Laws fitted to the runs of lowest compute, tested on the others.

  Below the cuts are 1/2, 3/4, 7/8 … of the runs, and those of the same budget, whose FLOPs differ
  by up to a fifth; cuts with too few runs to fit, or none to test, are left out.
  """
  runs, results = found.runs, []
  n, d, log_loss = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
  order = np.sort(runs.flops)
  for i in range(1, cuts + 1):
    below = runs.flops <= 1.2 * order[math.ceil(len(runs) * (1 - 0.5 ** i)) - 1]
    cut = float(runs.flops[below].max())
    if below.all() or not _enough(runs.select(below)):
      continue
    theta, _ = solver.solve_best(parametric.perturbed_starts(found), n, d, log_loss,
                                 below.astype(float), found.loss)
    miss = (log_loss - solver.log_law(theta[None], n, d)[0])[~below]
    results.append(HeldOut(cut, int(below.sum()), int((~below).sum()),
                           float(np.abs(miss).mean()), float(miss.mean()),
                           float(runs.flops.max() / cut)))
  return results


def _enough(runs: Runs) -> bool:
  try:
    check_varied(runs)
  except UserError:
    return False
  return len(runs) > 6 and parametric.line_spread(runs) > parametric.STRAIGHT


def outliers(found: Fit) -> list[Outlier]:
  """Runs further from the law of the others than their noise explains, worst first.

  The rule is fixed beforehand: the law is refitted without the run; its residual from that law,
  over the robust scale of the others times sqrt(1 + leverage), is as rare under Student's t with P
  - 6 degrees of freedom as 3.5 standard deviations under a normal. The worst is removed and the
  rule applied again, until none is left or a fifth of the runs are outliers. Of one or two dozen
  sound runs, whose noise is poorly estimated, about one in a hundred is a false positive.
  """
  runs, outlying = found.runs, []
  kept = np.ones(len(runs), bool)
  theta = found.theta
  while len(outlying) < len(runs) // _RUNS_PER_OUTLIER and kept.sum() > 7:
    z, residuals, without = _deleted(found, theta, kept)
    limit = stats.t.isf(stats.norm.sf(RARE), kept.sum() - 6)
    worst = int(np.argmax(np.where(kept, np.abs(z), -1)))
    if not abs(z[worst]) > limit:
      break
    outlying.append(Outlier(runs.names[worst], worst, float(residuals[worst]), float(z[worst])))
    kept[worst], theta = False, without[worst]
  return outlying


def _deleted(found: Fit, theta: np.ndarray, kept: np.ndarray):
  """Of each kept run, left out in turn: z [P], residual [P], law without it [P, 5]."""
  runs = found.runs
  n, d, log_loss = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
  index = np.flatnonzero(kept)
  weights = np.tile(kept.astype(float), (len(index), 1))
  weights[np.arange(len(index)), index] = 0.0
  rng = np.random.default_rng(0)
  near = np.concatenate([theta[None], parametric.perturbed(found, rng, 3)])
  starts = np.tile(near, (len(index), 1))
  laws, value = solver.solve(starts, n, d, log_loss, np.repeat(weights, len(near), 0), 'huber')
  best = value.reshape(len(index), -1).argmin(1)
  laws = laws.reshape(len(index), -1, 5)[np.arange(len(index)), best]
  z, residuals, without = (np.zeros(s) for s in (len(runs), len(runs), (len(runs), 5)))
  for i, law, used in zip(index, laws, weights > 0):
    misses = log_loss - solver.log_law(law[None], n, d)[0]
    jacobian = solver.jacobian(law, n, d)
    leverage = float(((jacobian[i] @ np.linalg.pinv(jacobian[used], rcond=1e-14)) ** 2).sum())
    scale = parametric.robust_scale(misses[used]) * math.sqrt(1 + leverage)
    z[i], residuals[i], without[i] = misses[i] / max(scale, 1e-12), misses[i], law
  return z, residuals, without


def condition_number(found: Fit) -> float:
  """Condition number of J^T J, J the derivatives of the log law by (ln A, ln B, ln E, alpha, beta).

  Its columns are scaled to length 1. Above about 1e12, rounding errors dominate the parameters,
  though not the loss.
  """
  n, d = np.log(found.runs.parameters), np.log(found.runs.tokens)
  jacobian = solver.jacobian(found.theta, n, d)
  return float(np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0)) ** 2)
