"""Compute-optimal sizes without a parametric law (Hoffmann et al. 2022, approaches 1 and 2).

Approach 1 takes the lowest loss over all training curves at each compute; approach 2 the minimum of
a parabola through runs of equal compute. Both then fit N = k C ^ exponent.
"""

from collections.abc import Sequence
import dataclasses
import warnings

import numpy as np

from scaling.fitting.parametric import percentiles
from scaling.fitting.runs import Runs
from scaling.laws.laws import Allocation
from scaling.laws.parabolas import Parabola, fit_budgets
from t5x_lite.core.errors import UserError

FLOP_VALUES = 1500    # of the envelope, log-spaced


@dataclasses.dataclass(frozen=True)
class Curve:
  """The training curve of a run: N, and arrays [points] of FLOPs and loss."""
  parameters: float
  flops: np.ndarray
  loss: np.ndarray


@dataclasses.dataclass(frozen=True)
class Minimum:
  """The optimal N of a budget; `curvature` is that of the parabola over ln N (None: approach 1)."""
  flops: float
  parameters: float
  loss: float
  curvature: float | None = None


@dataclasses.dataclass(frozen=True)
class AllocationFit:
  """N = k C ^ exponent through minima.

  Attributes:
    law: the allocation; D = C / 6 N.
    minima: to which it is fitted.
    dropped: the reason for each budget left out.
    bootstrap_samples: laws of the resamples, one Allocation of arrays.
  """
  law: Allocation
  minima: tuple[Minimum, ...]
  dropped: tuple[str, ...]
  bootstrap_samples: Allocation

  def exponent_interval(self, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of the exponent of N over the samples; that of D is 1 minus it."""
    return percentiles(self.bootstrap_samples.exponent, level)

  def optimum(self, flops: float, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """'parameters', 'tokens' and 'ratio' (D / N) as (value, low, high)."""
    found = {}
    for name, of in (('parameters', lambda n, d: n), ('tokens', lambda n, d: d),
                     ('ratio', lambda n, d: d / n)):
      found[name] = (float(of(*self.law.optimum(flops))),
                     *percentiles(of(*self.bootstrap_samples.optimum(flops)), level))
    return found


def group_curves(runs: Runs) -> list[Curve]:
  """The runs of each N (within 1 %) as one curve."""
  order = np.argsort(runs.parameters)
  cuts = np.flatnonzero(np.diff(np.log(runs.parameters[order])) > 0.01) + 1
  return [Curve(float(runs.parameters[i].mean()), runs.flops[i], runs.loss[i])
          for i in np.split(order, cuts)]


def fit_envelope(curves: Sequence[Curve], samples: int = 1000, seed: int = 0) -> AllocationFit:
  """Approach 1: of 1,500 log-spaced FLOPs, the N whose curve has the lowest loss at each.

  A curve is interpolated linearly in ln C, within its own range. FLOPs at which the smallest or the
  largest N is optimal are left out, since a better one may be outside. A resample draws curves with
  replacement. Raises UserError if fewer than two N are left.
  """
  sizes = np.array([c.parameters for c in curves])
  if len(set(sizes)) < 4:
    raise UserError(f'{len(set(sizes))} different N: an envelope of training curves needs at least '
                    '4')
  ends = [(c.flops.min(), c.flops.max()) for c in curves]
  grid = np.geomspace(min(e[0] for e in ends), max(e[1] for e in ends), FLOP_VALUES)
  losses = np.stack([_interpolate(curve, grid) for curve in curves])
  best, inside = _lowest(sizes, losses)
  if len(set(best[inside])) < 2:
    raise UserError(f'{len(set(best[inside]))} sizes between the smallest and the largest are '
                    'optimal anywhere, and 2 are needed: add larger and smaller N')
  lowest = losses.min(0)
  minima = [Minimum(*map(float, row)) for row in zip(grid[inside], best[inside], lowest[inside])]
  rng = np.random.default_rng(seed)
  laws = []
  for index in rng.integers(len(curves), size=(samples, len(curves))):
    some, kept = _lowest(sizes[index], losses[index])
    if len(set(some[kept])) > 1:
      laws.append(_power_law(grid, some, kept))
  return AllocationFit(_power_law(grid, best, inside), tuple(minima), (),
                       _stacked(laws, samples))


def _interpolate(curve: Curve, grid: np.ndarray) -> np.ndarray:
  """Loss of a curve at FLOPs [points]; inf outside its range."""
  order = np.argsort(curve.flops)
  return np.interp(np.log(grid), np.log(curve.flops[order]), curve.loss[order], np.inf, np.inf)


def _lowest(sizes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(optimal size [points], whether smaller and larger ones exist) of losses [curves, points]."""
  best = sizes[losses.argmin(0)]
  defined = np.isfinite(losses)
  min_size = np.where(defined, sizes[:, None], np.inf).min(0)
  max_size = np.where(defined, sizes[:, None], 0.0).max(0)
  return best, (min_size < best) & (best < max_size)


def fit_parabolas(parameters: np.ndarray, flops: np.ndarray, loss: np.ndarray, samples: int = 1000,
                  seed: int = 0) -> AllocationFit:
  """Approach 2: for each budget the vertex of a parabola of loss over ln N, and a law through them.

  Budgets are those of `parabolas.group_budgets`. One is left out, with a warning, if it has fewer
  than three N, no minimum, or a minimum outside its N. A resample adds to the parabolas residuals
  drawn with replacement from all budgets.

  Args:
    parameters, flops, loss: of the runs, [runs] each.
    samples: number of resamples.
    seed: of the resamples.

  Raises:
    UserError: if fewer than two budgets remain.
  """
  budgets = fit_budgets(parameters, flops, loss)
  fitted = [budget for budget in budgets if not budget.reason]
  dropped = [f'budget {budget.flops:.3g}: {budget.reason}' for budget in budgets if budget.reason]
  for line in dropped:
    warnings.warn(f'{line}; left out', stacklevel=2)
  if len(fitted) < 2:
    more = f' ({dropped[0]})' if dropped else ''
    raise UserError(f'{len(fitted)} of {len(budgets)} budgets have a minimum inside their N{more}: '
                    'at least 2 are needed; add smaller and larger N to each')
  minima = [Minimum(budget.flops, *budget.minimum) for budget in fitted]
  laws = _resample(fitted, samples, np.random.default_rng(seed))
  law = _power_law(np.array([m.flops for m in minima]), np.array([m.parameters for m in minima]))
  return AllocationFit(law, tuple(minima), tuple(dropped), _stacked(laws, samples))


def _resample(fitted: Sequence[Parabola], samples: int, rng) -> list[Allocation]:
  """Laws of resampled residuals that have at least two budgets with a minimum."""
  columns = [np.vander(np.log(p.parameters / p.minimum[0]), 3) for p in fitted]
  inverses = [np.linalg.pinv(x) for x in columns]
  curves = [p(p.parameters) for p in fitted]
  pool = np.concatenate([(p.loss - curve) * np.sqrt(len(curve) / max(len(curve) - 3, 1))
                         for p, curve in zip(fitted, curves)])
  best, kept = np.empty((2, samples, len(fitted)))
  for k, (x, inverse, curve) in enumerate(zip(columns, inverses, curves)):
    q2, q1, _ = inverse @ (curve[:, None] + rng.choice(pool, (len(curve), samples)))
    vertex = np.divide(-q1, 2 * q2, out=np.zeros(samples), where=q2 > 0)
    best[:, k] = fitted[k].minimum[0] * np.exp(vertex)
    kept[:, k] = (q2 > 0) & (x[:, 1].min() < vertex) & (vertex < x[:, 1].max())
  flops = np.array([p.flops for p in fitted])
  return [_power_law(flops, n, some > 0) for n, some in zip(best, kept)
          if some.sum() > 1]


def _power_law(flops: np.ndarray, parameters: np.ndarray, kept: np.ndarray | slice = slice(None)
               ) -> Allocation:
  """Least squares of ln N over ln C, over the kept values."""
  c, n = np.log(flops[kept]), np.log(parameters[kept])
  off = c - c.mean()
  exponent = float(off @ n / (off @ off))
  return Allocation(float(np.exp(n.mean() - exponent * c.mean())), exponent)


def _stacked(laws: Sequence[Allocation], samples: int) -> Allocation:
  """One Allocation of arrays; UserError if too many resamples had no law."""
  if len(laws) < samples / 2:
    raise UserError(f'{samples - len(laws)} of {samples} resamples have fewer than two minima: '
                    'the runs are too few or too noisy; add runs')
  return Allocation(np.array([law.coefficient for law in laws]),
                    np.array([law.exponent for law in laws]))
