"""Published scaling laws: what they say, what they count, and where they were fitted.

N is a number of parameters, D of tokens, C of training FLOPs, L a loss in nats a token. What N and
C count, and so what the answers mean, is said of each law: laws that count differently do not give
answers that can be compared digit by digit.
"""

import dataclasses
import math
from typing import Literal, Protocol

from scipy import optimize

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)   # of the optimal N: the price of being wrong


class Form(Protocol):
  """What every law can do."""

  def optimum(self, flops: float) -> tuple[float, float]:
    """(N, D) of the lowest loss that so much compute buys."""


@dataclasses.dataclass(frozen=True)
class Additive:
  """L(N, D) = E + A / N ** alpha + B / D ** beta, with C = 6 N D (Hoffmann et al. 2022, eq. 2)."""

  e: float
  a: float
  alpha: float
  b: float
  beta: float

  def loss(self, parameters: float, tokens: float) -> float:
    return self.e + self.a * parameters ** -self.alpha + self.b * tokens ** -self.beta

  def optimum(self, flops: float) -> tuple[float, float]:
    """Hoffmann et al. 2022, equation 4."""
    ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
    parameters = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
    return parameters, flops / 6 / parameters

  @classmethod
  def over_training(cls, e: float, a: float, b: float, eta: float) -> 'Additive':
    """L(C, M) = E + (a M ** eta + b M ** -eta) C ** -eta with M = D / N, as an additive law.

    Gadre et al. 2024 ("Language models scale reliably with over-training", arXiv 2403.08540),
    equation 4: alpha = beta = 2 eta, so that at any M loss falls by the same power of C. In the
    registry are no constants of theirs; this is a form to fit.
    """
    return cls(e, a * 6 ** -eta, 2 * eta, b * 6 ** -eta, 2 * eta)

  def over_trained(self, flops: float, factor: float) -> tuple[float, float]:
    """(N, D) of the budget with `factor` times the tokens a parameter of its optimum."""
    parameters, tokens = self.optimum(flops)
    return parameters / math.sqrt(factor), tokens * math.sqrt(factor)

  def tokens_for(self, parameters: float, loss: float) -> float:
    """D at which N parameters reach the loss; inf if no D does."""
    left = loss - self.e - self.a * parameters ** -self.alpha
    return (self.b / left) ** (1 / self.beta) if left > 0 else math.inf

  def optimal_tokens(self, parameters: float) -> float:
    """The D for which N parameters are optimal: alpha A / N ** alpha = beta B / D ** beta."""
    return (self.beta * self.b / (self.alpha * self.a) * parameters ** self.alpha
            ) ** (1 / self.beta)

  def flops_for(self, loss: float) -> float:
    """The least C that reaches the loss; inf if none does."""
    if loss <= self.e:
      return math.inf
    excess = lambda log_c: self.loss(*self.optimum(math.exp(log_c))) - loss
    return math.exp(optimize.brentq(excess, 0.0, 700.0, xtol=1e-13, rtol=1e-14))

  def price_of(self, flops: float, factor: float) -> float:
    """How many times C the loss of its optimum costs with `factor` times the optimal N."""
    parameters, tokens = self.optimum(flops)
    other = factor * parameters
    return 6 * other * self.tokens_for(other, self.loss(parameters, tokens)) / flops

  def prices(self, flops: float) -> dict[float, float]:
    """`price_of` each of FACTORS; inf is never."""
    return {factor: self.price_of(flops, factor) for factor in FACTORS}

  def inference_optimum(self, parameters: float, served: float) -> tuple[float, float]:
    """(N, D) of the least 6 N D + 2 N D_served with the loss of an optimal model.

    Sardana et al. 2024 ("Beyond Chinchilla-Optimal", arXiv 2401.00448), equation 2.

    Args:
      parameters: of the compute-optimal model whose loss is asked for.
      served: tokens that the model will read and write once it is trained.
    """
    loss = self.loss(parameters, self.optimal_tokens(parameters))
    cost = lambda log_n: math.log(
        math.exp(log_n) * (6 * self.tokens_for(math.exp(log_n), loss) + 2 * served))
    # Below this N no number of tokens reaches the loss.
    least = math.log((self.a / (loss - self.e)) ** (1 / self.alpha))
    found = optimize.minimize_scalar(cost, bounds=(least + 1e-9, math.log(parameters)),
                                     method='bounded', options={'xatol': 1e-12})
    best = math.exp(found.x)
    return best, self.tokens_for(best, loss)


@dataclasses.dataclass(frozen=True)
class DataLimited(Additive):
  """An additive law whose tokens lose worth when they are repeated.

  Muennighoff et al. 2023 ("Scaling Data-Constrained Language Models", arXiv 2305.16264), equations
  5 and 6: of U unique tokens, D count as D' = U + U R (1 - exp(-(D / U - 1) / R)), and of N those
  above what U asks for likewise.
  """

  r_tokens: float      # R_D*
  r_parameters: float  # R_N*

  def worth(self, seen: float, unique: float, r: float) -> float:
    """D' of D tokens of which so many are unique, or N' likewise."""
    if seen <= unique:
      return seen
    return unique + unique * r * -math.expm1(-(seen / unique - 1) / r)

  def limited_loss(self, parameters: float, tokens: float, unique: float) -> float:
    """L of N and D where only `unique` different tokens are there."""
    unique = min(unique, tokens)
    enough = min(parameters, self.parameters_of(unique))
    return self.loss(self.worth(parameters, enough, self.r_parameters),
                     self.worth(tokens, unique, self.r_tokens))

  def parameters_of(self, tokens: float) -> float:
    """The N for which D tokens are optimal."""
    return (self.alpha * self.a / (self.beta * self.b) * tokens ** self.beta) ** (1 / self.alpha)

  def limited_optimum(self, flops: float, unique: float) -> tuple[float, float]:
    """(N, D) of the lowest `limited_loss` with C = 6 N D.

    Below about a thousandth of the tokens that the budget asks for, more compute buys nothing: many
    N share the lowest loss, and one of them is returned.
    """
    middle = math.log(self.optimum(flops)[0])
    loss = lambda log_n: self.limited_loss(math.exp(log_n), flops / 6 / math.exp(log_n), unique)
    found = optimize.minimize_scalar(loss, bounds=(middle - 4, middle + 4), method='bounded',
                                     options={'xatol': 1e-12})
    return math.exp(found.x), flops / 6 / math.exp(found.x)


@dataclasses.dataclass(frozen=True)
class Allocation:
  """N = coefficient * C ** exponent of the lowest loss, and D = C / (6 N); the loss is not said."""

  coefficient: float
  exponent: float

  @classmethod
  def through(cls, flops: float, parameters: float, exponent: float) -> 'Allocation':
    """The law with a published exponent and a published optimum."""
    return cls(parameters * flops ** -exponent, exponent)

  def optimum(self, flops: float) -> tuple[float, float]:
    parameters = self.coefficient * flops ** self.exponent
    return parameters, flops / 6 / parameters


@dataclasses.dataclass(frozen=True)
class Kaplan(Allocation):
  """Kaplan et al. 2020 (arXiv 2001.08361): an allocation, and the loss of equation 1.5."""

  alpha_n: float = 0.076
  alpha_d: float = 0.103
  n_c: float = 6.4e13
  d_c: float = 1.8e13

  def loss(self, parameters: float, tokens: float) -> float:
    return ((self.n_c / parameters) ** (self.alpha_n / self.alpha_d)
            + self.d_c / tokens) ** self.alpha_d


@dataclasses.dataclass(frozen=True)
class FixedRatio:
  """So many tokens for each parameter, and L(C) = (C / c) ** -exponent + floor."""

  tokens_per_parameter: float
  c: float
  exponent: float
  floor: float

  def optimum(self, flops: float) -> tuple[float, float]:
    parameters = math.sqrt(flops / 6 / self.tokens_per_parameter)
    return parameters, flops / 6 / parameters

  def loss(self, parameters: float, tokens: float) -> float:
    """L of the FLOPs 6 N D, wherever on the frontier they are spent."""
    return (6 * parameters * tokens / self.c) ** -self.exponent + self.floor


@dataclasses.dataclass(frozen=True)
class Law:
  """A published law with its provenance.

  Attributes:
    form: the law itself.
    source: paper, and where in it the constants stand.
    counts: what N and C count.
    text: what it was fitted on, and the tokenizer, on which losses depend.
    fitted: (least, most) FLOPs of the runs it was fitted on; None if that is not known.
    note: what a reader of the source would stumble over.
    counted: which parameters N counts, for `scaling.planning.planner`.
    exponents: between which a lies in N ~ C ** a; None if nothing believable was published.
    draws: the law refitted to resampled runs, or the file in scaling/data with their constants.
    interval: what `exponents` or `draws` are.
  """

  form: Form
  source: str
  counts: str
  text: str
  fitted: tuple[float, float] | None
  note: str = ''
  counted: Literal['all', 'no_input_embedding', 'no_embedding', 'flops'] = 'all'
  exponents: tuple[float, float] | None = None
  draws: str | tuple[Additive, ...] = ()
  interval: str = ''

  def beyond(self, flops: float) -> float:
    """How many times the budget lies outside what was fitted: 1 inside."""
    if self.fitted is None:
      return 1.0
    least, most = self.fitted
    return max(flops / most, least / flops, 1.0)


_ALL = 'N: all parameters; C = 6 N D'
_MASSIVE = 'MassiveText, SentencePiece of 32,000'
_HOFFMANN = 'Hoffmann et al. 2022, arXiv 2203.15556'
# Of the 245 runs digitised from its figure 4 by Besiroglu et al.
_HOFFMANN_RUNS = (1.4e18, 1.3e22)
_ISO_FLOP = (6e18, 3e21)
_TABLE_2 = '10 to 90 % of bootstrap of the exponent, table 2'

LAWS: dict[str, Law] = {
    'hoffmann_1': Law(
        Allocation(0.09915893, 0.49809869), f'{_HOFFMANN}, approach 1, table A3', _ALL, _MASSIVE,
        _HOFFMANN_RUNS,
        'regressed on the nine rows of table A3, which it meets to 1.3 %; table 2 prints 0.50',
        exponents=(0.488, 0.502), interval=_TABLE_2),
    'hoffmann_2': Law(
        Allocation(0.14487705, 0.48994161), f'{_HOFFMANN}, approach 2, table A3', _ALL, _MASSIVE,
        _ISO_FLOP,
        'regressed on the nine rows of table A3, which it meets to 3.3 %; table 2 prints 0.49',
        exponents=(0.462, 0.534), interval=_TABLE_2),
    'hoffmann_3': Law(
        Additive(1.69, 406.4, 0.34, 410.7, 0.28), f'{_HOFFMANN}, approach 3, equation 10', _ALL,
        _MASSIVE, _HOFFMANN_RUNS,
        'as printed; rounding moves the optimum by a quarter (hoffmann_3_unrounded), and table A3 '
        'follows from neither; nor do these constants give an exponent (0.452) within the 0.454 to '
        '0.455 of table 2'),
    'hoffmann_3_unrounded': Law(
        Additive(math.exp(0.5267228), math.exp(6.0073404), 0.33917084, math.exp(6.0179186),
                 0.2849083),
        f'{_HOFFMANN}, TeX source, by way of Besiroglu et al. 2024', _ALL, _MASSIVE,
        _HOFFMANN_RUNS),
    'besiroglu': Law(
        Additive(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
        'Besiroglu et al. 2024, arXiv 2404.10102, equation 6', _ALL, _MASSIVE, _HOFFMANN_RUNS,
        'a refit of approach 3 on 240 of 245 digitised runs; it minimises absolute deviations, but '
        'E is that of the Huber loss (absolute deviations have 1.8169)',
        draws='besiroglu_draws.csv',
        interval='95 % of refits to resampled runs, whose spread is that of the errors published'),
    'kaplan': Law(
        Kaplan(4.68e9 * 1e21 ** -0.73, 0.73),
        'Kaplan et al. 2020, arXiv 2001.08361; N at 1e21 FLOPs as Hoffmann et al. 2022 give it',
        'N: without embeddings; C = 6 N D', 'WebText2, GPT-2 pieces', None,
        'models of up to 1.5e9 parameters; schedules that did not end with the run, and FLOPs '
        'without the last layer, favour large N (Porian et al. 2024)', counted='no_embedding'),
    'porian': Law(
        Allocation.through(5.88e23, 76.9e9, 0.497),
        'Porian et al. 2024, arXiv 2406.19146, tuned optimizer, RefinedWeb',
        'N: all but the input embedding; C = 6 N D', 'RefinedWeb, GPT-NeoX pieces',
        (1.25e16, 2.56e19), counted='no_input_embedding', exponents=(0.491, 0.505),
        interval='95 % of bootstrap of the exponent'),
    'porian_openwebtext2': Law(
        Allocation.through(5.88e23, 98.8e9, 0.518),
        'Porian et al. 2024, arXiv 2406.19146, tuned optimizer, OpenWebText2',
        'N: all but the input embedding; C = 6 N D', 'OpenWebText2, GPT-NeoX pieces',
        (1.25e16, 2.56e19), counted='no_input_embedding'),
    'muennighoff': Law(
        DataLimited(math.exp(0.6254804), math.exp(6.255414), 0.3526596, math.exp(7.3049974),
                    0.3526596, 15.387756, 5.309743),
        'Muennighoff et al. 2023, arXiv 2305.16264, appendix A and its notebook', _ALL,
        'C4, GPT-2 pieces', (4.3e15, 9.3e21),
        'what repeated tokens are worth is a local minimum of its own fit and hardly identified'),
    'llama3': Law(
        Allocation.through(3.8e25, 3.8e25 / 6 / 16.1e12, 1 - 0.537),
        'Llama Team 2024, arXiv 2407.21783, section 3.2.1, refitted on its digitised points', _ALL,
        'its own mixture, tiktoken of 128,000', (6e18, 1e22),
        'the constants printed for D, 0.29 and 0.53, give 10.5e12 tokens at 3.8e25 where the text '
        'has 16.55e12; those of the refit 16.1e12'),
    'deepseek': Law(
        Allocation(0.1715 / 6, 0.5243), 'DeepSeek-AI 2024, arXiv 2401.02954, equation 4',
        'N: a sixth of the training FLOPs of a token without embeddings, attention counted',
        'its own English and Chinese, byte-level BPE of 102,400', (1e17, 3e20),
        counted='flops'),
    'cerebras': Law(
        FixedRatio(20, 5.984e22, 0.0737, 0.5066),
        'Dey et al. 2023, arXiv 2304.03208, equation 1', _ALL, 'the Pile, GPT-2 pieces',
        (2.6e18, 2.3e22)),
}
