"""The noise of runs, of which a part may be shared by the runs of a cluster.

Runs of one size, or branches of one trunk, share initialisation and data order: their log losses
are off by one draw of standard deviation `shared` for each cluster, and by one of `own` for each
run. Both are estimated from the residuals of a fit, less what the parameters of the law absorb of
them (restricted likelihood: Patterson & Thompson 1971).

P runs, G clusters, M = P - 5 degrees of freedom, R shared fractions of the variance.
"""

import dataclasses

import numpy as np

# Shared fractions of the variance, up to shared noise of 30 times the own, and their prior: even in
# the log of the own fraction, for which intervals of a mean are Student's, and a tenth for none.
FRACTIONS = np.append(0.0, 1 - np.geomspace(0.995, 1e-3, 160))
_PRIOR = np.append(0.1, np.full(160, 0.9 / 160))
_CLIP = 4.0          # robust standard deviations at which outliers are cut
_ABSORBED = 3        # parameters of the law that clusters of one size can set
_DISTINCT = 3.0      # ratio of likelihoods from which fractions are told apart


@dataclasses.dataclass(frozen=True)
class Noise:
  """Shared and own noise of the log loss, as a posterior on a grid.

  Attributes:
    clusters: [P], of each run.
    weights: [R], the posterior of each of FRACTIONS.
    scales: [R], the sum of squares over the variances, given each fraction.
    freedom: M.
    identified: whether the residuals tell shared from own noise; if not, the prior speaks.
  """
  clusters: np.ndarray
  weights: np.ndarray
  scales: np.ndarray
  freedom: int
  identified: bool

  @property
  def estimate(self) -> tuple[float, float]:
    """(shared, own): posterior medians of the standard deviations of log loss.

    Where no cluster has two runs, all of the noise counts as own.
    """
    shared, own = self.draw(np.random.default_rng(0), 4000)
    if self.clusters.max() + 1 == len(self.clusters):
      shared, own = np.zeros_like(own), np.hypot(shared, own)
    return float(np.median(shared)), float(np.median(own))

  def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior draws of the standard deviations: (shared [count], own [count])."""
    index = rng.choice(len(FRACTIONS), count, p=self.weights)
    variance = self.scales[index] / rng.chisquare(self.freedom, count)
    fraction = FRACTIONS[index]
    return np.sqrt(fraction * variance), np.sqrt((1 - fraction) * variance)

  def simulate(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(noise of the runs [count, P], noise of a new run of a new cluster [count]) of draws."""
    shared, own = self.draw(rng, count)
    of_cluster = rng.standard_normal((count, self.clusters.max() + 1))[:, self.clusters]
    runs = (shared[:, None] * of_cluster
            + own[:, None] * rng.standard_normal((count, len(self.clusters))))
    return runs, np.hypot(shared, own) * rng.standard_normal(count)

  def describe(self) -> str:
    """The estimate in words."""
    count = self.clusters.max() + 1
    shared, own = self.estimate
    if count == len(self.clusters):
      return (f'noise of {percent(own)} a run (no cluster has two runs, so noise that they would '
              'share is part of it)')
    text = f'{percent(shared)} shared by the runs of each of {count} clusters and {percent(own)}'
    return f'noise of {text} a run' + (
        '' if self.identified else ' (too few clusters to tell the two apart: a wide prior)')


def percent(deviation: float) -> str:
  """A standard deviation of log loss in percent of the loss."""
  return f'{100 * deviation:.2g} %'


def estimate_noise(residuals: np.ndarray, jacobian: np.ndarray, clusters: np.ndarray) -> Noise:
  """The noise of residuals [P] of a fit with derivatives [P, 5] by its parameters.

  Outliers, which a robust fit ignores, are cut at four robust standard deviations.
  """
  residuals = cut_outliers(residuals, clusters)
  absorbed = orthonormal(jacobian)
  project = lambda x: x - absorbed @ (absorbed.T @ x)
  members = project(np.eye(clusters.max() + 1)[clusters])   # [P, G]
  vectors, lengths, _ = np.linalg.svd(members, full_matrices=False)
  vectors = vectors[:, lengths > 1e-6]
  eigenvalues = lengths[lengths > 1e-6] ** 2
  squares = (vectors.T @ residuals) ** 2
  freedom = len(residuals) - absorbed.shape[1]
  within, left = freedom - len(squares), max((project(residuals) ** 2).sum() - squares.sum(), 0.0)
  own = 1 - FRACTIONS
  variances = FRACTIONS[:, None] * eigenvalues + own[:, None]   # [R, G]
  scales = (squares / variances).sum(1) + left / own
  log_likelihood = -0.5 * (np.log(variances).sum(1) + within * np.log(own)
                           + freedom * np.log(scales + 1e-300))
  weights = np.exp(log_likelihood - log_likelihood.max())
  identified = bool(weights.max() > _DISTINCT * weights[-1])
  weights = weights * _PRIOR
  return Noise(clusters, weights / weights.sum(), scales, freedom, identified)


def orthonormal(columns: np.ndarray) -> np.ndarray:
  """An orthonormal basis [P, rank] of columns [P, K] of any lengths."""
  lengths = np.linalg.norm(columns, axis=0)
  vectors, singular, _ = np.linalg.svd(columns / np.where(lengths > 0, lengths, 1.0),
                                       full_matrices=False)
  return vectors[:, singular > 1e-9 * singular[0]]


def cut_outliers(residuals: np.ndarray, clusters: np.ndarray) -> np.ndarray:
  """Residuals whose outliers are cut: clusters among clusters, and runs among those of theirs.

  A robust fit passes through most runs even where whole clusters are off, so a scale over all runs
  would take those for outliers.
  """
  middles = np.array([np.median(residuals[clusters == k]) for k in range(clusters.max() + 1)])
  own = residuals - middles[clusters]
  cut = lambda x, skipped: np.clip(x, -_limit(x, skipped), _limit(x, skipped))
  return cut(middles, _ABSORBED)[clusters] + cut(own, int((own == 0).sum()))


def _limit(values: np.ndarray, skipped: int) -> float:
  size = np.sort(np.abs(values))[min(skipped, len(values) - 1):]
  return _CLIP * 1.4826 * float(np.median(size)) if size[-1] > 0 else 0.0
