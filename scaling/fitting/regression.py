"""A robust fit of any smooth function of a few parameters, and refits to simulated noise.

Least squares, or the Huber loss of residuals (quadratic up to `delta`, linear above), by
`scipy.optimize.least_squares` from many starts. Residuals are divided by `delta`, so that a
tolerance means the same for every scale.

K parameters, P observations, S samples.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import Literal

import numpy as np
from scipy import optimize

from scaling.fitting.noise import Noise, estimate_noise

DELTA = 1e-3   # of the Huber loss of log losses, as Hoffmann et al. 2022 have it
Loss = Literal['huber', 'linear']
# Relative decrease at which descents end: from all starts, and from the best of their minima.
_COARSE, _FINE = 1e-6, 1e-12
_POLISHED = 6       # minima that descend further
_MAX_MOVE = 1.0     # of a parameter from the optimum to a perturbed start
_CLOSE = 1e-6       # relative difference of objectives up to which minima are one


@dataclasses.dataclass(frozen=True)
class Regression:
  """A fit and what it was fitted to.

  Attributes:
    theta: [K], at the lowest objective over all starts.
    objective: sum of the loss over the observations, over delta^2.
    predict: theta [K] -> values [P].
    y: [P], observed.
    loss: 'huber', or 'linear' for least squares.
    delta: of the Huber loss.
    jacobian_of: theta [K] -> [P, K], or '2-point' for finite differences.
    bounds: (low, high), [K] or scalars.
    minima: [F, K + 1], the distinct minima found, each (objective, theta), the lowest first.
  """
  theta: np.ndarray
  objective: float
  predict: Callable[[np.ndarray], np.ndarray]
  y: np.ndarray
  loss: Loss
  delta: float
  jacobian_of: Callable[[np.ndarray], np.ndarray] | Literal['2-point', '3-point']
  bounds: tuple
  minima: np.ndarray

  @functools.cached_property
  def residuals(self) -> np.ndarray:
    """y less the prediction, [P]."""
    return self.y - self.predict(self.theta)

  @functools.cached_property
  def jacobian(self) -> np.ndarray:
    """Derivatives [P, K] of the prediction at the optimum."""
    if callable(self.jacobian_of):
      return np.asarray(self.jacobian_of(self.theta))
    columns = []
    for i, value in enumerate(self.theta):
      step = np.zeros_like(self.theta)
      step[i] = 1e-5 * max(abs(value), 1e-2)
      high, low = np.clip(self.theta + step, *self.bounds), np.clip(self.theta - step, *self.bounds)
      columns.append((self.predict(high) - self.predict(low)) / (high[i] - low[i]))
    return np.stack(columns, 1)

  @property
  def scale(self) -> float:
    """1.4826 times the median of the absolute residuals, without the K smallest; nan if P <= K.

    A robust fit passes through up to K observations, whose zeros carry no information.
    """
    size = np.sort(np.abs(self.residuals))[len(self.theta):]
    return 1.4826 * float(np.median(size)) if len(size) else math.nan

  @property
  def standard_errors(self) -> np.ndarray:
    """[K], of the delta method with independent noise of the robust scale."""
    return np.linalg.norm(np.linalg.pinv(self.jacobian, rcond=1e-14), axis=1) * self.scale

  @property
  def condition(self) -> float:
    """Condition number of J^T J with columns of length 1; inf if the optimum is a valley."""
    lengths = np.linalg.norm(self.jacobian, axis=0)
    if not (lengths > 0).all():
      return math.inf
    return float(np.linalg.cond(self.jacobian / lengths) ** 2)

  def noise(self, clusters: np.ndarray) -> Noise:
    """Noise that the observations of a cluster [P] share, and each one's own."""
    return estimate_noise(self.residuals, self.jacobian, clusters)


@dataclasses.dataclass(frozen=True)
class Samples:
  """Refits to the optimum plus simulated noise.

  Attributes:
    theta: [S, K].
    noise: [S], the deviation of one new observation of a new cluster.
    model: of the noise.
  """
  theta: np.ndarray
  noise: np.ndarray
  model: Noise


def fit(predict: Callable[[np.ndarray], np.ndarray], starts: Sequence[np.ndarray], y: np.ndarray, *,
        loss: Loss = 'huber', delta: float = DELTA,
        jacobian: Callable[[np.ndarray], np.ndarray] | Literal['2-point', '3-point'] = '2-point',
        bounds: tuple = (-np.inf, np.inf)) -> Regression:
  """The lowest minimum over all starts.

  Args:
    predict: theta [K] -> values [P], finite near the starts.
    starts: [F, K]; those outside the bounds are moved inside.
    y: [P].
    loss: 'huber', or 'linear' for least squares.
    delta: residual above which the Huber loss is linear.
    jacobian: theta [K] -> [P, K], or finite differences.
    bounds: (low, high), each [K] or a scalar.

  Raises:
    ValueError: no start has finite predictions.
  """
  y = np.asarray(y, np.float64)
  descend = lambda points, tolerance: sorted(
      (minimum for point in points if (minimum := _minimise(
          predict, point, y, loss, delta, jacobian, bounds, tolerance)) is not None),
      key=lambda minimum: minimum[0])
  coarse = descend(np.atleast_2d(np.asarray(starts, np.float64)), _COARSE)
  if not coarse:
    raise ValueError('no start has finite predictions')
  found = descend([point for _, point in coarse[:_POLISHED]], _FINE)
  distinct = [found[0]]
  for minimum in found[1:]:
    if minimum[0] > distinct[-1][0] * (1 + _CLOSE):
      distinct.append(minimum)
  objective, theta = found[0]
  return Regression(theta, objective, predict, y, loss, delta, jacobian, bounds,
                    np.array([[value, *point] for value, point in distinct]))


def refit(found: Regression, clusters: np.ndarray, count: int, seed: int = 0, restarts: int = 1,
          shifts: Callable[[np.random.Generator], np.ndarray] | None = None) -> Samples:
  """Refits to `count` draws of noise about the optimum, of deviations from their posterior.

  Each starts at the optimum, and at `restarts` points perturbed by about two standard errors.

  Args:
    clusters: [P] of int from 0, whose observations may share noise (see `noise.py`).
    shifts: draws what is added to the noise, [S, P].
  """
  rng = np.random.default_rng(seed)
  model = found.noise(clusters)
  noisy, new = model.simulate(rng, count)
  if shifts is not None:
    noisy = noisy + shifts(rng)
  centre = found.predict(found.theta)
  samples = [_refit_quickly(found, centre + row, perturbed(found, rng, restarts))
             for row in noisy]
  return Samples(np.array(samples), new, model)


def refit_to(found: Regression, y: np.ndarray, starts: np.ndarray | None = None) -> Regression:
  """The same function fitted to other observations [P], from the optimum and other starts."""
  points = found.theta[None] if starts is None else np.concatenate([found.theta[None], starts])
  return fit(found.predict, points, y, loss=found.loss, delta=found.delta,
             jacobian=found.jacobian_of, bounds=found.bounds)


def _refit_quickly(found: Regression, y: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """theta of the lowest minimum, to the tolerance that percentiles need."""
  minima = [_minimise(found.predict, start, y, found.loss, found.delta, found.jacobian_of,
                      found.bounds, _COARSE) for start in (found.theta, *starts)]
  return min((m for m in minima if m is not None), key=lambda m: m[0])[1]


def perturbed(found: Regression, rng: np.random.Generator, count: int) -> np.ndarray:
  """Starts [count, K] about the optimum: draws of twice the error that the Jacobian gives."""
  root = np.linalg.pinv(found.jacobian, rcond=1e-10)   # [K, P], a root of (J^T J)^-1
  scale = 2 * found.scale if math.isfinite(found.scale) else found.delta
  moves = (root @ rng.standard_normal((len(found.y), count))).T * scale
  size = np.abs(moves).max(1, keepdims=True)
  moves = moves * np.minimum(1.0, _MAX_MOVE / np.maximum(size, 1e-300))
  return np.clip(found.theta + moves, *found.bounds)


def fix(found: Regression, index: int, value: float, y: np.ndarray | None = None) -> float:
  """The lowest objective with one parameter held at a value, from all known minima."""
  kept = np.arange(len(found.theta)) != index
  place = lambda free: np.insert(free, index, value)
  cut = lambda bound: bound if np.ndim(bound) == 0 else np.asarray(bound)[kept]
  starts = found.minima[:4, 1:][:, kept]
  jacobian = found.jacobian_of
  held = fit(lambda free: found.predict(place(free)), starts, found.y if y is None else y,
             loss=found.loss, delta=found.delta,
             jacobian=(lambda free: jacobian(place(free))[:, kept]) if callable(jacobian)
             else jacobian, bounds=tuple(map(cut, found.bounds)))
  return held.objective


def _minimise(predict, start, y, loss, delta, jacobian, bounds, tolerance
              ) -> tuple[float, np.ndarray] | None:
  """(objective, theta) of the local minimum from a start; None if nothing is finite there."""
  low, high = (np.broadcast_to(np.asarray(bound, float), start.shape) for bound in bounds)
  start = np.clip(start, low, high)
  with np.errstate(over='ignore', invalid='ignore', divide='ignore'):
    if not np.isfinite(predict(start)).all():
      return None
    scaled = (lambda theta: jacobian(theta) / delta) if callable(jacobian) else jacobian
    found = optimize.least_squares(
        lambda theta: (predict(theta) - y) / delta, start, jac=scaled, bounds=(low, high),
        loss=loss, x_scale='jac', ftol=tolerance, xtol=tolerance, gtol=tolerance, max_nfev=300)
  return float(found.cost), found.x
