"""The prediction of each law for a budget: N, D, loss, their intervals, and the extrapolation."""

import dataclasses
import math

from scaling.laws import intervals
from scaling.laws.experts import EXPERT_LAWS, FINE_GRAINED, Mixture, expert_laws
from scaling.laws.intervals import Interval
from scaling.laws.laws import LAWS, Law
from scaling.planning.budget import Budget
from scaling.planning.constraints import Constraints
from t5x_lite.core.errors import UserError

_SAME_VOCABULARY = 0.05   # log of the ratio up to which vocabularies count as one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
  """A law's prediction; None is what the law does not predict.

  Attributes:
    law: its name.
    flops: of the budget; inf if none reaches the target loss.
    parameters, tokens: optimal N and D, as the law counts them.
    loss: expected, in nats a token of the law's own tokenizer.
    flops_interval: of the FLOPs for the target loss.
    parameters_interval, ratio_interval, loss_interval: of N, D / N, and the loss of this N and D.
    extrapolation: the factor by which the budget is outside the runs of the law; None if they are
      not known.
  """
  law: str
  flops: float | None = None
  parameters: float | None = None
  tokens: float | None = None
  loss: float | None = None
  flops_interval: Interval | None = None
  parameters_interval: Interval | None = None
  ratio_interval: Interval | None = None
  loss_interval: Interval | None = None
  extrapolation: float | None = None

  @property
  def reason(self) -> str:
    """Why there is no N; '' if there is."""
    if self.parameters is not None:
      return ''
    return 'never reached' if self.flops == math.inf else 'no prediction'


class TooSmallError(UserError):
  """A budget for which a law has no model, or one no better than guessing."""


def load_laws(fit: str | None = None, mixture: Mixture | None = None) -> dict[str, Law]:
  """The published laws, and under 'fit' the one of `t5x-lite scaling fit --output`.

  With a mixture of experts, those of models with experts.
  """
  published = LAWS if mixture is None else expert_laws(mixture)
  if fit is None:
    return published
  from scaling.forms import saved
  return {**published, 'fit': saved.load_law(fit, mixture)}


def predict_all(budget: Budget, known: dict[str, Law], constraints: Constraints
                ) -> list[Prediction]:
  """The predictions of all laws."""
  return [_predict(name, law, budget, constraints) for name, law in known.items()]


def _predict(name: str, law: Law, budget: Budget, constraints: Constraints) -> Prediction:
  """The prediction of a law, with intervals over its bootstrap samples."""
  def solve(form):
    flops = budget.flops if budget.loss is None else constraints.flops_for(form, budget.loss)
    if flops is None or flops == math.inf:
      return flops, None
    return flops, constraints.optimum(form, flops)

  flops, optimum = solve(law.form)
  if optimum is None:
    return Prediction(law=name, flops=flops)
  parameters, tokens = optimum

  def quantities(form):
    try:
      spent, found = solve(form)
    except OverflowError:   # a degenerate sample
      spent, found = math.inf, None
    n, d = found or (math.inf, math.inf)
    return spent, n, d / n, constraints.loss(form, parameters, tokens)

  of_flops, of_n, of_ratio, of_loss = intervals.bootstrap_intervals(law, quantities) or [None] * 4
  if of_n is None and not constraints:
    of_n = intervals.exponent_interval(law, flops)
    of_ratio = of_n and tuple(flops / 6 / n ** 2 for n in reversed(of_n))
  return Prediction(
      law=name, flops=flops, parameters=parameters, tokens=tokens,
      loss=constraints.loss(law.form, parameters, tokens),
      flops_interval=None if budget.loss is None else of_flops, parameters_interval=of_n,
      ratio_interval=of_ratio, loss_interval=of_loss,
      extrapolation=None if law.fitted is None else law.extrapolation(flops))


def select_prediction(name: str, found: list[Prediction], known: dict[str, Law], budget: Budget,
                      constraints: Constraints) -> Prediction:
  """The prediction of a law; UserError if the law is not known, or has none for this budget."""
  if name not in known and name in LAWS:
    raise UserError(f'--law={name} is of models without experts: choose from {", ".join(known)}')
  if name in EXPERT_LAWS and name not in known:
    raise UserError(f'--law={name} is of models with experts: give --experts'
                    + (f' of an expansion of {FINE_GRAINED.expansion:g}: --experts=64 --top_k=1'
                       if name == 'fine_grained' else ''))
  if name not in known:
    raise UserError(f'--law={name}: choose from {", ".join(known)}; fit is the law of --fit=FILE')
  prediction = next(prediction for prediction in found if prediction.law == name)
  if prediction.flops == math.inf:
    under = ' under these constraints' if constraints else ''
    raise UserError(f'--loss={budget.loss:g}: no budget gets below '
                    f'{constraints.min_loss(known[name].form):.4g} by {name}{under}: give a '
                    'higher loss')
  if prediction.parameters is None:
    able = [other.law for other in found if other.parameters is not None]
    raise UserError(f'--law={name} has no loss, and the budget is a target loss: choose one of '
                    f'{", ".join(able)}')
  if prediction.tokens < 1 or prediction.parameters < 1:
    raise TooSmallError(f'{prediction.flops:.3g} FLOPs are too few for any model by {name}')
  return prediction


def check_loss(name: str, law: Law, prediction: Prediction, vocabulary: int) -> None:
  """Raises TooSmallError for a loss above ln V, that of a uniform guess over V tokens."""
  size = law.vocabulary or vocabulary
  if prediction.loss is not None and prediction.loss >= math.log(size):
    raise TooSmallError(f'expected loss {prediction.loss:.3g} by {name}, above the ln V = '
                    f'{math.log(size):.3g} of a uniform guess over {size:,} tokens: the law does '
                    'not hold for so little training')


def why_not_comparable(law: Law, decoder_only: bool, vocabulary: int) -> str:
  """Why the loss of a law is not that of a model; '' if it may be.

  Losses are a token's: they depend on the objective and the tokenizer, of which the number of
  tokens is known. A law of one's own is taken to be of such models.
  """
  if law.vocabulary is None:
    return ''
  if not decoder_only:
    return 'its runs are of decoder-only language models'
  if abs(math.log(vocabulary / law.vocabulary)) > _SAME_VOCABULARY:
    return f'its tokens are of a vocabulary of {law.vocabulary:,}, not {vocabulary:,}'
  return ''


def extrapolation_warning(law: str, prediction: Prediction) -> str | None:
  """One line if the budget is outside the runs of the law."""
  if prediction.extrapolation is None or prediction.extrapolation <= 1:
    return None
  return (f'{prediction.flops:.3g} FLOPs are a factor of {prediction.extrapolation:.3g} outside '
          f'the runs that {law} was fitted on')
