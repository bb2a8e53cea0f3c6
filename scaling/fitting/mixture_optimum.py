"""The mixture of the lowest loss among those that a swarm surrounds, with its interval.

The optimum is a mixture of the swarm's own mixtures (its convex hull), and no share exceeds its
limit. It is found by exponentiated gradient steps on the weights of that mixture, for all samples
of the fit at once.

S samples, P proxies, J sources.
"""

import dataclasses

import numpy as np
from scipy import optimize

from scaling.fitting.mixture import MixtureFit
from t5x_lite.core.errors import UserError

_STEPS = 250                          # at each strength of the penalty
_PENALTIES = (1.0, 10.0, 100.0, 1e3)   # of a share above its limit, in units of the loss's spread
_INSIDE = 1e-3                        # distance of a mixture of the swarm's that is rounding


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The best mixture.

  Attributes:
    shares: [J].
    samples: [S, J], of the samples of the fit.
    loss: (value, low, high), corrected for having been chosen as the lowest.
    natural: (value, low, high) of the loss at the natural shares; None without them.
    gain: (value, low, high) of the natural loss less that of the optimum.
  """
  shares: np.ndarray
  samples: np.ndarray
  loss: tuple[float, float, float]
  natural: tuple[float, float, float] | None
  gain: tuple[float, float, float] | None

  def interval(self, level: float) -> np.ndarray:
    """[2, J]: the central interval of each share."""
    return np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)


def find_optimum(fit: MixtureFit, limits: np.ndarray, natural: np.ndarray | None = None,
                 level: float = 0.95) -> Optimum:
  """The optimum within limits [J] of the shares; UserError if no mixture of the swarm's is."""
  anchor = _feasible(fit, limits)
  theta = np.concatenate([fit.theta[None], fit.samples])
  found = _minimise(fit, theta, limits, anchor)
  best, samples = found[0], found[1:]
  # By how much the loss at an optimum is misjudged: the fit is the truth of its samples.
  bias = fit.loss(samples) - fit.loss(samples, fit.samples)
  ends = [(1 - level) / 2, (1 + level) / 2]
  about = lambda value, off: (float(value + off.mean()),
                              *map(float, value + np.quantile(off, ends)))
  value, of_natural, gain = fit.loss(best), None, None
  if natural is not None:
    there = fit.loss(natural)
    off = fit.loss(natural[None], fit.samples) - there
    of_natural = (float(there), *map(float, there + np.quantile(off, ends)))
    gain = about(there - value, -off - bias)
  return Optimum(best, samples, about(value, bias), of_natural, gain)


def distance_from_swarm(fit: MixtureFit, shares: np.ndarray) -> float:
  """How far shares [J] are from the nearest mixture of the swarm's."""
  rows = np.concatenate([fit.swarm.shares.T, np.full((1, len(fit.swarm)), 10.0)])
  weights, _ = optimize.nnls(rows, np.append(shares, 10.0))
  weights = weights / weights.sum()
  distance = float(np.linalg.norm(weights @ fit.swarm.shares - shares))
  return distance if distance > _INSIDE else 0.0


def _feasible(fit: MixtureFit, limits: np.ndarray) -> np.ndarray:
  """A mixture [J] of the swarm's that is as far below the limits as any."""
  shares = fit.swarm.shares
  count, size = shares.shape
  bound = np.append(np.zeros(count), -1.0)
  rows = np.concatenate([shares.T, np.ones((size, 1))], 1)   # r_j + slack <= limit
  found = optimize.linprog(bound, A_ub=rows, b_ub=limits,
                           A_eq=[np.append(np.ones(count), 0.0)], b_eq=[1.0],
                           bounds=[(0, None)] * count + [(None, 1.0)])
  if not found.success or found.x[-1] < -1e-9:
    lowest = ', '.join(f'{name} {low:.3g}' for name, low in
                       zip(fit.swarm.sources, shares.min(0)))
    raise UserError('no mixture of what was swept is within the limits (the lowest shares swept: '
                    f'{lowest}): add proxies with lower shares of what is limited')
  return found.x[:-1] @ shares


def _minimise(fit: MixtureFit, theta: np.ndarray, limits: np.ndarray, anchor: np.ndarray
              ) -> np.ndarray:
  """The optimum [S, J] of each theta [S, V, K]: of two starts the lower."""
  shares = fit.swarm.shares
  lowest = np.full(len(shares), 0.2 / len(shares))
  lowest[(fit.loss(shares) + 1e3 * np.maximum(shares - limits, 0).sum(1)).argmin()] += 0.8
  results = []
  for start in (np.full(len(shares), 1 / len(shares)), lowest):
    mixed = _descend(fit, theta, limits, np.tile(start, (len(theta), 1)))
    results.append(_pull(mixed, limits, anchor))
  losses = np.stack([fit.loss(found, theta) for found in results])
  return np.where((losses[0] <= losses[1])[:, None], *results)


def _descend(fit: MixtureFit, theta: np.ndarray, limits: np.ndarray, weights: np.ndarray
             ) -> np.ndarray:
  """Shares [S, J] after exponentiated gradient steps on weights [S, P], each of its own length."""
  shares = fit.swarm.shares
  spread = max(np.ptp(fit.loss(shares)), 1e-12)
  for penalty in (_PENALTIES if (limits < shares.max(0)).any() else _PENALTIES[:1]):
    def value(weights):
      mixed = weights @ shares
      over = np.maximum(mixed - limits, 0)
      return fit.loss(mixed, theta) + penalty * spread * (over ** 2).sum(-1)
    now, step = value(weights), np.full(len(theta), 1 / spread)
    for _ in range(_STEPS):
      mixed = weights @ shares
      slope = (fit.slope(mixed, theta)
               + 2 * penalty * spread * np.maximum(mixed - limits, 0)) @ shares.T
      slope -= slope.min(1, keepdims=True)
      moved = weights * np.exp(-np.minimum(step[:, None] * slope, 50.0))
      moved /= moved.sum(1, keepdims=True)
      then = value(moved)
      better = then <= now
      weights = np.where(better[:, None], moved, weights)
      now = np.where(better, then, now)
      step *= np.where(better, 1.5, 0.3)
  return weights @ shares


def _pull(mixed: np.ndarray, limits: np.ndarray, anchor: np.ndarray) -> np.ndarray:
  """Mixtures [S, J], those above a limit moved toward a feasible one until they are not."""
  over, room = mixed - limits, mixed - anchor
  parts = np.where(over > 0, over / np.maximum(room, 1e-12), 0.0)
  part = np.clip(parts.max(1, keepdims=True), 0, 1)
  return mixed + part * (anchor - mixed)
