"""Does a model's confidence in an answer say how often it is right?

The confidence is the largest probability of a softmax over the choices' log-likelihoods; accuracy
is whether that choice is the gold one, the first of equals.
"""
# N items, C choices of the item with most, B bins

from collections.abc import Sequence
import dataclasses
import math
import pathlib
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, special

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.results import read_items, read_result

BINS = 15   # as Guo et al. 2017, 'On calibration of modern neural networks'
Binning = Literal['equal_width', 'equal_mass']


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceScores:
  """What a model makes of items with several choices.

  Attributes:
    logprobs_NC: log-likelihood of each choice in nats, -inf where an item has no such choice.
    gold_N: the index of the right one.
  """
  logprobs_NC: np.ndarray
  gold_N: np.ndarray

  def __post_init__(self):
    if not len(self.gold_N):
      raise UserError('there are no items to calibrate on')
    if len(self.logprobs_NC) != len(self.gold_N):
      raise UserError(f'{len(self.logprobs_NC)} rows of log-likelihoods, {len(self.gold_N)} gold '
                      'choices: give one for each item')
    gold = np.take_along_axis(self.logprobs_NC, self.gold_N[:, None], axis=1)[:, 0]
    bad_N = np.isnan(self.logprobs_NC).any(axis=1) | np.isposinf(self.logprobs_NC).any(axis=1)
    bad_N |= np.isneginf(gold)
    if bad_N.any():
      raise UserError(f'row {int(np.argmax(bad_N))} (from 0) of {len(bad_N)} has a log-likelihood '
                      'that is not finite: leave the item out')

  def probs_NC(self, temperature: float = 1.0) -> np.ndarray:
    """Softmax over each item's choices of their log-likelihoods / temperature."""
    if not 0 < temperature < math.inf:
      raise UserError(f'a temperature of {temperature}: it is above 0, and finite')
    return special.softmax(self.logprobs_NC / temperature, axis=1)


class Bin(NamedTuple):
  """A bin of confidences above `low` up to `high`; the first takes `low` in as well.

  `confidence` and `accuracy` are means over its items, nan where it has none.
  """
  low: float
  high: float
  number: int
  confidence: float
  accuracy: float


class Calibration(NamedTuple):
  """Calibration of a model on some items; each is lowest, and 0, for a perfect one.

  Attributes:
    accuracy: share of items whose most likely choice is right.
    confidence: mean probability of that choice.
    ece: expected calibration error, 15 bins of equal width.
    ece_equal_mass: the same, bins of equal numbers of items.
    max_error: the largest |accuracy - confidence| of a bin of equal width.
    brier: mean over items of the sum over choices of (p - [is gold])², in [0, 2], as lm-eval's.
    brier_binary: mean of (confidence - [is right])², in [0, 1].
    nll: mean negative log-likelihood of the gold choice, in nats.
  """
  accuracy: float
  confidence: float
  ece: float
  ece_equal_mass: float
  max_error: float
  brier: float
  brier_binary: float
  nll: float


def measure(scores: ChoiceScores, temperature: float = 1.0, bins: int = BINS) -> Calibration:
  """All figures of items, at a temperature."""
  probs_NC = scores.probs_NC(temperature)
  confidence_N, correct_N = confidences(probs_NC, scores.gold_N)
  width = reliability(confidence_N, correct_N, bins)
  mass = reliability(confidence_N, correct_N, bins, 'equal_mass')
  right_NC = np.arange(probs_NC.shape[1])[None, :] == scores.gold_N[:, None]
  return Calibration(
      accuracy=float(correct_N.mean()), confidence=float(confidence_N.mean()),
      ece=expected_error(width), ece_equal_mass=expected_error(mass), max_error=max_error(width),
      brier=float(np.sum((probs_NC - right_NC) ** 2, axis=1).mean()),
      brier_binary=float(np.mean((confidence_N - correct_N) ** 2)),
      nll=negative_log_likelihood(scores, temperature))


def confidences(probs_NC: np.ndarray, gold_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(largest probability, whether its choice is right) of each item, [N] each."""
  return probs_NC.max(axis=1), probs_NC.argmax(axis=1) == gold_N


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS,
                binning: Binning = 'equal_width') -> list[Bin]:
  """The table of the reliability diagram, a row a bin, empty ones too.

  Bins are closed on the right: of equal width (k/B, (k+1)/B], the first with 0; of equal mass
  between quantiles of the confidences (linear interpolation), so that equal confidences share a
  bin, and one may be left empty. scikit-learn's calibration_curve has the same bins.
  """
  if bins < 1:
    raise UserError(f'{bins} bins: name one at least')
  shares = np.linspace(0, 1, bins + 1)
  edges = shares if binning == 'equal_width' else np.quantile(confidence_N, shares)
  places_N = np.searchsorted(edges[1:-1], confidence_N)
  number_B = np.bincount(places_N, minlength=bins)
  with np.errstate(invalid='ignore'):   # 0 / 0 of an empty bin is nan
    confidence_B, accuracy_B = (np.bincount(places_N, weights=x_N, minlength=bins) / number_B
                                for x_N in (confidence_N, correct_N))
  return [Bin(float(low), float(high), int(number), float(confidence), float(accuracy))
          for low, high, number, confidence, accuracy in zip(
              edges, edges[1:], number_B, confidence_B, accuracy_B)]


def expected_error(table: Sequence[Bin]) -> float:
  """ECE: Σ n_b / N |accuracy - confidence| over bins; empty ones count nothing."""
  total = sum(row.number for row in table)
  return sum(row.number / total * abs(row.accuracy - row.confidence)
             for row in table if row.number)


def max_error(table: Sequence[Bin]) -> float:
  """The largest |accuracy - confidence| of a bin that has items; one item may make it."""
  return max(abs(row.accuracy - row.confidence) for row in table if row.number)


def negative_log_likelihood(scores: ChoiceScores, temperature: float = 1.0) -> float:
  """Mean over items of -log probability of the gold choice, in nats."""
  scores.probs_NC(temperature)   # checks it
  logprobs_NC = special.log_softmax(scores.logprobs_NC / temperature, axis=1)
  return float(-np.take_along_axis(logprobs_NC, scores.gold_N[:, None], axis=1).mean())


def fit_temperature(scores: ChoiceScores) -> float:
  """The temperature of the lowest negative log-likelihood (Guo et al. 2017), for other items.

  The likelihood is concave in 1/T, so there is one best. Fit on a validation part, and measure on
  another: on its own items it is too good.

  Raises:
    UserError: there is no finite best, as every item is right, or the scores are no better than
      chance.
  """
  logprobs_NC = scores.logprobs_NC
  golden_N = np.take_along_axis(logprobs_NC, scores.gold_N[:, None], axis=1)[:, 0]
  known_NC = np.where(np.isneginf(logprobs_NC), 0.0, logprobs_NC)   # their probability is 0

  def slope(inverse: float) -> float:
    """Of the negative log-likelihood by 1/T: mean log-likelihood expected, less the gold one's."""
    scaled_NC = np.where(np.isneginf(logprobs_NC), -np.inf, inverse * known_NC)
    probs_NC = special.softmax(scaled_NC, axis=1)
    return float(np.mean(np.sum(probs_NC * known_NC, axis=1) - golden_N))

  if np.all(golden_N == logprobs_NC.max(axis=1)):
    raise UserError(f'no temperature fits {len(golden_N)} items best: the most likely choice of '
                    'every item is right; fit on more')
  if slope(0.0) >= 0:
    raise UserError(f'no temperature fits {len(golden_N)} items best: the scores say no more than '
                    'chance; fit on more')
  upper = 1.0
  while slope(upper) < 0:
    upper *= 2
  return 1 / optimize.brentq(slope, 0.0, upper, xtol=1e-12)


def choice_scores(path: pathlib.Path) -> ChoiceScores:
  """The log-likelihoods of the items beside a result; `path` is its JSON file.

  Raises UserError for items without log-likelihoods of choices, or without one right choice.
  """
  read_result(path)   # whose errors are of the file that was named
  items = read_items(path)
  if not items:
    raise UserError(f'{path.with_suffix(".jsonl")} has no items: evaluate again')
  for item in items:
    _check(path, item)
  logprobs_NC = np.full((len(items), max(len(item['logprobs']) for item in items)), -np.inf)
  for row, item in zip(logprobs_NC, items):
    row[:len(item['logprobs'])] = item['logprobs']
  return ChoiceScores(logprobs_NC=logprobs_NC, gold_N=np.array([item['gold'] for item in items]))


def _check(path: pathlib.Path, item: dict[str, Any]) -> None:
  where = f'{path.with_suffix(".jsonl")}, item {item["id"]}'
  logprobs, gold = item.get('logprobs'), item.get('gold')
  if not isinstance(logprobs, list) or len(logprobs) < 2:
    raise UserError(f'{where}: no log-likelihoods of choices; calibration is of multiple choice')
  if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in logprobs):
    raise UserError(f'{where}: a log-likelihood is not finite; leave the item out')
  if not isinstance(gold, int) or not 0 <= gold < len(logprobs):
    raise UserError(f'{where}: gold is {gold!r}, which is no index of one of {len(logprobs)} '
                    'choices; calibration needs one right choice')
