"""What each law answers to a budget: N, D, the loss, their intervals, how far it is stretched."""

import dataclasses
import math

from scaling.laws import intervals
from scaling.laws.intervals import Interval
from scaling.laws.laws import LAWS, Law
from scaling.planning.budget import Budget
from scaling.planning.constraints import Constraints
from t5x_lite.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """A law's answer; None is what the law does not say.

  Attributes:
    law: its name.
    flops: all that is spent; inf if no budget reaches the target loss.
    parameters, tokens: N and D, of what the law counts.
    loss: expected of them, in nats a token of the law's own tokenizer.
    flops_interval: of what the target loss costs.
    parameters_interval, ratio_interval, loss_interval: of N, D / N, and the loss of this N and D.
    beyond: how many times the budget lies outside the runs of the law; None if they are not known.
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
  beyond: float | None = None

  @property
  def reason(self) -> str:
    """Why there is no N; '' if there is."""
    if self.parameters is not None:
      return ''
    return 'out of its reach' if self.flops == math.inf else 'does not say'


def laws(fit: str | None = None) -> dict[str, Law]:
  """The published laws, and as 'fit' that of `t5x-lite scaling fit --output`."""
  if fit is None:
    return LAWS
  from scaling.fitting import parametric
  return {**LAWS, 'fit': parametric.load(fit)}


def answers(budget: Budget, known: dict[str, Law], constraints: Constraints) -> list[Answer]:
  """The answers of all laws."""
  return [_answer(name, law, budget, constraints) for name, law in known.items()]


def _answer(name: str, law: Law, budget: Budget, constraints: Constraints) -> Answer:
  """All of it once for the law, and once for each of its refits."""
  def solve(form):
    flops = budget.flops if budget.loss is None else constraints.flops_for(form, budget.loss)
    if flops is None or flops == math.inf:
      return flops, None
    return flops, constraints.optimum(form, flops)

  flops, optimum = solve(law.form)
  if optimum is None:
    return Answer(law=name, flops=flops)
  parameters, tokens = optimum

  def quantities(form):
    try:
      spent, found = solve(form)
    except OverflowError:   # a refit that tells nothing
      spent, found = math.inf, None
    n, d = found or (math.inf, math.inf)
    return spent, n, d / n, constraints.loss(form, parameters, tokens)

  of_flops, of_n, of_ratio, of_loss = intervals.of_draws(law, quantities) or [None] * 4
  if of_n is None and not constraints:
    of_n = intervals.of_exponent(law, flops)
    of_ratio = of_n and tuple(flops / 6 / n ** 2 for n in reversed(of_n))
  return Answer(
      law=name, flops=flops, parameters=parameters, tokens=tokens,
      loss=constraints.loss(law.form, parameters, tokens),
      flops_interval=None if budget.loss is None else of_flops, parameters_interval=of_n,
      ratio_interval=of_ratio, loss_interval=of_loss,
      beyond=None if law.fitted is None else law.beyond(flops))


def chosen(name: str, found: list[Answer], known: dict[str, Law], budget: Budget,
           constraints: Constraints) -> Answer:
  """The answer of the law named; UserError if it is not known, or cannot answer this."""
  if name not in known:
    raise UserError(f'--law={name}: there are {", ".join(known)}; fit is the law of --fit=FILE')
  answer = next(answer for answer in found if answer.law == name)
  if answer.flops == math.inf:
    under = ' under these constraints' if constraints else ''
    raise UserError(f'--loss={budget.loss:g}: no budget gets below '
                    f'{constraints.least_loss(known[name].form):.4g} by {name}{under}: ask for '
                    'more')
  if answer.parameters is None:
    able = [other.law for other in found if other.parameters is not None]
    raise UserError(f'--law={name} says no loss, and this is asked of a loss: choose one of '
                    f'{", ".join(able)}')
  if answer.tokens < 1 or answer.parameters < 1:
    raise UserError(f'{answer.flops:.3g} FLOPs are too few for any model by {name}')
  return answer


def warning(law: str, answer: Answer) -> str | None:
  """One line if the budget lies outside the runs of the law."""
  if answer.beyond is None or answer.beyond <= 1:
    return None
  return (f'{answer.flops:.3g} FLOPs lie a factor of {answer.beyond:.3g} outside the runs that '
          f'{law} was fitted on')
