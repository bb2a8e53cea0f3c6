"""From loss to a downstream metric: the second step of a two-step prediction.

Runs have a loss (nats a token, or bits a byte) and an accuracy, or an error, which is 1 less it.
Two forms of the accuracy over the loss L:

  exponential: 1 - (eps - k exp(-gamma L)), Gadre et al. 2024 (arXiv 2403.08540)
  sigmoid: a / (1 + exp(-k (L - L0))) + b with a < 0, Bhagia et al. 2024 (arXiv 2412.04403)

Their asymptotes are between chance and 1. Noise is that of the examples of the task, where their
number is known, and what the residuals show beyond it; runs of one cluster, such as checkpoints of
one run, share a part (`noise.py`).

P runs, K parameters, S resamples.
"""

import dataclasses
import math
import pathlib

import numpy as np
from scipy import optimize, stats

from scaling.fitting import regression
from scaling.fitting.runs import NAMES
from scaling.fitting.table import Table, nearest, read_table
from t5x_lite.core.errors import UserError

FLAT = 0.01          # probability that a metric without a trend seems to have one
SIZES = {'exponential': 3, 'sigmoid': 4}   # K
_LOSSES = (*NAMES['loss'], 'bits_per_byte', 'bpb')
_SPARE = 2           # runs beyond the parameters that a form needs
MAX_REACH = 1.0      # extrapolation, as a share of the range of the losses, that is predicted
_MIN_WEIGHT = 0.01   # of a form beside the best, from which it counts
_NEAR = 1e-9         # of a deviation that counts as none


@dataclasses.dataclass(frozen=True)
class Scores:
  """Runs with a loss and an accuracy, as float64 arrays [P].

  Attributes:
    examples: of the task, nan where not known.
    clusters: of each run, from 0; those of one cluster share noise.
    loss_name, metric_name: of the columns.
  """
  loss: np.ndarray
  accuracy: np.ndarray
  examples: np.ndarray
  clusters: np.ndarray
  names: tuple[str, ...]
  loss_name: str
  metric_name: str

  def __len__(self) -> int:
    return len(self.names)

  def select(self, index: np.ndarray) -> 'Scores':
    """The runs of an array of indices."""
    arrays = {field: getattr(self, field)[index] for field in ('loss', 'accuracy', 'examples')}
    clusters = np.unique(self.clusters[index], return_inverse=True)[1]
    return dataclasses.replace(self, **arrays, clusters=clusters,
                               names=tuple(self.names[i] for i in index))


def read_scores(path: pathlib.Path | str, metric: str, *, loss: str | None = None,
                error: bool = False) -> Scores:
  """The runs of a CSV file; UserError for what is none.

  Args:
    metric: the column of the accuracy, a fraction; of the error where `error`.
    loss: the column of the loss; by default one with a usual name.
  """
  table = read_table(path)
  metric = table.check(metric, '--metric')
  loss = table.check(loss, '--loss_column') if loss else table.find(_LOSSES)
  if loss is None:
    raise UserError(f'{table.path} has no known column of losses: pass --loss_column=NAME; '
                    f'{nearest("loss", table.header)}')
  losses, values = table.numbers(loss), table.numbers(metric)
  for i, name in enumerate(table.names):
    if not 0 < losses[i] < math.inf:
      raise UserError(f'{name}: {loss} is {losses[i]:g}, expected a number above 0')
    if not 0 <= values[i] <= 1:
      raise UserError(f'{name}: {metric} is {values[i]:g}, expected a fraction between 0 and 1: '
                      'divide percentages by 100')
  return Scores(losses, 1 - values if error else values, _examples(table), _clusters(table),
                table.names, loss, metric)


def _examples(table: Table) -> np.ndarray:
  column = table.find(('examples', 'num_examples', 'n_examples'))
  if column is None:
    return np.full(len(table), np.nan)
  counts = table.numbers(column)
  for name, count in zip(table.names, counts):
    if not 1 <= count < math.inf:
      raise UserError(f'{name}: {column} is {count:g}, expected the number of examples of the task')
  return counts


def _clusters(table: Table) -> np.ndarray:
  column = table.find((*NAMES['cluster'], 'run'))
  keys = table.texts(column) if column else [''] * len(table)
  return np.unique([key or f'line {i}' for i, key in enumerate(keys)], return_inverse=True)[1]


@dataclasses.dataclass(frozen=True)
class Form:
  """One form fitted to the scores.

  Attributes:
    theta: [K], about the mean loss (`_curve`).
    samples: [S, K], refits to simulated noise; empty before `resample`.
    new: [S], noise of a new run in units of its deviation.
    excess: standard deviation of the accuracy beyond that of examples.
    criterion: Akaike's, corrected for few runs; inf where they are too few.
  """
  name: str
  scores: Scores
  theta: np.ndarray
  samples: np.ndarray
  new: np.ndarray
  excess: float
  criterion: float

  def accuracy(self, loss: np.ndarray | float, theta: np.ndarray | None = None) -> np.ndarray:
    """At losses, by one theta [K] or one for each loss [S, K]; between 0 and 1."""
    theta = self.theta if theta is None else theta
    return np.clip(_curve(self.name, theta, np.asarray(loss) - self.scores.loss.mean()), 0, 1)

  def deviation(self, accuracy: np.ndarray) -> np.ndarray:
    """Standard deviation of a new run, with the median number of examples."""
    known = self.scores.examples[np.isfinite(self.scores.examples)]
    binomial = accuracy * (1 - accuracy) / np.median(known) if len(known) else 0.0
    return np.sqrt(self.excess ** 2 + binomial)

  def constants(self, theta: np.ndarray | None = None) -> dict[str, float]:
    """Those of the published form."""
    theta, middle = self.theta if theta is None else theta, self.scores.loss.mean()
    if self.name == 'exponential':
      floor, height, gamma = theta
      return {'eps': float(1 - floor), 'k': float(height * math.exp(min(gamma * middle, 700))),
              'gamma': float(gamma)}
    low, share, slope, centre = theta
    height = (1 - low) * share
    return {'a': float(-height), 'k': float(slope), 'L0': float(centre + middle),
            'b': float(low + height)}


def _curve(name: str, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
  """The accuracy at losses x about their mean.

  exponential: floor, height at x = 0, gamma. sigmoid: floor, share of 1 - floor between the
  asymptotes, slope, centre.
  """
  if name == 'exponential':
    floor, height, gamma = np.moveaxis(theta, -1, 0)
    return floor + height * np.exp(np.minimum(-gamma * x, 700))
  low, share, slope, centre = np.moveaxis(theta, -1, 0)
  return low + (1 - low) * share / (1 + np.exp(np.minimum(slope * (x - centre), 700)))


def _slopes(name: str, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Derivatives [P, K] of `_curve` by theta [K]."""
  if name == 'exponential':
    _, height, gamma = theta
    decay = np.exp(np.minimum(-gamma * x, 700))
    return np.stack([np.ones_like(x), decay, -height * x * decay], 1)
  low, share, slope, centre = theta
  rise = 1 / (1 + np.exp(np.minimum(slope * (x - centre), 700)))
  steep = (1 - low) * share * rise * (1 - rise)
  return np.stack([1 - share * rise, (1 - low) * rise, -steep * (x - centre), steep * slope], 1)


def _bounds(name: str, scores: Scores, chance: float) -> tuple[np.ndarray, np.ndarray]:
  span = np.ptp(scores.loss)
  if name == 'exponential':
    return np.array([chance, 0, 1e-3 / span]), np.array([1, 2, 50 / span])
  reach = np.abs(scores.loss - scores.loss.mean()).max() + 3 * span
  return np.array([chance, 0, 0.1 / span, -reach]), np.array([1, 1, 100 / span, reach])


def _starts(name: str, scores: Scores, chance: float) -> list[list[float]]:
  span, top = np.ptp(scores.loss), min(scores.accuracy.max() + 0.05, 1.0)
  if name == 'exponential':
    return [[chance + 1e-3, max(np.median(scores.accuracy) - chance, 0.01), rate / span]
            for rate in (0.3, 1.0, 3.0)]
  return [[chance + 1e-3, share, rate / span, centre * span] for rate in (3.0, 8.0)
          for share, centre in ((top, 0.0), (0.95, -0.5), (0.95, -1.5))]


def check_scores(scores: Scores) -> None:
  """Raises UserError for runs that tell nothing: too few, or of one loss."""
  need = SIZES['exponential'] + _SPARE
  if len(scores) < need:
    raise UserError(f'{len(scores)} runs: a curve of {SIZES["exponential"]} parameters needs '
                    f'{need} or more, over a range of losses')
  if np.ptp(scores.loss) < 1e-3 * scores.loss.mean():
    raise UserError(f'all runs have a {scores.loss_name} of about {scores.loss.mean():.4g}: add '
                    'runs of other losses')


def fit_form(name: str, scores: Scores, chance: float) -> Form:
  """The form by least squares, weighted by the noise of each run."""
  x, size = scores.loss - scores.loss.mean(), SIZES[name]
  bounds, starts = _bounds(name, scores, chance), _starts(name, scores, chance)
  excess, deviations = 0.0, np.ones(len(scores))
  for _ in range(2 if np.isfinite(scores.examples).any() else 1):
    found = _fit(name, x, scores.accuracy, deviations, starts, bounds)
    excess, deviations = _noise(scores, _curve(name, found.theta, x), size)
    starts = found.theta[None]
  residuals = scores.accuracy - _curve(name, found.theta, x)
  terms = size + 1
  criterion = math.inf
  if len(scores) > terms + 1:
    criterion = float((2 * np.log(deviations) + (residuals / deviations) ** 2).sum() + 2 * terms
                      * len(scores) / (len(scores) - terms - 1))
  return Form(name, scores, found.theta, np.zeros((0, size)), np.zeros(0), excess, criterion)


def _fit(name: str, x, y, deviations, starts, bounds) -> regression.Regression:
  return regression.fit(lambda theta: _curve(name, theta, x) / deviations, starts, y / deviations,
                        loss='linear', delta=1.0, bounds=bounds,
                        jacobian=lambda theta: _slopes(name, theta, x) / deviations[:, None])


def _noise(scores: Scores, fitted: np.ndarray, size: int) -> tuple[float, np.ndarray]:
  """(deviation beyond that of examples, deviation of each run [P]).

  With the former, the squared residuals over their variances sum to the degrees of freedom.
  """
  fitted = np.clip(fitted, 1e-6, 1 - 1e-6)
  binomial = np.nan_to_num(fitted * (1 - fitted) / scores.examples)
  squares, freedom = (scores.accuracy - fitted) ** 2, len(scores) - size
  left = lambda extra: (squares / (binomial + extra + _NEAR ** 2)).sum() - freedom
  extra = optimize.brentq(left, 0.0, squares.sum() + _NEAR) if left(0.0) > 0 else 0.0
  return math.sqrt(extra), np.sqrt(binomial + extra + _NEAR ** 2)


def resample(form: Form, chance: float, count: int, seed: int = 0) -> Form:
  """The form with refits to `count` draws of noise about it."""
  scores, x = form.scores, form.scores.loss - form.scores.loss.mean()
  _, deviations = _noise(scores, _curve(form.name, form.theta, x), len(form.theta))
  found = _fit(form.name, x, scores.accuracy, deviations, form.theta[None],
               _bounds(form.name, scores, chance))
  drawn = regression.refit(found, scores.clusters, count, seed, restarts=0)
  return dataclasses.replace(form, samples=drawn.theta, new=drawn.noise)


@dataclasses.dataclass(frozen=True)
class Downstream:
  """The metric over the loss.

  Attributes:
    forms: those that the runs do not tell apart, the preferred one first.
    weights: of each, Akaike's; intervals are drawn from all forms in these proportions.
    p_flat: probability of so clear a trend if there is none.
    held_out: form -> (runs that are tested, rms error of their accuracy, from those of a higher
      loss).
  """
  scores: Scores
  chance: float
  forms: tuple[Form, ...]
  weights: np.ndarray
  p_flat: float
  held_out: dict[str, tuple[int, float]]

  def predict(self, loss: float, draws: np.ndarray | None = None, level: float = 0.95,
              seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of the accuracy: of the law, and of one run with its noise.

    Args:
      loss: where.
      draws: of the loss, where it is uncertain.
    """
    rng = np.random.default_rng(seed)
    law, one = [], []
    for form, weight in zip(self.forms, self.weights):
      count = round(weight * 20 * len(form.samples))
      index = rng.integers(len(form.samples), size=count)
      at = loss if draws is None else rng.choice(draws, count)
      law.append(form.accuracy(at, form.samples[index]))
      one.append(np.clip(law[-1] + form.new[index] * form.deviation(law[-1]), 0, 1))
    value = float(self.forms[0].accuracy(loss))
    (low, high), (lower, higher) = (
        map(float, np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2]))
        for found in (law, one))
    return {'law': (value, low, high), 'one_run': (value, min(low, lower), max(high, higher))}

  def check_reach(self, loss: float) -> None:
    """Raises UserError for a loss that is too far outside those of the runs."""
    if self.extrapolation(loss) > MAX_REACH:
      low, high = self.scores.loss.min(), self.scores.loss.max()
      raise UserError(f'{self.scores.loss_name} {loss:.4g} is outside the runs ({low:.4g} to '
                      f'{high:.4g}) by more than their range, and no form is trusted so far: add '
                      'runs nearer to it')

  def extrapolation(self, loss: float) -> float:
    """How far a loss is outside those of the runs, as a share of their range; 0 inside."""
    low, high = self.scores.loss.min(), self.scores.loss.max()
    return max(low - loss, loss - high, 0.0) / (high - low)


def fit_downstream(scores: Scores, chance: float = 0.0, form: str | None = None,
                   count: int = 300, seed: int = 0) -> Downstream:
  """The metric over the loss, by one form or by those that the runs allow.

  Raises UserError for runs that do not tell a curve, with the reason: too few, or a metric that is
  flat or has its sign turned.
  """
  check_scores(scores)
  names = [form] if form else [name for name in SIZES if len(scores) > SIZES[name] + 2
                               or name == 'exponential']
  if len(scores) < SIZES[names[0]] + _SPARE:
    raise UserError(f'{len(scores)} runs: a {names[0]} needs {SIZES[names[0]] + _SPARE} or more')
  p_flat = _check_trend(scores, chance)
  forms = sorted((fit_form(name, scores, chance) for name in names), key=lambda f: f.criterion)
  excess = np.array([f.criterion for f in forms]) - forms[0].criterion
  weights = np.exp(-0.5 * np.nan_to_num(excess, nan=0.0, posinf=np.inf))
  kept = weights > _MIN_WEIGHT
  forms = tuple(resample(f, chance, count, seed) for f, keep in zip(forms, kept) if keep)
  weights = weights[kept]
  held = {name: found for name in names if (found := _held_out(name, scores, chance))}
  return Downstream(scores, chance, forms, weights / weights.sum(), p_flat, held)


def _check_trend(scores: Scores, chance: float) -> float:
  """The probability of so clear a fall of the accuracy with the loss if there is none."""
  def p_of(accuracy):
    flipped = dataclasses.replace(scores, accuracy=accuracy)
    fitted = fit_form('exponential', flipped, 0.0).accuracy(scores.loss)
    total, left = ((y ** 2).sum() for y in (accuracy - accuracy.mean(), accuracy - fitted))
    free = len(scores) - SIZES['exponential']
    return float(stats.f.sf((total - left) / 2 / max(left / free, _NEAR ** 2), 2, free))

  p = p_of(scores.accuracy)
  if p <= FLAT:
    return p
  if p_of(1 - scores.accuracy) <= FLAT:
    raise UserError(f'accuracies by {scores.metric_name} rise with {scores.loss_name}: pass '
                    '--error if it is an error rate, leave --error out if it is an accuracy')
  near = f', chance is {chance:.3g}' if chance else ''
  raise UserError(f'{scores.metric_name} is flat: accuracies of {scores.accuracy.min():.3g} to '
                  f'{scores.accuracy.max():.3g}{near}, without a trend over {scores.loss_name} (p '
                  f'{p:.2g}). It may emerge at lower losses, which such runs cannot tell: add runs '
                  'of lower loss, or take a metric that moves, such as the loss of the right '
                  'answers')


def _held_out(name: str, scores: Scores, chance: float) -> tuple[int, float] | None:
  """(runs, rms error) of the quarter of lowest loss, predicted from the others."""
  order = np.argsort(-scores.loss)
  count = max(len(scores) // 4, 1)
  kept, tested = order[:len(order) - count], order[len(order) - count:]
  if len(kept) < SIZES[name] + _SPARE:
    return None
  form = fit_form(name, scores.select(kept), chance)
  off = form.accuracy(scores.loss[tested]) - scores.accuracy[tested]
  return count, float(np.sqrt((off ** 2).mean()))
