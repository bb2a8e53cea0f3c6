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
from t5x_lite.core.errors import UserError

FLOP_VALUES = 1500    # of the envelope, log-spaced
_SAME = 0.1           # difference in ln C up to which neighbouring runs have one budget


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

  Runs have one budget if their C differ by less than 10 % from the next. A budget is left out, with
  a warning, if it has fewer than three N, no minimum, or a minimum outside its N. A resample adds
  to the parabolas residuals drawn with replacement from all budgets.

  Args:
    parameters, flops, loss: of the runs, [runs] each.
    samples: number of resamples.
    seed: of the resamples.

  Raises:
    UserError: if fewer than two budgets remain.
  """
  groups = group_budgets(flops)
  fitted, minima, dropped = [], [], []
  for index in groups:
    middle = float(np.exp(np.log(flops[index]).mean()))
    vertex = _vertex(parameters[index], loss[index])
    if isinstance(vertex, str):
      dropped.append(f'budget {middle:.3g}: {vertex}')
      continue
    minima.append(Minimum(middle, *vertex))
    fitted.append(index)
  for line in dropped:
    warnings.warn(f'{line}; left out', stacklevel=2)
  if len(minima) < 2:
    more = f' ({dropped[0]})' if dropped else ''
    raise UserError(f'{len(minima)} of {len(groups)} budgets have a minimum inside their N{more}: '
                    'at least 2 are needed; add smaller and larger N to each')
  laws = _resample(parameters, loss, fitted, minima, samples, np.random.default_rng(seed))
  law = _power_law(np.array([m.flops for m in minima]), np.array([m.parameters for m in minima]))
  return AllocationFit(law, tuple(minima), tuple(dropped), _stacked(laws, samples))


def _resample(parameters, loss, fitted, minima, samples, rng) -> list[Allocation]:
  """Laws of resampled residuals that have at least two budgets with a minimum."""
  columns = [np.vander(np.log(parameters[i] / m.parameters), 3) for i, m in zip(fitted, minima)]
  inverses = [np.linalg.pinv(x) for x in columns]
  curves = [x @ (inverse @ loss[i]) for x, inverse, i in zip(columns, inverses, fitted)]
  pool = np.concatenate([(loss[i] - curve) * np.sqrt(len(i) / max(len(i) - 3, 1))
                         for i, curve in zip(fitted, curves)])
  best, kept = np.empty((2, samples, len(fitted)))
  for k, (x, inverse, curve) in enumerate(zip(columns, inverses, curves)):
    q2, q1, _ = inverse @ (curve[:, None] + rng.choice(pool, (len(curve), samples)))
    vertex = np.divide(-q1, 2 * q2, out=np.zeros(samples), where=q2 > 0)
    best[:, k] = minima[k].parameters * np.exp(vertex)
    kept[:, k] = (q2 > 0) & (x[:, 1].min() < vertex) & (vertex < x[:, 1].max())
  flops = np.array([m.flops for m in minima])
  return [_power_law(flops, n, some > 0) for n, some in zip(best, kept) if some.sum() > 1]


def group_budgets(flops: np.ndarray) -> list[np.ndarray]:
  """Indices of the runs of each budget, the smallest first."""
  order = np.argsort(flops)
  cuts = np.flatnonzero(np.diff(np.log(flops[order])) > _SAME) + 1
  return np.split(order, cuts)


def _vertex(parameters: np.ndarray, loss: np.ndarray) -> tuple[float, float, float] | str:
  """(N, loss, curvature) of the minimum, or why there is none."""
  distinct = 1 + int((np.diff(np.log(np.sort(parameters))) > 0.01).sum())
  if distinct < 3:
    return f'{distinct} different N, and a parabola needs 3'
  x = np.log(parameters)
  middle = x.mean()
  q2, q1, q0 = np.polyfit(x - middle, loss, 2)
  if q2 <= 0:
    return f'the parabola has no minimum (curvature {q2:.2g})'
  best = -q1 / (2 * q2)
  if not x.min() < best + middle < x.max():
    return (f'the minimum, N = {np.exp(best + middle):.3g}, is outside the N of the runs '
            f'({parameters.min():.3g} to {parameters.max():.3g})')
  return float(np.exp(best + middle)), float(q0 - q1 ** 2 / (4 * q2)), float(q2)


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
