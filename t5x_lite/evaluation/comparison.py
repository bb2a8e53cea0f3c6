"""Two models on the same items: is their difference more than chance?

Errors are those of the mean of items that stand for a larger population of items, by the central
limit theorem (Miller 2024, 'Adding error bars to evals', arXiv 2411.00640). Items that share a
passage or a subject are alike: they are clusters, and the error is that of clusters.
"""

from collections.abc import Hashable, Sequence
import dataclasses
import math

import numpy as np
from scipy import stats

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.proportions import Interval, normal_quantile
from t5x_lite.evaluation.results import mean_of

LEVEL = 0.05   # a difference with a smaller p-value is called one
POWER = 0.8    # the probability of finding it, in `items_needed`


def mean_error(values: np.ndarray) -> float:
  """Standard error of the mean of independent items: sample sd / sqrt(n); nan of one item."""
  error = mean_of(values).error
  return math.nan if error is None else error


def clustered_error(values: np.ndarray, clusters: Sequence[Hashable]) -> float:
  """Standard error of the mean of items that are alike within a cluster (Miller 2024, eq. 4).

  sqrt(SE² + 1/n² Σ_c Σ_i Σ_{j≠i} (s_i - mean)(s_j - mean)), SE that of `mean_error`: equal to it
  where every cluster has one item. As any such error it is too small for a handful of clusters.

  Args:
    values: of the items, [n].
    clusters: the name of each item's cluster, n of them.

  Raises:
    UserError: there is one cluster only, of which nothing says how much clusters differ.
  """
  values = np.asarray(values, float)
  sums, _ = _cluster_sums(values - values.mean(), clusters)
  within = np.sum((values - values.mean()) ** 2)
  # The double sum over pairs is the square of each cluster's sum, less the squares of its items.
  squared = mean_error(values) ** 2 + (np.sum(sums ** 2) - within) / len(values) ** 2
  return math.sqrt(max(squared, 0.0))


def mcnemar(wins: int, losses: int) -> float:
  """Exact p-value of McNemar's test: items that one of two models alone has right, as coin flips.

  1 where there are none.
  """
  return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def bootstrap_interval(values: np.ndarray, clusters: Sequence[Hashable] | None = None,
                       level: float = 0.95, samples: int = 10_000, seed: int = 0) -> Interval:
  """Percentile interval of the mean of paired differences, drawn again with replacement.

  Items are drawn, or whole clusters: then each sample's mean is over the items it has.
  """
  values = np.asarray(values, float)
  if np.all(values == values[0]):   # every sample has the same mean
    return Interval(float(values[0]), float(values[0]))
  sums, sizes = (values, np.ones(len(values))) if clusters is None else _cluster_sums(
      values, clusters)
  found = stats.bootstrap(
      (sums, sizes), lambda total, size, axis: total.sum(axis) / size.sum(axis), paired=True,
      vectorized=True, confidence_level=level, n_resamples=samples, method='percentile',
      batch=max(2 ** 22 // len(sums), 1), random_state=np.random.default_rng(seed))
  return Interval(*map(float, found.confidence_interval))


def items_needed(difference: float, error: float, number: int) -> int | None:
  """Items on which a difference of this size would be found: at LEVEL, with probability POWER.

  n ((z_{0.975} + z_{0.8}) error / difference)²: the error falls as 1/sqrt(n) with more items like
  these. None where there is no difference to find; 6 at least, as six wins of six are the fewest
  that McNemar's test calls a difference.
  """
  if difference == 0:
    return None
  z = normal_quantile(1 - LEVEL) + float(stats.norm.ppf(POWER))
  return max(math.ceil(number * (z * error / difference) ** 2), 6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
  """The difference of two models on the same items, A less B.

  Attributes:
    number: of items.
    mean_a, mean_b: of each model over the items.
    error: standard error of the difference, of clusters where there are any.
    interval: of 95 %, by Student's t with a degree of freedom less than items or clusters.
    p_value: of no difference, by the same t.
    bootstrap: the percentile interval.
    clusters: how many; None where items are taken as independent.
    wins, losses: items that are higher for A, and for B.
    mcnemar: exact p-value for metrics of 0 and 1, None for others.
    needed: items that would settle a difference of this size; see `items_needed`.
  """
  number: int
  mean_a: float
  mean_b: float
  error: float
  interval: Interval
  p_value: float
  bootstrap: Interval
  clusters: int | None
  wins: int
  losses: int
  mcnemar: float | None
  needed: int | None

  @property
  def difference(self) -> float:
    return self.mean_a - self.mean_b

  @property
  def decisive_p(self) -> float:
    """McNemar's, which is exact, where it holds: 0 and 1, independent items; else that of t."""
    exact = self.mcnemar is not None and self.clusters is None
    return self.mcnemar if exact else self.p_value

  @property
  def differ(self) -> bool:
    """Whether the two can be told apart at LEVEL."""
    return self.decisive_p < LEVEL

  def verdict(self, a: str = 'A', b: str = 'B', scale: float = 100.0) -> str:
    """A sentence of who scores higher, or that nobody can tell; values times `scale`.

    'Scores higher' is not 'is better': of a loss the lower is.
    """
    size = (f'{scale * self.difference:+.3g}, 95 % interval {scale * self.interval.low:+.3g} to '
            f'{scale * self.interval.high:+.3g}, p = {self.decisive_p:.2g}')
    if self.differ:
      high, low = (a, b) if self.difference > 0 else (b, a)
      return f'{high} scores higher than {low} on these {self.number:,} items: {size}.'
    cure = ('they do not differ here' if self.needed is None else
            f'a difference of this size needs about {self.needed:,} items')
    return f'{a} and {b} cannot be told apart on these {self.number:,} items: {size}; {cure}.'


def compare(a: np.ndarray, b: np.ndarray, clusters: Sequence[Hashable] | None = None,
            samples: int = 10_000, seed: int = 0) -> PairedDifference:
  """What two models' values on the same items say of their difference.

  Args:
    a, b: a metric of each item, [n], in the same order.
    clusters: the name of each item's cluster; None if items are independent.
    samples, seed: of the bootstrap.

  Raises:
    UserError: values of unlike number, fewer than two items, or a single cluster.
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  if a.shape != b.shape or a.ndim != 1:
    raise UserError(f'{a.size} and {b.size} values are no pairs: give both models the same items')
  if len(a) < 2:
    raise UserError('a comparison needs two items at least: evaluate on more')
  if not np.isfinite(a - b).all():
    raise UserError(f'item {int(np.argmin(np.isfinite(a - b)))} (from 0) has a value that is not '
                    'finite: leave it out of both')
  difference = a - b
  number = None if clusters is None else len(set(clusters))
  error = mean_error(difference) if number is None else clustered_error(difference, clusters)
  interval, p_value = _student(difference.mean(), error, (number or len(a)) - 1)
  binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
  wins, losses = int(np.sum(a > b)), int(np.sum(a < b))
  return PairedDifference(
      number=len(a), mean_a=float(a.mean()), mean_b=float(b.mean()), error=error,
      interval=interval, p_value=p_value, clusters=number, wins=wins, losses=losses,
      bootstrap=bootstrap_interval(difference, clusters, samples=samples, seed=seed),
      mcnemar=mcnemar(wins, losses) if binary else None,
      needed=items_needed(float(difference.mean()), error, len(a)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedNoise:
  """Runs of A and of B that differ in their seeds, A less B.

  Attributes:
    difference: of the means over runs.
    sd_a, sd_b: sample standard deviation over the seeds of each; nan of one run.
    interval: of 95 %, by Welch's t over runs; nan if a side has one run.
    p_value: of no difference, by the same.
  """
  difference: float
  sd_a: float
  sd_b: float
  interval: Interval
  p_value: float

  def verdict(self, a: str = 'A', b: str = 'B', scale: float = 100.0) -> str:
    """A sentence that says whether the difference is more than the noise of seeds."""
    show = lambda x: 'unknown' if math.isnan(x) else f'{scale * x:.3g}'
    size = (f'{scale * self.difference:+.3g} between the means of runs, sd over seeds '
            f'{show(self.sd_a)} of {a} and {show(self.sd_b)} of {b}')
    if math.isnan(self.p_value):
      return f'Noise of seeds: {size}; a test needs two runs of each at least.'
    words = 'is more than' if self.p_value < LEVEL else 'cannot be told from'
    return (f'The difference {words} the noise of seeds: {size}, 95 % interval '
            f'{scale * self.interval.low:+.3g} to {scale * self.interval.high:+.3g}, '
            f'p = {self.p_value:.2g}.')


def seed_noise(a: Sequence[float], b: Sequence[float]) -> SeedNoise:
  """The difference of means of runs beside the spread of the runs of each side."""
  if not len(a) or not len(b):
    raise UserError('each side needs a run at least')
  spread = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
  interval, p_value = Interval(math.nan, math.nan), math.nan
  difference, sd_a, sd_b = float(np.mean(a) - np.mean(b)), spread(a), spread(b)
  if len(a) > 1 and len(b) > 1:
    if sd_a == sd_b == 0:
      interval, p_value = _student(difference, 0.0, len(a) + len(b) - 2)
    else:
      test = stats.ttest_ind(a, b, equal_var=False)
      interval, p_value = Interval(*map(float, test.confidence_interval())), float(test.pvalue)
  return SeedNoise(difference=difference, sd_a=sd_a, sd_b=sd_b, interval=interval, p_value=p_value)


def _student(mean: float, error: float, freedom: int) -> tuple[Interval, float]:
  """Two-sided interval of level 1 - LEVEL, and p-value of mean 0.

  An error of 0 says that all differ by the same: p is then that of the signs alone.
  """
  half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
  if error == 0:
    p_value = 1.0 if mean == 0 else 0.5 ** freedom
  else:
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
  return Interval(float(mean - half), float(mean + half)), p_value


def _cluster_sums(values: np.ndarray, clusters: Sequence[Hashable]
                  ) -> tuple[np.ndarray, np.ndarray]:
  """(sum of the values, number of items) of each cluster."""
  if len(clusters) != len(values):
    raise UserError(f'{len(clusters)} names of clusters of {len(values)} items: name one for each')
  index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
  if len(index) < 2:
    raise UserError('all items are one cluster, which says nothing of how clusters differ: '
                    'compare on several, or leave clusters out')
  places = [index[name] for name in clusters]
  return np.bincount(places, weights=values), np.bincount(places).astype(float)
