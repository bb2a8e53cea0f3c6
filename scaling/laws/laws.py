"""Published scaling laws, with their sources, conventions and fitted ranges.

N is a number of parameters, D of tokens, C of training FLOPs, L a loss in nats a token. Each law
states what its N and C count; predictions of laws that count differently are not comparable digit
by digit.
"""

import dataclasses
import math
from typing import Literal, Protocol

import numpy as np
from scipy import optimize

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)   # of the optimal N, at which compute overhead is reported


class Form(Protocol):
  """The interface of every law."""

  def optimum(self, flops: float) -> tuple[float, float]:
    """(N, D) of the lowest loss at this compute."""


@dataclasses.dataclass(frozen=True)
class ParametricLaw:
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

  def tokens_for(self, parameters: float, loss: float) -> float:
    """D at which N parameters reach the loss; inf if no D does."""
    left = loss - self.e - self.a * parameters ** -self.alpha
    return (self.b / left) ** (1 / self.beta) if left > 0 else math.inf

  def flops_for(self, loss: float) -> float:
    """The minimum C that reaches the loss; inf if none does."""
    if loss <= self.e:
      return math.inf
    excess = lambda log_c: self.loss(*self.optimum(math.exp(log_c))) - loss
    return math.exp(optimize.brentq(excess, 0.0, 700.0, xtol=1e-13, rtol=1e-14))

  def compute_overhead(self, flops: float, factor: float) -> float:
    """FLOPs, as a multiple of C, for the optimal loss of C with `factor` times the optimal N."""
    parameters, tokens = self.optimum(flops)
    other = factor * parameters
    return 6 * other * self.tokens_for(other, self.loss(parameters, tokens)) / flops

  def compute_overheads(self, flops: float) -> dict[float, float]:
    """`compute_overhead` at each of FACTORS; inf where the loss is not reached."""
    return {factor: self.compute_overhead(flops, factor) for factor in FACTORS}


@dataclasses.dataclass(frozen=True)
class DataConstrainedLaw(ParametricLaw):
  """A parametric law of repeated data, in which repeats of a token have diminishing value.

  Muennighoff et al. 2023 ("Scaling Data-Constrained Language Models", arXiv 2305.16264), equations
  5 and 6: D tokens of which U are unique have the effect of
  D' = U + U R (1 - exp(-(D / U - 1) / R)) unique tokens; N parameters likewise, with the N that is
  optimal for U in place of U.
  """

  r_tokens: float      # R_D*
  r_parameters: float  # R_N*

  def effective_tokens(self, tokens: float, unique: float) -> float:
    """D' of D tokens, `unique` of them different."""
    return _saturate(tokens, unique, self.r_tokens)

  def effective_parameters(self, parameters: float, tokens: float) -> float:
    """N' of N parameters, for so many unique tokens."""
    optimal = np.minimum(parameters, self.optimal_parameters(tokens))
    return _saturate(parameters, optimal, self.r_parameters)

  def data_constrained_loss(self, parameters: float, tokens: float, unique: float) -> float:
    """L of N and D, with only `unique` different tokens."""
    unique = np.minimum(unique, tokens)
    return self.loss(self.effective_parameters(parameters, unique),
                     self.effective_tokens(tokens, unique))

  def optimal_parameters(self, tokens: float) -> float:
    """The N for which D tokens are optimal."""
    return (self.alpha * self.a / (self.beta * self.b) * tokens ** self.beta) ** (1 / self.alpha)


def _saturate(total, unique, r: float):
  """The effective number of `total`, of which those above `unique` have diminishing value."""
  excess = np.maximum(total / unique - 1, 0.0)
  return np.minimum(total, unique) + unique * r * -np.expm1(-excess / r)


def over_training(e: float, a: float, b: float, eta: float) -> ParametricLaw:
  """L(C, M) = E + (a M^eta + b M^-eta) C^-eta with M = D / N (Gadre et al. 2024, equation 4).

  As C = 6 N D, it is a parametric law whose exponents are both 2 eta: the term of N is that of a.
  """
  return ParametricLaw(e, a * 6 ** -eta, 2 * eta, b * 6 ** -eta, 2 * eta)


@dataclasses.dataclass(frozen=True)
class Allocation:
  """N = coefficient * C ** exponent of the lowest loss, and D = C / (6 N); no loss."""

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
  """A fixed number of tokens a parameter, and L(C) = (C / c) ** -exponent + floor."""

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
  """A law with its provenance.

  Attributes:
    form: the law itself.
    source: paper, and the equation or table of the constants.
    counts: what N and C count.
    text: the corpus and tokenizer of its runs, on which losses depend.
    fitted: (min, max) FLOPs of its runs; None if not known.
    note: errata and caveats of the source.
    counted: which parameters N counts, for `scaling.planning.planner`.
    exponents: interval of a in N ~ C ** a; None if no credible one is published.
    bootstrap_samples: the law refitted to resampled runs, or the file of their constants in
      scaling/data.
    interval: what `exponents` or `bootstrap_samples` are.
    vocabulary: tokens of its tokenizer, on which losses depend; None if not known.
    warnings: reasons to doubt the law, of the user's own fit.
  """

  form: Form
  source: str
  counts: str
  text: str
  fitted: tuple[float, float] | None
  note: str = ''
  counted: Literal['all', 'no_input_embedding', 'no_embedding', 'flops'] = 'all'
  exponents: tuple[float, float] | None = None
  bootstrap_samples: str | tuple[Form, ...] = ()
  interval: str = ''
  vocabulary: int | None = None
  warnings: tuple[str, ...] = ()

  def extrapolation(self, flops: float) -> float:
    """The factor by which a budget is outside the FLOPs of the runs; 1 inside."""
    if self.fitted is None:
      return 1.0
    min_flops, max_flops = self.fitted
    return max(flops / max_flops, min_flops / flops, 1.0)


_ALL = 'N: all parameters; C = 6 N D'
_GADRE = 'Gadre et al. 2024, arXiv 2403.08540, the table of its scaling laws'
_GADRE_NOTE = ('least squares of the loss of five runs of up to 4.1e8 parameters; the same fit to '
               'its released runs gives these digits')
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
        'regressed on the nine rows of table A3, which it fits to 1.3 %; table 2 prints 0.50',
        exponents=(0.488, 0.502), interval=_TABLE_2,
        vocabulary=32_000),
    'hoffmann_2': Law(
        Allocation(0.14487705, 0.48994161), f'{_HOFFMANN}, approach 2, table A3', _ALL, _MASSIVE,
        _ISO_FLOP,
        'regressed on the nine rows of table A3, which it fits to 3.3 %; table 2 prints 0.49',
        exponents=(0.462, 0.534), interval=_TABLE_2,
        vocabulary=32_000),
    'hoffmann_3': Law(
        ParametricLaw(1.69, 406.4, 0.34, 410.7, 0.28), f'{_HOFFMANN}, approach 3, equation 10',
        _ALL, _MASSIVE, _HOFFMANN_RUNS,
        'as printed; rounding changes the optimum by a quarter (hoffmann_3_unrounded); table A3 '
        'follows from neither, and the exponent (0.452) is outside the 0.454 to 0.455 of table 2',
        vocabulary=32_000),
    'hoffmann_3_unrounded': Law(
        ParametricLaw(math.exp(0.5267228), math.exp(6.0073404), 0.33917084, math.exp(6.0179186),
                      0.2849083),
        f'{_HOFFMANN}, TeX source, by way of Besiroglu et al. 2024', _ALL, _MASSIVE,
        _HOFFMANN_RUNS,
        vocabulary=32_000),
    'besiroglu': Law(
        ParametricLaw(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
        'Besiroglu et al. 2024, arXiv 2404.10102, equation 6', _ALL, _MASSIVE, _HOFFMANN_RUNS,
        'a refit of approach 3 on 240 of 245 digitised runs; it minimises absolute deviations, but '
        'E is that of the Huber loss (absolute deviations have 1.8169)',
        bootstrap_samples='besiroglu_bootstrap_samples.csv',
        interval='95 % of refits to resampled runs, with the spread of the published errors',
        vocabulary=32_000),
    'kaplan': Law(
        Kaplan(4.68e9 * 1e21 ** -0.73, 0.73),
        'Kaplan et al. 2020, arXiv 2001.08361; N at 1e21 FLOPs as Hoffmann et al. 2022 give it',
        'N: without embeddings; C = 6 N D', 'WebText2, GPT-2 pieces', None,
        'models of up to 1.5e9 parameters; schedules longer than the run, and FLOPs without the '
        'last layer, bias N upwards (Porian et al. 2024)', counted='no_embedding',
        vocabulary=50_257),
    'porian': Law(
        Allocation.through(5.88e23, 76.9e9, 0.497),
        'Porian et al. 2024, arXiv 2406.19146, tuned optimizer, RefinedWeb',
        'N: all but the input embedding; C = 6 N D', 'RefinedWeb, GPT-NeoX pieces',
        (1.25e16, 2.56e19), counted='no_input_embedding', exponents=(0.491, 0.505),
        interval='95 % of bootstrap of the exponent',
        vocabulary=50_277),
    'porian_openwebtext2': Law(
        Allocation.through(5.88e23, 98.8e9, 0.518),
        'Porian et al. 2024, arXiv 2406.19146, tuned optimizer, OpenWebText2',
        'N: all but the input embedding; C = 6 N D', 'OpenWebText2, GPT-NeoX pieces',
        (1.25e16, 2.56e19), counted='no_input_embedding',
        vocabulary=50_277),
    'muennighoff': Law(
        DataConstrainedLaw(math.exp(0.6254804), math.exp(6.255414), 0.3526596,
                           math.exp(7.3049974), 0.3526596, 15.387756, 5.309743),
        'Muennighoff et al. 2023, arXiv 2305.16264, appendix A and its notebook', _ALL,
        'C4, GPT-2 pieces', (4.3e15, 9.3e21),
        'the constants of repetition are a local minimum of its own fit and poorly identified',
        vocabulary=50_257),
    'llama3': Law(
        Allocation.through(3.8e25, 3.8e25 / 6 / 16.1e12, 1 - 0.537),
        'Llama Team 2024, arXiv 2407.21783, section 3.2.1, refitted on its digitised points', _ALL,
        'its own mixture, tiktoken of 128,000', (6e18, 1e22),
        'the printed constants of D, 0.29 and 0.53, give 10.5e12 tokens at 3.8e25 FLOPs; the text '
        'has 16.55e12, the refit 16.1e12',
        vocabulary=128_000),
    'deepseek': Law(
        Allocation(0.1715 / 6, 0.5243), 'DeepSeek-AI 2024, arXiv 2401.02954, equation 4',
        'N: a sixth of the training FLOPs of a token without embeddings, attention counted',
        'its own English and Chinese, byte-level BPE of 102,400', (1e17, 3e20),
        counted='flops',
        vocabulary=102_400),
    'cerebras': Law(
        FixedRatio(20, 5.984e22, 0.0737, 0.5066),
        'Dey et al. 2023, arXiv 2304.03208, equation 1', _ALL, 'the Pile, GPT-2 pieces',
        (2.6e18, 2.3e22),
        vocabulary=50_257),
    **{f'gadre_{name}': Law(
        over_training(*constants), _GADRE, _ALL, f'{corpus}, GPT-NeoX pieces, evaluated on C4',
        (1.34e16, 2.03e19), _GADRE_NOTE, vocabulary=50_277)
       for name, corpus, constants in (('c4', 'C4', (1.51, 141.0, 190.0, 0.121)),
                                       ('redpajama', 'RedPajama', (1.84, 212.0, 367.0, 0.136)),
                                       ('refinedweb', 'RefinedWeb', (1.73, 157.0, 246.0, 0.127)))},
}
