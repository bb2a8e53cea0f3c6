"""The optimal N and D of a law under limits: unique tokens, model size, tokens served."""

import dataclasses
import math

from scipy import optimize

from scaling.laws.laws import LAWS, Form, ParametricLaw

_MAX_FLOPS = 1e45   # above any budget: its loss is the minimum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """Attributes:
    unique_tokens: tokens available; those of D above it are repeats (Muennighoff et al. 2023).
    max_parameters: of the largest model that can be served.
    served_tokens: tokens of inference, at 2 N FLOPs each, which the budget includes (Sardana et al.
      2024).
  """
  unique_tokens: float | None = None
  max_parameters: float | None = None
  served_tokens: float | None = None

  def __bool__(self) -> bool:
    return any(value is not None for value in dataclasses.astuple(self))

  def optimum(self, form: Form, flops: float) -> tuple[float, float] | None:
    """(N, D) of the minimum loss with 6 N D + 2 N D_served = flops; None if not parametric."""
    if self.unique_tokens is None and self.served_tokens is None:
      parameters, tokens = form.optimum(flops)
      max_n = self.max_parameters or math.inf
      return (max_n, flops / 6 / max_n) if parameters > max_n else (parameters, tokens)
    if not isinstance(form, ParametricLaw):
      return None
    served = self.served_tokens or 0.0
    # Above this N, serving takes the whole budget.
    max_n = min(self.max_parameters or math.inf, flops / 2 / served if served else math.inf)
    middle = math.log(form.optimum(flops)[0])
    high = min(middle + 3, math.log(max_n) - 1e-9)
    loss = lambda log_n: self.loss(form, math.exp(log_n), self._tokens(flops, math.exp(log_n)))
    found = optimize.minimize_scalar(loss, bounds=(min(middle, high) - 8, high), method='bounded',
                                     options={'xatol': 1e-8})
    parameters = math.exp(high if loss(high) < found.fun else found.x)
    return parameters, self._tokens(flops, parameters)

  def _tokens(self, flops: float, parameters: float) -> float:
    return (flops / parameters - 2 * (self.served_tokens or 0)) / 6

  def loss(self, form: Form, parameters: float, tokens: float) -> float | None:
    """L of N and D, with diminishing value of repeats; None if the form has no loss."""
    if self.unique_tokens is not None:
      return data_constrained(form).data_constrained_loss(parameters, tokens, self.unique_tokens)
    return form.loss(parameters, tokens) if hasattr(form, 'loss') else None

  def flops_for(self, form: Form, loss: float) -> float | None:
    """The minimum FLOPs that reach the loss; inf if none do, None if the form has no loss."""
    excess = lambda log_c: self.loss(form, *self.optimum(form, math.exp(log_c))) - loss
    if not self.has_loss(form):
      return None
    if self.min_loss(form) >= loss:
      return math.inf
    # The unconstrained cost is a lower bound.
    low = math.log(form.flops_for(loss)) - 1e-6 if isinstance(form, ParametricLaw) else 0.0
    high = low + 1
    while excess(high) > 0:
      low, high = high, 2 * high - low + 1
    return math.exp(optimize.brentq(excess, low, high, xtol=1e-10)) if excess(low) > 0 else (
        math.exp(low))

  def tokens_for(self, form: Form, parameters: float, loss: float, about: float) -> float:
    """D, of the order of `about`, at which N parameters reach the loss."""
    excess = lambda log_d: self.loss(form, parameters, math.exp(log_d)) - loss
    middle = math.log(about)
    return math.exp(optimize.brentq(excess, middle - 5, middle + 5, xtol=1e-12))

  def has_loss(self, form: Form) -> bool:
    """Whether the form has a loss, under these constraints."""
    if self.unique_tokens is not None or self.served_tokens is not None:
      return isinstance(form, ParametricLaw)
    return hasattr(form, 'loss')

  def min_loss(self, form: Form) -> float:
    """The loss that no budget gets below."""
    return self.loss(form, *self.optimum(form, _MAX_FLOPS))


def data_constrained(form: ParametricLaw):
  """The law with the constants of repetition of Muennighoff et al., unless it has its own."""
  theirs = LAWS['muennighoff'].form
  if isinstance(form, type(theirs)):
    return form
  return type(theirs)(form.e, form.a, form.alpha, form.b, form.beta, theirs.r_tokens,
                      theirs.r_parameters)
