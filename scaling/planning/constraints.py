"""The best N and D of a law under constraints: unique tokens, a largest model, tokens served."""

import dataclasses
import math

from scipy import optimize

from scaling.laws.laws import LAWS, Additive, Form

_MOST_FLOPS = 1e45   # what no budget ever is: its loss is the least that can be reached


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """Attributes:
    unique_tokens: different tokens there are; more of D are repeats (Muennighoff et al. 2023).
    max_parameters: of the largest model that can be served.
    served_tokens: that the model will read and write when it is trained, at 2 N FLOPs each, which
      the budget pays as well (Sardana et al. 2024).
  """
  unique_tokens: float | None = None
  max_parameters: float | None = None
  served_tokens: float | None = None

  def __bool__(self) -> bool:
    return any(value is not None for value in dataclasses.astuple(self))

  def optimum(self, form: Form, flops: float) -> tuple[float, float] | None:
    """(N, D) of the least loss with 6 N D + 2 N D_served = flops; None if the form cannot tell."""
    if self.unique_tokens is None and self.served_tokens is None:
      parameters, tokens = form.optimum(flops)
      most = self.max_parameters or math.inf
      return (most, flops / 6 / most) if parameters > most else (parameters, tokens)
    if not isinstance(form, Additive):
      return None
    served = self.served_tokens or 0.0
    # Serving leaves nothing to train on above this N.
    most = min(self.max_parameters or math.inf, flops / 2 / served if served else math.inf)
    middle = math.log(form.optimum(flops)[0])
    high = min(middle + 3, math.log(most) - 1e-9)
    loss = lambda log_n: self.loss(form, math.exp(log_n), self._tokens(flops, math.exp(log_n)))
    found = optimize.minimize_scalar(loss, bounds=(min(middle, high) - 8, high), method='bounded',
                                     options={'xatol': 1e-8})
    parameters = math.exp(high if loss(high) < found.fun else found.x)
    return parameters, self._tokens(flops, parameters)

  def _tokens(self, flops: float, parameters: float) -> float:
    return (flops / parameters - 2 * (self.served_tokens or 0)) / 6

  def loss(self, form: Form, parameters: float, tokens: float) -> float | None:
    """L of N and D, repeats counted at their worth; None if the form does not say a loss."""
    if self.unique_tokens is not None:
      return limited(form).limited_loss(parameters, tokens, self.unique_tokens)
    return form.loss(parameters, tokens) if hasattr(form, 'loss') else None

  def flops_for(self, form: Form, loss: float) -> float | None:
    """The least FLOPs that reach the loss; inf if none do, None if the form does not say a loss."""
    excess = lambda log_c: self.loss(form, *self.optimum(form, math.exp(log_c))) - loss
    if not self.says_loss(form):
      return None
    if self.least_loss(form) >= loss:
      return math.inf
    # Constraints only add to what the loss costs without them.
    low = math.log(form.flops_for(loss)) - 1e-6 if isinstance(form, Additive) else 0.0
    high = low + 1
    while excess(high) > 0:
      low, high = high, 2 * high - low + 1
    return math.exp(optimize.brentq(excess, low, high, xtol=1e-10)) if excess(low) > 0 else (
        math.exp(low))

  def tokens_for(self, form: Form, parameters: float, loss: float, about: float) -> float:
    """D at which N parameters, near those of the optimum with `about` tokens, reach the loss."""
    excess = lambda log_d: self.loss(form, parameters, math.exp(log_d)) - loss
    middle = math.log(about)
    return math.exp(optimize.brentq(excess, middle - 5, middle + 5, xtol=1e-12))

  def says_loss(self, form: Form) -> bool:
    """Whether the form has a loss, under these constraints."""
    if self.unique_tokens is not None or self.served_tokens is not None:
      return isinstance(form, Additive)
    return hasattr(form, 'loss')

  def least_loss(self, form: Form) -> float:
    """What no budget gets below."""
    return self.loss(form, *self.optimum(form, _MOST_FLOPS))


def limited(form: Additive):
  """The law with what Muennighoff et al. found repeated tokens to be worth, unless it says."""
  theirs = LAWS['muennighoff'].form
  if isinstance(form, type(theirs)):
    return form
  return type(theirs)(form.e, form.a, form.alpha, form.b, form.beta, theirs.r_tokens,
                      theirs.r_parameters)
