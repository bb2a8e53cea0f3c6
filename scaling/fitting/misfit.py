"""Whether runs follow the law at all: a test for exponents that change with N or D.

A broken power law, or large models that are tuned worse than small ones, bends the log loss at some
N or D. The law absorbs most of a bend in its five parameters, so the residuals stay small while the
optimal N is off by a factor; what is left of them has the bend's pattern. The test takes, of bends
at several N and D, the one that explains the residuals best, allowing for noise that clusters
share, and compares the gain with that of simulated noise, so the choice among bends is counted.

P runs, M = P - 5 degrees of freedom, R shared fractions of the variance, K bends, S simulations.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from scaling.fitting import noise

REFUSED = 0.02     # level of the test below which a law is refused
# Above so many runs, whose small bends are significant, it is refused only if the bend explains
# so much of the variance of the residuals.
MANY, MATERIAL = 100, 0.3
DOUBTED = 0.25     # level below which its intervals cover both sides of the bend
_RARE, _FEW = 2e-4, 0.1   # probability of an outlier under the law; largest fraction of them
_BENDS = 4         # of N, and of D
_SIMULATIONS = 500
_FRACTIONS = np.append(0.0, 1 - np.geomspace(0.9, 1e-3, 12))


@dataclasses.dataclass(frozen=True)
class Misfit:
  """The bend that explains the residuals best.

  Attributes:
    p: of as large a gain from noise alone, where the law is true.
    explained: fraction of the variance of the residuals that the bend explains.
    quantity: 'N' or 'D', at which the exponent changes.
    at: the value of N or D there.
    change: of the exponent above it; positive: the loss falls faster.
    error: standard error of `change`.
    above, below: [P], the change of the log loss by a unit of `change`, as a correction of the runs
      above the bend, or of those below. The law cannot tell the two apart.
  """
  p: float
  explained: float
  quantity: str
  at: float
  change: float
  error: float
  above: np.ndarray
  below: np.ndarray

  @property
  def refused(self) -> bool:
    return self.p < REFUSED and (len(self.above) <= MANY or self.explained > MATERIAL)

  @property
  def doubted(self) -> bool:
    return self.p < DOUBTED

  def refusal(self, what: str) -> str:
    """Why runs that do not follow `what`, 'one law', are refused, with the cure."""
    return (f'the {len(self.above)} runs do not follow {what}: {self.describe()}: fit the runs of '
            'one side alone, or train those of the other again with rates tuned for them')

  def describe(self) -> str:
    """The finding in words."""
    return (f'the exponent of {self.quantity} changes by {self.change:+.2g} at {self.quantity} = '
            f'{self.at:.3g} (of runs that follow the law, {100 * self.p:.2g} % would seem to)')


def find_misfit(residuals: np.ndarray, jacobian: np.ndarray, log_n: np.ndarray, log_d: np.ndarray,
                clusters: np.ndarray) -> Misfit | None:
  """The bend of the residuals [P] of a fit with derivatives [P, 5]; None if none can be told.

  Args:
    residuals: of log loss.
    jacobian: of the log law by (ln A, ln B, ln E, alpha, beta).
    log_n, log_d: [P].
    clusters: [P], whose runs may share noise.
  """
  kept = _without_outliers(residuals, jacobian)
  clusters = np.unique(clusters[kept], return_inverse=True)[1]
  bends = _bends(jacobian, log_n, log_d)
  free, eigenvalues = _free_directions(jacobian[kept], clusters)
  above = np.stack([bend[2][kept] for bend in bends], 1)
  seen = free.T @ above
  told = np.linalg.norm(seen, axis=0) > 1e-4 * np.linalg.norm(above, axis=0)
  if free.shape[1] < 3 or not told.any():
    return None
  bends, seen = [bend for bend, some in zip(bends, told) if some], seen[:, told]
  observed = free.T @ noise.cut_outliers(residuals[kept], clusters)
  gain, best, coefficient, error = _gains(observed[None], seen, eigenvalues)
  quantity, at, up, down = bends[best[0]]
  null = noise.estimate_noise(residuals[kept], jacobian[kept], clusters)
  simulated, _ = null.simulate(np.random.default_rng(0), _SIMULATIONS)
  gains = _gains(simulated @ free, seen, eigenvalues)[0]
  p = (1 + int((gains >= gain[0]).sum())) / (1 + _SIMULATIONS)
  # The log loss falls by the change: the bends are those of the law's logarithm.
  explained = -math.expm1(-gain[0] / free.shape[1])
  return Misfit(p, explained, quantity, math.exp(at), -float(coefficient[0]), float(error[0]), up,
                down)


def _without_outliers(residuals: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
  """[P], the runs but for single ones that the law of the others excludes, worst first.

  An outlier is far by its deleted, studentised residual; a bend puts no single run far.
  """
  kept = np.ones(len(residuals), bool)
  for _ in range(math.ceil(_FEW * len(residuals))):
    basis = noise.orthonormal(jacobian[kept])
    free = kept.sum() - basis.shape[1] - 1
    if free < 2:
      break
    miss = residuals[kept] - basis @ (basis.T @ residuals[kept])
    room = np.maximum(1 - (basis ** 2).sum(1), 1e-9)
    others = np.maximum((miss ** 2).sum() - miss ** 2 / room, 1e-300) / free
    size = np.abs(miss) / np.sqrt(room * others)
    if not size.max() > stats.t.isf(_RARE, free):
      break
    kept[np.flatnonzero(kept)[size.argmax()]] = False
  return kept


def _bends(jacobian, log_n, log_d) -> list[tuple[str, float, np.ndarray, np.ndarray]]:
  """(quantity, its logarithm at the bend, directions of log loss above and below it)."""
  found = []
  for letter, x, term in (('N', log_n, jacobian[:, 0]), ('D', log_d, jacobian[:, 1])):
    distinct = np.unique(np.round(x, 2))
    for at in np.quantile(distinct, np.linspace(0, 1, _BENDS + 2)[1:-1]):
      found.append((letter, float(at), np.maximum(x - at, 0) * term,
                    np.maximum(at - x, 0) * term))
  return found


def _free_directions(jacobian, clusters) -> tuple[np.ndarray, np.ndarray]:
  """([P, M] orthonormal directions that the law cannot absorb, [M] shared variance of each)."""
  absorbed = noise.orthonormal(jacobian)
  free = np.linalg.svd(absorbed, full_matrices=True)[0][:, absorbed.shape[1]:]
  members = np.eye(clusters.max() + 1)[clusters].T @ free
  eigenvalues, vectors = np.linalg.eigh(members.T @ members)
  return free @ vectors, np.maximum(eigenvalues, 0.0)


def _gains(observed, seen, eigenvalues):
  """Of residuals [S, M] and bends [M, K]: (gain, best bend, its coefficient, its error), [S] each.

  The gain is that of -2 log likelihood, each side at its own best shared fraction.
  """
  count, freedom = observed.shape
  plain = np.full(count, np.inf)
  bent, best, coefficient, error = (np.full(count, np.inf), np.zeros(count, int),
                                    np.zeros(count), np.zeros(count))
  rows = np.arange(count)
  for fraction in _FRACTIONS:
    variance = fraction * eigenvalues + 1 - fraction
    whitened, columns = observed / np.sqrt(variance), seen / np.sqrt(variance)[:, None]
    lengths = np.linalg.norm(columns, axis=0)
    along = whitened @ (columns / lengths)
    total = (whitened ** 2).sum(1)
    left = np.maximum(total[:, None] - along ** 2, 1e-300)
    penalty = np.log(variance).sum()
    plain = np.minimum(plain, penalty + freedom * np.log(total + 1e-300))
    index = left.argmin(1)
    value = penalty + freedom * np.log(left[rows, index])
    better = value < bent
    bent = np.where(better, value, bent)
    best = np.where(better, index, best)
    coefficient = np.where(better, along[rows, index] / lengths[index], coefficient)
    error = np.where(better, np.sqrt(left[rows, index] / max(freedom - 1, 1)) / lengths[index],
                     error)
  return plain - bent, best, coefficient, error
