"""The optimal N and D of a law under limits: unique tokens, model size, tokens served."""

from collections.abc import Callable
import dataclasses
import math

from scipy import optimize

from scaling.laws.laws import FACTORS, LAWS, Form, ParametricLaw

Cost = Callable[[float], float]   # N -> training FLOPs a token, or what a served token costs
_MAX_FLOPS = 1e45   # above any budget: its loss is the minimum


def six_n(parameters: float) -> float:
  """The cost of a token by the laws: 6 N."""
  return 6 * parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """Attributes:
    unique_tokens: tokens available; those of D above it are repeats (Muennighoff et al. 2023).
    max_parameters: of the largest model that can be served.
    served_tokens: tokens of inference, which the budget includes (Sardana et al. 2024).
    serving: N -> FLOPs of training for the price of a served token; None: 2 N, a third of a token
      of training.
  """
  unique_tokens: float | None = None
  max_parameters: float | None = None
  served_tokens: float | None = None
  serving: Cost | None = None

  def __bool__(self) -> bool:
    return any(value is not None for value in (
        self.unique_tokens, self.max_parameters, self.served_tokens))

  def served_flops(self, parameters: float, cost: Cost = six_n) -> float:
    """What all served tokens cost, in FLOPs of training."""
    each = cost(parameters) / 3 if self.serving is None else self.serving(parameters)
    return (self.served_tokens or 0) * each

  def optimum(self, form: Form, flops: float, cost: Cost = six_n) -> tuple[float, float] | None:
    """(N, D) of the minimum loss with 6 N D + 2 N D_served = flops; None if not parametric.

    With another `cost` than 6 N, or `serving`, cost(N) D + served_flops(N) = flops.
    """
    if cost is six_n and self.unique_tokens is None and self.served_tokens is None:
      parameters, tokens = form.optimum(flops)
      max_n = self.max_parameters or math.inf
      return (max_n, flops / 6 / max_n) if parameters > max_n else (parameters, tokens)
    if not isinstance(form, ParametricLaw):
      return None
    high = math.log(form.optimum(flops)[0]) + 3
    if self.served_tokens:   # above this N, serving takes the whole budget
      left = lambda log_n: flops - self.served_flops(math.exp(log_n), cost)
      low = high
      while left(low) <= 0:
        low -= 4
      high = high if left(high) > 0 else optimize.brentq(left, low, high) - 1e-9
    if self.max_parameters:
      high = min(high, math.log(self.max_parameters))
    loss = lambda log_n: self.loss(
        form, math.exp(log_n), self._tokens(flops, math.exp(log_n), cost))
    found = optimize.minimize_scalar(loss, bounds=(high - 11, high), method='bounded',
                                     options={'xatol': 1e-8})
    parameters = math.exp(high if loss(high) < found.fun else found.x)
    return parameters, self._tokens(flops, parameters, cost)

  def _tokens(self, flops: float, parameters: float, cost: Cost) -> float:
    return (flops - self.served_flops(parameters, cost)) / cost(parameters)

  def loss(self, form: Form, parameters: float, tokens: float) -> float | None:
    """L of N and D, with diminishing value of repeats; None if the form has no loss."""
    if self.unique_tokens is not None:
      return data_constrained(form).data_constrained_loss(parameters, tokens, self.unique_tokens)
    return form.loss(parameters, tokens) if hasattr(form, 'loss') else None

  def flops_for(self, form: Form, loss: float, cost: Cost = six_n) -> float | None:
    """The minimum FLOPs that reach the loss; inf if none do, None if the form has no loss."""
    excess = lambda log_c: self.loss(form, *self.optimum(form, math.exp(log_c), cost)) - loss
    if not self.has_loss(form):
      return None
    if self.min_loss(form) >= loss:
      return math.inf
    low = math.log(form.flops_for(loss)) - 1e-6 if isinstance(form, ParametricLaw) else 0.0
    while excess(low) <= 0:   # the cost of 6 N alone is a lower bound unless `cost` is less
      if cost is six_n:
        return math.exp(low)
      low -= 1
    high = low + 1
    while excess(high) > 0:
      low, high = high, 2 * high - low + 1
    return math.exp(optimize.brentq(excess, low, high, xtol=1e-10))

  def tokens_for(self, form: Form, parameters: float, loss: float, about: float) -> float:
    """D, of the order of `about`, at which N parameters reach the loss; inf if none does."""
    excess = lambda log_d: self.loss(form, parameters, math.exp(log_d)) - loss
    low, high = math.log(about) - 5, math.log(about) + 5
    if excess(high) > 0:
      high += 40
      if excess(high) > 0:
        return math.inf
    while excess(low) < 0:
      low -= 5
    return math.exp(optimize.brentq(excess, low, high, xtol=1e-12))

  def compute_overheads(self, form: ParametricLaw, flops: float, cost: Cost = six_n
                        ) -> dict[float, float | None]:
    """Factor of the optimal N -> FLOPs, as a multiple, for the same loss under these constraints.

    The FLOPs include serving. inf: no number of tokens reaches the loss; None: above
    `max_parameters`.
    """
    parameters, tokens = self.optimum(form, flops, cost)
    loss = self.loss(form, parameters, tokens)
    found = {}
    for factor in FACTORS:
      other = factor * parameters
      if self.max_parameters and other > self.max_parameters * (1 + 1e-9):
        found[factor] = None
        continue
      needed = self.tokens_for(form, other, loss, tokens) if factor != 1 else tokens
      found[factor] = (cost(other) * needed + self.served_flops(other, cost)) / flops
    return found

  def prices(self, form: ParametricLaw, flops: float, cost: Cost = six_n
             ) -> dict[str, tuple[float, float]]:
    """Limit -> (FLOPs that reach this loss without it, loss of these FLOPs without it).

    Of `unique_tokens` and `max_parameters`; tokens are served all the same.
    """
    loss = self.loss(form, *self.optimum(form, flops, cost))
    found = {}
    for name in ('unique_tokens', 'max_parameters'):
      if getattr(self, name) is not None:
        free = dataclasses.replace(self, **{name: None})
        found[name] = (free.flops_for(form, loss, cost),
                       free.loss(form, *free.optimum(form, flops, cost)))
    return found

  def trained_alone(self, form: ParametricLaw, flops: float, cost: Cost = six_n
                    ) -> tuple[float, float]:
    """(N that reaches this loss with the least training, FLOPs of it with serving)."""
    free = dataclasses.replace(self, served_tokens=None)
    training = free.flops_for(form, self.loss(form, *self.optimum(form, flops, cost)), cost)
    parameters, _ = free.optimum(form, training, cost)
    return parameters, training + self.served_flops(parameters, cost)

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
