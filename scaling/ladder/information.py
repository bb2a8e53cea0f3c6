"""How well runs determine what a law predicts, before they are trained: the delta method.

A run's log loss is the law's plus noise of its own, plus noise that all runs of one cluster (a
trunk, or a size) share. With J the derivatives of the log law by theta = (ln A, ln B, ln E, alpha,
beta) and R the covariance of the noise, the runs have the information J^T R^-1 J, and a quantity
of gradient g has the variance g^T (J^T R^-1 J)^-1 g.

P runs.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import stats

from scaling.fitting import solver
from scaling.laws.laws import ParametricLaw

OWN_NOISE = 0.003    # standard deviation of log loss: of one run, where nothing else is known
_SINGULAR = 1e12     # condition number of scaled information above which a theta is not identified


@dataclasses.dataclass(frozen=True)
class Noise:
  """Standard deviations of log loss: of each run alone, and shared by the runs of a cluster."""
  own: float = OWN_NOISE
  shared: float = 0.0

  def covariance(self, clusters: np.ndarray) -> np.ndarray:
    """[P, P] of runs in these clusters [P]."""
    return self.own ** 2 * np.eye(len(clusters)) + self.shared ** 2 * (
        clusters[:, None] == clusters[None])


def theta_of(law: ParametricLaw) -> np.ndarray:
  """(ln A, ln B, ln E, alpha, beta) of a law."""
  return np.array([math.log(law.a), math.log(law.b), math.log(law.e), law.alpha, law.beta])


def information(law: ParametricLaw, parameters: Sequence[float], tokens: Sequence[float],
                clusters: Sequence, noise: Noise) -> np.ndarray:
  """J^T R^-1 J [5, 5] of runs, about this law."""
  jacobian = solver.jacobian(theta_of(law), np.log(parameters), np.log(tokens))
  index = np.unique(np.asarray(clusters), return_inverse=True)[1]
  return jacobian.T @ np.linalg.solve(noise.covariance(index), jacobian)


def loss_gradient(law: ParametricLaw, parameters: float, tokens: float) -> np.ndarray:
  """Of the log loss at N and D, by theta [5]."""
  return solver.jacobian(theta_of(law), np.log([parameters]), np.log([tokens]))[0]


def size_gradient(law: ParametricLaw, flops: float) -> np.ndarray:
  """Of the log of the optimal N of a budget, by theta [5]."""
  total = law.alpha + law.beta
  log_n = math.log(law.optimum(flops)[0])
  return np.array([1, -1, 0, 1 / law.alpha - log_n,
                   math.log(flops / 6) - 1 / law.beta - log_n]) / total


def variance(found: np.ndarray, gradient: np.ndarray) -> float:
  """g^T M^-1 g of an information M; inf if it is singular."""
  scale = np.sqrt(np.diag(found))
  if not (scale > 0).all():
    return math.inf
  scaled = found / np.outer(scale, scale)
  if not np.linalg.cond(scaled) < _SINGULAR:
    return math.inf
  half = gradient / scale
  return float(half @ np.linalg.solve(scaled, half))


@dataclasses.dataclass(frozen=True)
class Precision:
  """The expected interval of a target: half widths of ln N* and of its log loss."""
  size: float
  loss: float
  level: float

  @property
  def size_factor(self) -> float:
    """N* is known to this factor, up and down."""
    return math.exp(min(self.size, 700.0))


def expected_precision(law: ParametricLaw, parameters: Sequence[float], tokens: Sequence[float],
                       clusters: Sequence, flops: float, noise: float = OWN_NOISE,
                       level: float = 0.95) -> Precision:
  """The precision for a budget, if these runs are fitted and the law is true.

  The noise is independent, or shared by the runs of a cluster except for a sixth, whichever tells
  less. Quantiles are Student's with P - 5 degrees of freedom, and without limit at P <= 5.
  """
  free = len(parameters) - 5
  quantile = stats.t.isf((1 - level) / 2, free) if free > 0 else math.inf
  gradients = size_gradient(law, flops), loss_gradient(law, *law.optimum(flops))
  half = [0.0, 0.0]
  for each in (Noise(noise, 0.0), Noise(noise / 6, noise)):
    found = information(law, parameters, tokens, clusters, each)
    half = [max(h, quantile * math.sqrt(variance(found, g))) for h, g in zip(half, gradients)]
  return Precision(half[0], half[1], level)
