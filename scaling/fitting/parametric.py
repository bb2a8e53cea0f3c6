"""The law L = E + A / N^alpha + B / D^beta fitted to runs: Hoffmann et al. 2022, approach 3.

Residuals are those of log L. Intervals are percentiles over laws refitted to resampled runs.
"""

from collections.abc import Iterable
import dataclasses
import functools
import json
import math
import pathlib
from typing import Literal

import numpy as np

from scaling.fitting import solver
from scaling.fitting.misfit import Misfit, find_misfit
from scaling.fitting.noise import Noise, estimate_noise
from scaling.fitting.runs import Runs, check_settings, check_unique, check_varied
from scaling.laws.laws import Allocation, Law, ParametricLaw
from t5x_lite.core.errors import UserError, why
from t5x_lite.core.paths import local_path

Loss = Literal['huber', 'lad', 'normal']
PARAMETERS = ('e', 'a', 'alpha', 'b', 'beta')
Resample = Literal['clusters', 'noise', 'runs', 'posterior']
MIN_CLUSTERS_RESAMPLED = 40   # number of clusters from which they are resampled, not the noise
_RESTARTS = 3        # perturbed starts of every resample, beside the optimum
_BOUNDS = 0.01, 5.0  # exponents of a law that is identified
_VANISHED = 1e-6     # fraction of the loss below which a term is zero
STRAIGHT = 0.1       # spread about their line in (ln N, ln D) below which runs are collinear


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted law, its runs, and its uncertainty.

  Attributes:
    law: L(N, D).
    runs: that it is fitted to.
    loss: 'huber' (delta 1e-3), 'lad', least absolute deviations, or 'normal', squares.
    objective: its sum over the runs at the optimum (Huber: over delta^2).
    resampled: 'clusters', 'noise', 'runs' or 'posterior'; None before `bootstrap`.
    bootstrap_samples: laws of the resamples, one ParametricLaw of arrays [samples]; None before
      `bootstrap`.
    noise: [samples], the deviation of the log loss of a new run from each of these laws.
  """
  law: ParametricLaw
  runs: Runs
  loss: Loss
  objective: float
  resampled: Resample | None = None
  bootstrap_samples: ParametricLaw | None = None
  noise: np.ndarray | None = None

  @property
  def residuals(self) -> np.ndarray:
    """log loss of each run less the law's, [runs]."""
    return np.log(self.runs.loss) - np.log(self.law.loss(self.runs.parameters, self.runs.tokens))

  @property
  def scale(self) -> float:
    """Standard deviation of the residuals, robustly: see `robust_scale`."""
    return robust_scale(self.residuals)

  @property
  def theta(self) -> np.ndarray:
    """(ln A, ln B, ln E, alpha, beta), as in solver.py."""
    law = self.law
    return np.array([math.log(law.a), math.log(law.b), math.log(law.e), law.alpha, law.beta])

  @functools.cached_property
  def noise_model(self) -> Noise:
    """Noise that the runs of a cluster share, and each run's own."""
    n, d, _ = _logs(self.runs)
    return estimate_noise(self.residuals, solver.jacobian(self.theta, n, d), self.runs.clusters)

  @functools.cached_property
  def misfit(self) -> Misfit | None:
    """The test of whether the runs follow the law; None if they are too few or too alike."""
    n, d, _ = _logs(self.runs)
    return find_misfit(self.residuals, solver.jacobian(self.theta, n, d), n, d, self.runs.clusters)

  @property
  def resampling(self) -> str:
    """How the intervals were made, and the noise that they assume, in words."""
    units = {'noise': 'the law plus simulated noise', 'runs': 'runs drawn with replacement',
             'clusters': f'{self.noise_model.clusters.max() + 1} clusters drawn with replacement'}
    return (f'percentiles of {len(self.noise)} refits to {units[self.resampled]}; '
            f'{self.noise_model.describe()}')

  def standard_errors(self) -> dict[str, float]:
    """Standard deviations of e, a, alpha, b, beta over the samples that are not `degenerate`."""
    samples, kept = self._resampled(), ~self.degenerate
    return {name: float(np.std(getattr(samples, name)[kept], ddof=1)) for name in PARAMETERS}

  @property
  def degenerate(self) -> np.ndarray:
    """Which samples [samples] do not identify a law: an exponent is at a bound."""
    samples = self._resampled()
    return _at_bound(samples.alpha) | _at_bound(samples.beta)

  def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile intervals of e, a, alpha, b and beta."""
    samples = self._resampled()
    return {name: percentiles(getattr(samples, name), level) for name in PARAMETERS}

  def optimum(self, flops: float, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """'parameters', 'tokens', 'ratio' (D / N) and 'loss' of a budget, as (value, low, high).

    `loss` is the law's at the optimum, without the noise of a run (see `predict_loss`). Samples
    without an optimum are left out (see `with_optimum`).
    """
    samples = self.with_optimum()

    def quantities(law):
      n, d = law.optimum(flops)
      return {'parameters': n, 'tokens': d, 'ratio': d / n, 'loss': law.loss(n, d)}

    sampled = quantities(samples)
    return {name: (float(value), *percentiles(sampled[name], level))
            for name, value in quantities(self.law).items()}

  def with_optimum(self) -> ParametricLaw:
    """The samples whose exponents are positive: the others have no best N.

    They are among the `degenerate` ones, of which the report warns.
    """
    samples = self._resampled()
    kept = (samples.alpha > 0) & (samples.beta > 0)
    return ParametricLaw(*(getattr(samples, name)[kept] for name in PARAMETERS))

  def predict_loss(self, parameters: float, tokens: float, level: float = 0.95
              ) -> tuple[float, float, float]:
    """Loss of one new run: (law's, low, high) with a prediction interval.

    The interval is of percentiles over the samples of the law's loss times exp(noise): it covers
    the uncertainty of the law and the noise of a single run.
    """
    with np.errstate(over='ignore'):   # of degenerate samples, of which the report warns
      sampled = self._resampled().loss(parameters, tokens) * np.exp(self.noise)
    return float(self.law.loss(parameters, tokens)), *percentiles(sampled, level)

  def _resampled(self) -> ParametricLaw:
    if self.bootstrap_samples is None:
      raise ValueError('call bootstrap(fit) first: intervals need its samples')
    return self.bootstrap_samples


def percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
  """The central interval: equal fractions of the values are below and above."""
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def robust_scale(residuals: np.ndarray) -> float:
  """1.4826 times the median of the absolute residuals, without the five smallest.

  A robust fit of five parameters passes through up to five runs, whose zeros carry no information
  on the noise (as in MATLAB's robustfit; Hill & Holland 1977).
  """
  size = np.sort(np.abs(residuals))
  return 1.4826 * float(np.median(size[5:])) if len(size) > 5 else math.nan


def fit_unchecked(runs: Runs, loss: Loss = 'huber', starts: np.ndarray | None = None) -> Fit:
  """The fit of the lowest objective over all starts; default: the 4,500 published ones.

  It may not be identified (`check_identified`). Raises UserError if the runs are too few or too
  similar for any law.
  """
  check_varied(runs)
  check_unique(runs)
  check_settings(runs)
  if len(runs) < 6:
    raise UserError(f'{len(runs)} runs do not identify five parameters and their noise: a law '
                    'needs at least 6 runs')
  if (spread := line_spread(runs)) < STRAIGHT:
    raise UserError('the law cannot be identified: N and D of all runs are on one line of ln N and '
                    f'ln D (spread {spread:.2g}): add runs of other D / N')
  n, d, log_loss = _logs(runs)
  starts = solver.standard_starts() if starts is None else starts
  theta, objective = solver.solve_best(starts, n, d, log_loss, np.ones(len(runs)), loss)
  return Fit(_law(theta), runs, loss, objective)


def fit_law(runs: Runs, loss: Loss = 'huber', starts: np.ndarray | None = None) -> Fit:
  """The fit of `fit_unchecked`; UserError if the runs do not identify the law."""
  found = fit_unchecked(runs, loss, starts)
  check_identified(found)
  return found


def check_identified(found: Fit, blamed: Iterable[str] = ()) -> None:
  """Raises UserError if the runs do not identify the law, or contradict it.

  `blamed` are outliers among them.
  """
  if reason := unidentified(found):
    outliers = ', '.join(blamed)
    raise UserError(f'the law cannot be identified from these {len(found.runs)} runs: {reason}'
                    + (f'; or leave out the outliers: {outliers}' if outliers else ''))
  refuse_misfit(found)


def refuse_misfit(found: Fit) -> None:
  """Raises UserError if the runs contradict the law."""
  if found.misfit is not None and found.misfit.refused:
    raise UserError(found.misfit.refusal('one law'))


def line_spread(runs: Runs) -> float:
  """Standard deviation of the runs across their main line in the plane of ln N and ln D."""
  n, d, _ = _logs(runs)
  return math.sqrt(max(np.linalg.eigvalsh(np.cov(n, d))[0], 0.0))


def unidentified(found: Fit) -> str | None:
  """Why the runs do not identify the law, with the cure; None if they do.

  They do not if the term of N or of D changes the loss, over all runs, by no more than the noise;
  or if an exponent is at a bound, or below its standard error.
  """
  law, runs = found.law, found.runs
  for letter, exponent, field, term in (
      ('N', 'alpha', 'parameters', law.a * runs.parameters ** -law.alpha),
      ('D', 'beta', 'tokens', law.b * runs.tokens ** -law.beta)):
    value = getattr(law, exponent)
    cure = f'add runs over a wider range of {field}'
    change = float(np.ptp(term / runs.loss))
    if not np.isfinite(term).all() or change < max(_VANISHED, found.scale):
      return (f'the term of {letter} changes the loss by {100 * change:.2g} % over all runs, '
              f'within their noise of {100 * found.scale:.2g} %; {cure}')
    if _at_bound(value):
      return f'{exponent} is at a bound, {value:.3g}; {cure}'
    error = rough_errors(found)[3 if letter == 'N' else 4]
    if not error < value:
      return f'{exponent} is {value:.2g} with a standard error of {error:.2g}; {cure}'
  return None


def rough_errors(found: Fit) -> np.ndarray:
  """Standard errors [5] of theta from the Jacobian and the robust scale, without resampling."""
  n, d, _ = _logs(found.runs)
  inverse = np.linalg.pinv(solver.jacobian(found.theta, n, d), rcond=1e-14)
  return np.linalg.norm(inverse, axis=1) * found.scale


def bootstrap(found: Fit, count: int = 1000, seed: int = 0, resample: Resample | None = None
              ) -> Fit:
  """The fit with `count` laws refitted to resamples, each from the optimum and 3 perturbed starts.

  'noise', the default below 40 clusters, keeps N and D, and adds to the law noise that clusters
  share and noise of each run, of deviations drawn from their posterior (`noise.Noise`). 'clusters',
  the default above, draws whole clusters with replacement. 'runs' draws runs with replacement, as
  published refits do: its intervals are too narrow where runs share noise, and take the law as
  true. By the others, where the runs cast doubt on the law (`misfit.Misfit`), a third of the
  resamples has the bend taken out of the runs above it, and a third out of those below.
  """
  runs = found.runs
  many = runs.clusters.max() + 1 >= MIN_CLUSTERS_RESAMPLED
  resample = resample or ('clusters' if many else 'noise')
  rng = np.random.default_rng(seed)
  n, d, log_loss = _logs(runs)
  weights = np.ones(len(runs))
  noisy, noise = found.noise_model.simulate(rng, count)
  if resample == 'noise':
    log_loss = log_loss - found.residuals + noisy
  else:
    units = runs.clusters if resample == 'clusters' else np.arange(len(runs))
    drawn = rng.multinomial(units.max() + 1, np.full(units.max() + 1, 1 / (units.max() + 1)), count)
    weights = drawn[:, units].astype(float)
    noise = _smoothed_residuals(found, rng, count)
  if resample != 'runs' and found.misfit is not None and found.misfit.doubted:
    log_loss = log_loss - draw_bends(found.misfit, rng, count)
  starts = np.tile(found.theta, (_RESTARTS + 1, 1))
  starts = np.tile(starts, (count, 1, 1))
  starts[:, 1:] = perturbed(found, rng, count * _RESTARTS).reshape(count, _RESTARTS, 5)
  repeat = lambda x: np.repeat(x, _RESTARTS + 1, 0) if x.ndim > 1 else x
  theta, value = solver.solve(starts.reshape(-1, 5), n, d, repeat(log_loss), repeat(weights),
                              found.loss)
  best = value.reshape(count, -1).argmin(1)
  samples = theta.reshape(count, -1, 5)[np.arange(count), best]
  return dataclasses.replace(found, resampled=resample, bootstrap_samples=_law(samples.T),
                             noise=noise)


def _smoothed_residuals(found: Fit, rng: np.random.Generator, count: int) -> np.ndarray:
  """Draws [count] of the residuals, for the noise of a new run.

  They are scaled by sqrt(P / (P - 5)) for the fitted parameters, and smoothed, since a robust fit
  has many at 0, by a kernel of Silverman's width.
  """
  count_runs = len(found.runs)
  width = 0.9 * found.scale * count_runs ** -0.2
  residuals = found.residuals * math.sqrt(count_runs / (count_runs - 5))
  return rng.choice(residuals, count) + width * rng.normal(size=count)


def draw_bends(misfit: Misfit, rng: np.random.Generator, count: int) -> np.ndarray:
  """Corrections of log loss [count, P]: none, above the bend or below it, a third each."""
  change = misfit.change + misfit.error * rng.standard_normal(count)
  sides = np.stack([np.zeros_like(misfit.above), misfit.above, misfit.below])
  return -change[:, None] * sides[rng.integers(3, size=count)]


def perturbed_starts(found: Fit) -> np.ndarray:
  """Starts [64, 5] for a fit to nearly the same runs: the optimum, near it, and on the grid."""
  rng = np.random.default_rng(0)
  grid = solver.standard_starts()
  return np.concatenate([found.theta[None], perturbed(found, rng, 31),
                         grid[rng.choice(len(grid), 32, replace=False)]])


def perturbed(found: Fit, rng: np.random.Generator, count: int) -> np.ndarray:
  """Starts [count, 5] about the optimum, with equal terms at the middle of the runs."""
  n, d, _ = _logs(found.runs)
  moves = rng.normal(size=(count, 5)) * (0.3, 0.3, 0.1, 0.05, 0.05)
  starts = found.theta + moves
  starts[:, 0] += moves[:, 3] * n.mean()
  starts[:, 1] += moves[:, 4] * d.mean()
  return starts


def load_law(path: pathlib.Path | str) -> Law:
  """The law of a fit.json of `t5x-lite scaling fit --output`, or of its folder.

  Raises UserError if it is missing or invalid.
  """
  path = local_path(path)
  path = path / 'fit.json' if path.is_dir() else path
  try:
    saved = json.loads(path.read_text())
    samples = {name: [math.nan if value is None else value for value in values]
               for name, values in saved['bootstrap_samples'].items()}
    fields = dict(warnings=tuple(saved.get('warnings', ())), source=f'fitted: {path}',
                  counts='N and C as in the runs; D = C / 6 N',
                  text=f'the user\'s own, {saved["runs"]} runs', fitted=tuple(saved['fitted']))
    if saved['approach'] != 3:
      laws = tuple(map(Allocation, samples['coefficient'], samples['exponent']))
      return Law(Allocation(**saved['law']), bootstrap_samples=laws,
                 interval='95 % of resamples of the optima', **fields)
    laws = tuple(ParametricLaw(*row) for row in zip(*(samples[name] for name in PARAMETERS)))
    return Law(ParametricLaw(**saved['law']), bootstrap_samples=laws,
               interval=saved.get('resampling', 'percentiles of refits'), **fields)
  except OSError as e:
    raise UserError(f'{path}: {why(e)}: write a fit with t5x-lite scaling fit RUNS '
                    '--output=FOLDER') from e
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(f'{path} is not a fit ({type(e).__name__}: {e}): write one with t5x-lite '
                    'scaling fit RUNS --output=FOLDER') from e


def _at_bound(exponent: float | np.ndarray) -> bool | np.ndarray:
  return np.logical_not((_BOUNDS[0] < exponent) & (exponent < _BOUNDS[1]))   # true of nan


def _logs(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  return np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)


def _law(theta: np.ndarray) -> ParametricLaw:
  """The law of one theta [5], or the laws of [5, samples]."""
  a, b, e = np.exp(np.clip(theta[:3], -300, 300))
  values = e, a, theta[3], b, theta[4]
  return ParametricLaw(*(map(float, values) if theta.ndim == 1 else values))
