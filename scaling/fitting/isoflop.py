"""Compute-optimal sizes without a parametric law (Hoffmann et al. 2022, approaches 1 and 2).

Approach 1 takes the lowest loss that any training curve reaches at each compute; approach 2 the
minimum of a parabola through runs of equal compute. Both then fit N = k C ^ exponent.
"""

from collections.abc import Sequence
import dataclasses
import warnings

import numpy as np

from scaling.fitting.parametric import percentiles
from scaling.fitting.runs import Runs
from scaling.laws.laws import Allocation
from t5x_lite.core.errors import UserError

FLOP_VALUES = 1500    # log-spaced, at which the envelope is read
_SAME = 0.1           # runs whose ln C differ by less than this from the next are of one budget


@dataclasses.dataclass(frozen=True)
class Curve:
  """Losses of one run as it trained: N, and arrays [points] of FLOPs spent and loss then."""
  parameters: float
  flops: np.ndarray
  loss: np.ndarray


@dataclasses.dataclass(frozen=True)
class Minimum:
  """The best N of a budget; `curvature` is that of the parabola over ln N (None: approach 1)."""
  flops: float
  parameters: float
  loss: float
  curvature: float | None = None


@dataclasses.dataclass(frozen=True)
class AllocationFit:
  """N = k C ^ exponent through minima.

  Attributes:
    law: the allocation; D = C / 6 N.
    minima: that it goes through.
    dropped: why each budget that was left out was.
    samples: laws of the resamples, one Allocation of arrays.
  """
  law: Allocation
  minima: tuple[Minimum, ...]
  dropped: tuple[str, ...]
  samples: Allocation

  def exponent_interval(self, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of the exponent of N over the resamples; that of D is 1 less it."""
    return percentiles(self.samples.exponent, level)

  def optimum(self, flops: float, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """'parameters', 'tokens' and 'ratio' (D / N) as (value, low, high)."""
    found = {}
    for name, of in (('parameters', lambda n, d: n), ('tokens', lambda n, d: d),
                     ('ratio', lambda n, d: d / n)):
      found[name] = (float(of(*self.law.optimum(flops))),
                     *percentiles(of(*self.samples.optimum(flops)), level))
    return found


def curves_of(runs: Runs) -> list[Curve]:
  """The points of each N (within 1 %) as one curve."""
  order = np.argsort(runs.parameters)
  cuts = np.flatnonzero(np.diff(np.log(runs.parameters[order])) > 0.01) + 1
  return [Curve(float(runs.parameters[i].mean()), runs.flops[i], runs.loss[i])
          for i in np.split(order, cuts)]


def envelope(curves: Sequence[Curve], samples: int = 1000, seed: int = 0) -> AllocationFit:
  """Approach 1: of 1,500 log-spaced FLOPs, the N whose curve has the lowest loss at each.

  A curve is read by linear interpolation in ln C, within its own ends. Where the smallest or the
  largest N whose curve is there is the best, a still better one may lie beyond, so these FLOPs are
  left out. A resample draws curves with replacement. Raises UserError if fewer than two N are left.
  """
  sizes = np.array([c.parameters for c in curves])
  if len(set(sizes)) < 4:
    raise UserError(f'{len(set(sizes))} different N: an envelope of training curves needs at least '
                    '4')
  ends = [(c.flops.min(), c.flops.max()) for c in curves]
  grid = np.geomspace(min(e[0] for e in ends), max(e[1] for e in ends), FLOP_VALUES)
  losses = np.stack([_read(curve, grid) for curve in curves])
  best, inside = _lowest(sizes, losses)
  if len(set(best[inside])) < 2:
    raise UserError(f'{len(set(best[inside]))} sizes between the smallest and the largest are ever '
                    'the best, and 2 are needed: add larger and smaller N')
  lowest = losses.min(0)
  minima = [Minimum(*map(float, row)) for row in zip(grid[inside], best[inside], lowest[inside])]
  rng = np.random.default_rng(seed)
  drawn = []
  for index in rng.integers(len(curves), size=(samples, len(curves))):
    some, kept = _lowest(sizes[index], losses[index])
    if len(set(some[kept])) > 1:
      drawn.append(_power_law(grid, some, kept))
  return AllocationFit(_power_law(grid, best, inside), tuple(minima), (),
                       _stacked(drawn, samples))


def _read(curve: Curve, grid: np.ndarray) -> np.ndarray:
  """Loss of a curve at FLOPs [points]; inf beyond its ends."""
  order = np.argsort(curve.flops)
  return np.interp(np.log(grid), np.log(curve.flops[order]), curve.loss[order], np.inf, np.inf)


def _lowest(sizes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(best size [points], whether smaller and larger ones were there) of losses [curves, points]."""
  best = sizes[losses.argmin(0)]
  there = np.isfinite(losses)
  least = np.where(there, sizes[:, None], np.inf).min(0)
  most = np.where(there, sizes[:, None], 0.0).max(0)
  return best, (least < best) & (best < most)


def parabolas(parameters: np.ndarray, flops: np.ndarray, loss: np.ndarray, samples: int = 1000,
              seed: int = 0) -> AllocationFit:
  """Approach 2: for each budget the vertex of a parabola of loss over ln N, and a law through them.

  Runs are of one budget if their C differ by less than 10 % from the next. A budget is left out,
  with a warning, if it has fewer than three N, no minimum, or its minimum beyond its N. A resample
  adds to the parabolas their residuals, drawn with replacement within all budgets.

  Args:
    parameters, flops, loss: of the runs, [runs] each.
    samples: how many resamples.
    seed: of the draws.

  Raises:
    UserError: if fewer than two budgets remain.
  """
  groups = budgets(flops)
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
  drawn = _redrawn(parameters, loss, fitted, minima, samples, np.random.default_rng(seed))
  law = _power_law(np.array([m.flops for m in minima]), np.array([m.parameters for m in minima]))
  return AllocationFit(law, tuple(minima), tuple(dropped), _stacked(drawn, samples))


def _redrawn(parameters, loss, fitted, minima, samples, rng) -> list[Allocation]:
  """Laws of resamples: residuals of all parabolas drawn again; at least two budgets with a minimum.
  """
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


def budgets(flops: np.ndarray) -> list[np.ndarray]:
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
    return f'the parabola bends down (curvature {q2:.2g}) and has no minimum'
  best = -q1 / (2 * q2)
  if not x.min() < best + middle < x.max():
    return (f'the minimum, N = {np.exp(best + middle):.3g}, lies beyond the N that were trained '
            f'({parameters.min():.3g} to {parameters.max():.3g})')
  return float(np.exp(best + middle)), float(q0 - q1 ** 2 / (4 * q2)), float(q2)


def _power_law(flops: np.ndarray, parameters: np.ndarray, kept: np.ndarray | slice = slice(None)
               ) -> Allocation:
  """Least squares of ln N over ln C, of the points that are kept."""
  c, n = np.log(flops[kept]), np.log(parameters[kept])
  off = c - c.mean()
  exponent = float(off @ n / (off @ off))
  return Allocation(float(np.exp(n.mean() - exponent * c.mean())), exponent)


def _stacked(drawn: Sequence[Allocation], samples: int) -> Allocation:
  """One Allocation of arrays; UserError if too many resamples had no law."""
  if len(drawn) < samples / 2:
    raise UserError(f'{samples - len(drawn)} of {samples} resamples have fewer than two minima: '
                    'the runs are too few or too noisy; add runs')
  return Allocation(np.array([law.coefficient for law in drawn]),
                    np.array([law.exponent for law in drawn]))
