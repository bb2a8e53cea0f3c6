"""The loss of a run through the decay of its learning rate, before it is trained.

The law of Tissue et al. 2024 (arXiv 2408.11029), at step s of a run with rates eta:

  L = L0 + A S1^-alpha - C S2,  S1 = sum of eta_i,  S2 = sum of m_i,
  m_i = lambda m_(i-1) + (eta_(i-1) - eta_i)

up to s; the rise of the warm-up counts as no annealing. Runs of one model share L0 and A, all runs
alpha and C. An evaluation is off from the training loss by a constant of the model. C is told by
runs that have decayed, and by nothing else. Runs hardly tell lambda, on which the gain of a longer
decay depends, so intervals are of several, weighted by their likelihoods.

Training losses are of few batches, noisy, and residuals of neighbours alike: intervals are of
refits to blocks of residuals, drawn with replacement.

P records, G models, S resamples.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize, signal

from t5x_lite.core.errors import UserError

MEMORIES = (0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)   # lambda; the paper has 0.999
ALPHA = (0.05, 1.5)   # bounds of the exponent
BINS = 200            # of the training losses of a run, beyond which they are averaged
MIN_RECORDS = 10      # in the stable phase of the run to predict
MIN_ANNEALED = 0.1    # share of the planned S2 that some run must have reached
_EARLY = 0.05         # of a run's steps, that a power law does not describe


@dataclasses.dataclass(frozen=True)
class Curve:
  """What a run has logged.

  Attributes:
    steps, losses: of training, [P]; steps count from 1.
    eval_steps, eval_losses: of evaluations.
    rates: of every step from 1 on, at least up to the last one above.
    model: runs of the same share L0, A, and the offset of evaluations.
  """
  name: str
  steps: np.ndarray
  losses: np.ndarray
  eval_steps: np.ndarray
  eval_losses: np.ndarray
  rates: np.ndarray
  model: int = 0

  def until(self, step: int) -> 'Curve':
    """The curve up to a step."""
    kept, seen = self.steps <= step, self.eval_steps <= step
    return dataclasses.replace(self, steps=self.steps[kept], losses=self.losses[kept],
                               eval_steps=self.eval_steps[seen],
                               eval_losses=self.eval_losses[seen])

  @property
  def warmup(self) -> int:
    """Steps before the rate is at its peak."""
    return int(self.rates.argmax())

  @property
  def stable(self) -> np.ndarray:
    """[P], whether the rate is at its peak."""
    return self.rates[self.steps - 1] > 0.999 * self.rates.max()


def compute_areas(rates: np.ndarray, memory: float) -> tuple[np.ndarray, np.ndarray]:
  """(S1, S2) after each step of these rates [T]."""
  falls = np.maximum(-np.diff(rates, prepend=rates[0]), 0.0)
  momentum = signal.lfilter([1.0], [1.0, -memory], falls)
  return np.cumsum(rates), np.cumsum(momentum)


def plan_rates(curve: Curve, steps: int, decay_steps: int) -> np.ndarray:
  """The rates [steps] of the curve's warm-up and peak, then a linear decay to 0, as WSD has it."""
  warm, peak = curve.warmup, float(curve.rates.max())
  left = np.clip((steps - np.arange(steps)) / decay_steps, 0.0, 1.0)
  return np.where(np.arange(steps) < warm, np.resize(curve.rates, steps), peak * left)


@dataclasses.dataclass(frozen=True)
class Records:
  """What the law is fitted to: areas, losses and models [P], training first, then evaluations."""
  s1: np.ndarray
  s2: np.ndarray
  losses: np.ndarray
  model: np.ndarray
  evaluated: np.ndarray    # bools
  run: np.ndarray          # index of the curve

  def select(self, keep: np.ndarray) -> 'Records':
    """Those of an array of bools."""
    return Records(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))


def collect_records(curves: Sequence[Curve], memory: float) -> Records:
  """Training losses after the warm-up, averaged in bins, and evaluations."""
  rows = []
  for evaluated in (False, True):
    for run, curve in enumerate(curves):
      s1, s2 = compute_areas(curve.rates, memory)
      steps = curve.eval_steps if evaluated else curve.steps
      losses = curve.eval_losses if evaluated else curve.losses
      kept = (steps > 2 * curve.warmup) & (steps > _EARLY * steps.max(initial=0))
      steps, losses = steps[kept], losses[kept]
      bins = np.array_split(np.arange(len(steps)), min(len(steps), BINS)) if len(steps) else []
      rows += [(s1[steps[i] - 1].mean(), s2[steps[i] - 1].mean(), losses[i].mean(), curve.model,
                evaluated, run) for i in bins]
  s1, s2, losses, model, evaluated, run = (np.array(column) for column in zip(*rows))
  return Records(s1, s2, losses, model.astype(int), evaluated.astype(bool), run.astype(int))


@dataclasses.dataclass(frozen=True)
class CurveFit:
  """The law of the curves.

  Attributes:
    memory: lambda.
    theta: alpha, C, then L0, A and the offset of evaluations of each model; areas in units of those
      of the target.
    samples: [S, K], of refits.
    noise: standard deviation of a training loss (of its bin) about the law.
    eval_noise: of an evaluation, as a share of the loss.
    block: records in a block of residuals.
  """
  memory: float
  theta: np.ndarray
  samples: np.ndarray
  records: Records
  units: tuple[float, float]
  noise: float
  eval_noise: float
  block: int

  def predict(self, s1: np.ndarray, s2: np.ndarray, *, model: int = 0, evaluated: bool = False,
              theta: np.ndarray | None = None) -> np.ndarray:
    """The expected loss at areas; by theta [..., K]."""
    theta = self.theta if theta is None else theta
    return _law(theta, s1 / self.units[0], s2 / self.units[1], np.array(model),
                np.array(float(evaluated)))

  def constants(self, theta: np.ndarray | None = None, model: int = 0) -> dict[str, float]:
    """Those of the published form, areas as sums of rates."""
    alpha, c = (self.theta if theta is None else theta)[:2]
    l0, a, offset = (self.theta if theta is None else theta)[2 + 3 * model:5 + 3 * model]
    return {'L0': float(l0), 'A': float(a * self.units[0] ** alpha), 'alpha': float(alpha),
            'C': float(c / self.units[1]), 'evaluation_offset': float(offset)}


def _law(theta, s1, s2, model, evaluated):
  alpha, c = theta[..., 0], theta[..., 1]
  l0, a, offset = (theta[..., 2 + 3 * model + i] for i in range(3))
  return l0 + a * s1 ** -alpha - c * s2 + offset * evaluated


def fit_curves(curves: Sequence[Curve], target: np.ndarray, memory: float | None = None,
               eval_noise: float = 0.005, count: int = 200, seed: int = 0
               ) -> tuple[list[CurveFit], np.ndarray]:
  """(laws of the curves, their weights): of several lambda, or of `memory`.

  Args:
    curves: the first is continued to the rates of `target`.
    eval_noise: of an evaluation, as a share of the loss.
    count: refits in all.

  Raises:
    UserError: the first has too short a stable phase, or no run has decayed.
  """
  first = curves[0]
  stable = int((first.stable & (first.steps > 2 * first.warmup)).sum())
  if stable < MIN_RECORDS:
    raise UserError(f'{first.name}: {stable} logged losses at the peak of the learning rate, and '
                    f'{MIN_RECORDS} are needed: train its stable phase further, or log more often')
  memories = MEMORIES if memory is None else (memory,)
  _check_annealed(collect_records(curves, memories[-1]), target, memories[-1])
  fits = []
  for one in memories:
    units = tuple(float(area[-1]) for area in compute_areas(target, one))
    fits.append(_fit(collect_records(curves, one), one, units, eval_noise))
  noise = min(fit.noise for fit in fits)
  misfits = np.array([_misfit(fit, noise) for fit in fits])
  weights = np.exp(-0.5 * (misfits - misfits.min()))
  kept = weights > 0.01 * weights.sum()
  weights = weights[kept] / weights[kept].sum()
  fits = [_resample(fit, max(round(count * weight), 20), seed) for fit, weight in
          zip((fit for fit, keep in zip(fits, kept) if keep), weights)]
  return fits, weights


def _check_annealed(records: Records, target: np.ndarray, memory: float) -> None:
  planned = compute_areas(target, memory)[1][-1]
  if records.s2.max() >= MIN_ANNEALED * planned:
    return
  has = 'no run has decayed' if records.s2.max() < 1e-3 * planned else (
      f'the runs have decayed by {records.s2.max() / planned:.2g} of what is planned (S2)')
  raise UserError(f'{has}: what a decay gives is told by runs that have decayed alone: pass one '
                  'with --decayed, such as a short branch of this run, or with --other, of another '
                  'model')


def _misfit(fit: CurveFit, noise: float) -> float:
  records = fit.records
  deviations = np.where(records.evaluated, fit.eval_noise * records.losses, noise)
  return float((((records.losses - _at(records, fit.theta, fit.units)) / deviations) ** 2).sum())


def _fit(records: Records, memory: float, units: tuple[float, float], eval_noise: float
         ) -> CurveFit:
  noise = max(_rough_noise(records), 1e-6)
  train = ~records.evaluated
  for _ in range(2):   # the noise of training losses weighs them against the evaluations
    theta = _solve(records, records.losses, units, noise, eval_noise)
    residuals = (records.losses - _at(records, theta, units))[train]
    noise = max(math.sqrt((residuals ** 2).sum() / max(train.sum() - len(theta), 1)), 1e-6)
  block = max(int(round(2 * train.sum() ** (1 / 3))), 1)
  return CurveFit(memory, theta, np.zeros((0, len(theta))), records, units, noise, eval_noise,
                  block)


def _rough_noise(records: Records) -> float:
  """From differences of neighbours."""
  train = ~records.evaluated
  steps = np.diff(records.losses[train])[np.diff(records.run[train]) == 0]
  return float(np.sqrt((steps ** 2).mean() / 2)) if len(steps) else 0.01


def _at(records: Records, theta: np.ndarray, units: tuple[float, float]) -> np.ndarray:
  return _law(theta, records.s1 / units[0], records.s2 / units[1], records.model,
              records.evaluated)


def _solve(records, losses, units, noise, eval_noise) -> np.ndarray:
  """theta [K] of least squares: the law is linear but for alpha, which is searched.

  L0, A and C are not negative.
  """
  models = records.model.max() + 1
  weights = 1 / np.where(records.evaluated, eval_noise * losses, noise)
  member = (np.arange(models) == records.model[:, None]).astype(float)
  offset = member * records.evaluated[:, None]
  x1 = records.s1 / units[0]

  def project(alpha):
    power = member * (x1 ** -alpha)[:, None]
    columns = np.concatenate([-(records.s2 / units[1])[:, None], member, power, offset, -offset], 1)
    return optimize.nnls(columns * weights[:, None], losses * weights)

  grid = np.geomspace(*ALPHA, 12)
  errors = [project(alpha)[1] for alpha in grid]
  at = int(np.argmin(errors))
  bounds = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
  alpha = optimize.minimize_scalar(lambda alpha: project(alpha)[1], bounds=bounds,
                                   method='bounded', options={'xatol': 1e-5}).x
  (c, *rest), _ = project(alpha)
  l0, a, up, down = np.reshape(rest, (4, models))
  return np.concatenate([[alpha, c], np.stack([l0, a, up - down], 1).ravel()])


def _resample(fit: CurveFit, count: int, seed: int) -> CurveFit:
  """Refits to the law plus blocks of its residuals of training, and noise of evaluations."""
  rng = np.random.default_rng(seed)
  records, centre = fit.records, _at(fit.records, fit.theta, fit.units)
  train = ~records.evaluated
  residuals = (records.losses - centre)[train]
  total = len(residuals)
  residuals = residuals * math.sqrt(total / max(total - len(fit.theta), 1))
  offsets = np.arange(fit.block)
  samples = []
  for _ in range(count):
    starts = rng.integers(total, size=-(-total // fit.block))
    drawn = residuals[(starts[:, None] + offsets).ravel()[:total] % total] * rng.choice([-1, 1])
    losses = centre.copy()
    losses[train] += drawn
    losses[~train] *= 1 + fit.eval_noise * rng.standard_normal((~train).sum())
    samples.append(_solve(records, losses, fit.units, fit.noise, fit.eval_noise))
  return dataclasses.replace(fit, samples=np.array(samples))


def hold_out(fit: CurveFit, share: float = 0.25) -> tuple[int, float, float] | None:
  """(losses, their mean error, its standard error): the last share of the first run's, told by the
  law of all others; None if they are few.

  The standard error is that of a mean of noise that lasts for a block, without that of the law.
  """
  records = fit.records
  mine = np.flatnonzero((records.run == 0) & ~records.evaluated)
  last = mine[len(mine) - int(share * len(mine)):]
  if len(last) < 3:
    return None
  kept = np.ones(len(records.losses), bool)
  kept[last] = False
  rest = records.select(kept)
  theta = _solve(rest, rest.losses, fit.units, fit.noise, fit.eval_noise)
  off = (records.losses - _at(records, theta, fit.units))[last]
  noise = fit.noise / math.sqrt(len(last) / min(fit.block, len(last)))
  return len(last), float(off.mean()), noise


@dataclasses.dataclass(frozen=True)
class Forecast:
  """The loss at the end of a plan: (value, low, high).

  Attributes:
    training: expected training loss.
    evaluation: loss of one evaluation; None if the model has none.
    gain: what the decay lowers it by.
    longer, deeper: S1 and S2 of the plan over the largest of the runs.
  """
  training: tuple[float, float, float]
  evaluation: tuple[float, float, float] | None
  gain: tuple[float, float, float]
  longer: float
  deeper: float


def forecast(fits: Sequence[CurveFit], weights: np.ndarray, target: np.ndarray, *,
             step: int | None = None, level: float = 0.95, seed: int = 0) -> Forecast:
  """The loss of the first curve's model at the end of the rates `target`, or after a step of them.

  Values are means over the fits by their weights.
  """
  rng, at = np.random.default_rng(seed), (step or len(target)) - 1
  training, evaluation, gain = ([], []), ([], []), ([], [])
  for fit, weight in zip(fits, weights):
    s1, s2 = (area[at] for area in compute_areas(target, fit.memory))
    index = rng.integers(len(fit.samples), size=max(round(4000 * weight), 1))
    drawn = fit.samples[index]
    noisy = 1 + fit.eval_noise * rng.standard_normal(len(index))
    for (values, draws), value, new in (
        (training, fit.predict(s1, s2), fit.predict(s1, s2, theta=drawn)),
        (evaluation, fit.predict(s1, s2, evaluated=True),
         fit.predict(s1, s2, evaluated=True, theta=drawn) * noisy),
        (gain, fit.theta[1] * s2 / fit.units[1], drawn[:, 1] * s2 / fit.units[1])):
      values.append(value)
      draws.append(new)
  ends = [(1 - level) / 2, (1 + level) / 2]
  about = lambda found: (float(weights @ found[0]),
                         *map(float, np.quantile(np.concatenate(found[1]), ends)))
  records, best = fits[0].records, fits[int(np.argmax(weights))]
  mine = records.model == 0
  areas = [area[at] for area in compute_areas(target, best.memory)]
  return Forecast(about(training),
                  about(evaluation) if (records.evaluated & mine).any() else None, about(gain),
                  float(areas[0] / records.s1[mine].max()),
                  float(areas[1] / best.records.s2.max()))
