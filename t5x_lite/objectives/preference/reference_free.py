"""Preferences without a reference: CPO, SimPO and ORPO, whose anchor is the chosen's likelihood.

trl is its release 1.16.

Shape letters: B groups, K responses.
"""

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import FieldError, NonNegative, Positive, Range, check_types
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.preference import groups
from t5x_lite.objectives.preference.paired import hinge_loss, smoothed_log_loss

_Smoothing = Annotated[float, Range(min=0, below=0.5)]


def cpo_loss(name: str, chosen: jax.Array, rejected: jax.Array, *, beta: float,
             smoothing: float = 0.0) -> jax.Array:
  """CPO's loss of pairs (Xu et al. 2024, equation 3): DPO with a uniform reference; [batch].

  Args:
    name: 'sigmoid', CPO's own; 'hinge', SLiC's; 'ipo', trl's.
    chosen, rejected: [batch] log-probabilities: of responses, or a token for `ipo`.
    beta: factor of their difference, as DPO's.
    smoothing: share of labels that are wrong, of `sigmoid`.
  """
  difference = chosen - rejected
  if name == 'ipo':
    return jnp.square(difference - 1 / (2 * beta))
  if name == 'hinge':
    return hinge_loss(beta * difference)
  return smoothed_log_loss(beta * difference, smoothing)


def simpo_loss(chosen: jax.Array, rejected: jax.Array, *, beta: float, gamma: float,
               smoothing: float = 0.0) -> jax.Array:
  """-log sigmoid(beta * (chosen - rejected) - gamma) of log-probabilities a token, [batch].

  SimPO (Meng et al. 2024, equation 6).
  """
  return smoothed_log_loss(beta * (chosen - rejected) - gamma, smoothing)


def alpha_reward(logps: jax.Array, alpha: float) -> jax.Array:
  """(1 - p^-alpha) / alpha of log-probabilities a token; of any shape; log p where alpha is 0.

  AlphaPO (Gupta et al. 2025): above 0 what is unlikely already is pushed down the harder.
  """
  return -jnp.expm1(-alpha * logps) / alpha if alpha else logps


def log_odds_ratio(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
  """log(odds of the chosen / odds of the rejected) of log-probabilities a token; [batch].

  ORPO (Hong et al. 2024, section 4.2).
  """
  log_odds = lambda x: x - _log1mexp(x)
  return log_odds(chosen) - log_odds(rejected)


def _log1mexp(x: jax.Array) -> jax.Array:
  """log(1 - e^x) of x at most 0, where 0 is taken for the number before it."""
  x = jnp.minimum(x, -jnp.finfo(x.dtype).eps)
  near = x > -0.693   # log 2: each form is exact on its side
  return jnp.where(near, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CPO:
  """Contrastive preference optimisation of groups of two responses, the chosen one first.

  Defaults are the paper's. Metrics as groups.paired_sums, with rewards of beta times the
  log-probability that the loss reads.
  """
  loss: Literal['sigmoid', 'hinge', 'ipo'] = 'sigmoid'   # ipo is of log-probabilities a token
  beta: Positive[float] = 0.1         # factor of the difference of log-probabilities
  label_smoothing: _Smoothing = 0.0   # share of labels that are wrong, of sigmoid
  nll: NonNegative[float] = 1.0       # factor of the chosen's cross-entropy, a mean over tokens

  def __post_init__(self):
    check_types(self)
    if self.label_smoothing and self.loss != 'sigmoid':
      raise FieldError(self, 'label_smoothing', f'loss {self.loss} has none')

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'CPO', responses=2)
    responses = groups.responses_of(model, batch)
    logps_BK = responses.mean_logps() if self.loss == 'ipo' else responses.logps
    loss_B = cpo_loss(self.loss, logps_BK[:, 0], logps_BK[:, 1], beta=self.beta,
                      smoothing=self.label_smoothing)
    return groups.paired_sums(loss_B, self.beta * logps_BK, responses, batch, normalizers,
                              self.nll)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimPO:
  """SimPO of groups of two responses, the chosen one first: the reward is beta times the
  log-probability a token.

  Defaults are the paper's for Llama 3. Metrics as groups.paired_sums.
  """
  beta: Positive[float] = 2.0         # factor of the log-probability a token
  gamma: NonNegative[float] = 1.0     # the difference of rewards that is aimed at; half of beta
  label_smoothing: _Smoothing = 0.0   # share of labels that are wrong (trl)
  # AlphaPO's, whose reward is of (1 - p^-alpha) / alpha; 0: of log p
  alpha: Annotated[float, Range(min=-10, max=10)] = 0.0
  nll: NonNegative[float] = 0.0       # factor of the chosen's cross-entropy: above 0, CPO-SimPO

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'SimPO', responses=2)
    responses = groups.responses_of(model, batch)
    scores_BK = alpha_reward(responses.mean_logps(), self.alpha)
    loss_B = simpo_loss(scores_BK[:, 0], scores_BK[:, 1], beta=self.beta, gamma=self.gamma,
                        smoothing=self.label_smoothing)
    return groups.paired_sums(loss_B, self.beta * scores_BK, responses, batch, normalizers,
                              self.nll)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ORPO:
  """Odds ratio preference optimisation of groups of two responses, the chosen one first.

  The chosen's cross-entropy and beta times -log sigmoid(log odds ratio). The cross-entropy is that
  of the completion, as in the paper; trl's is of the prompt's tokens too. Defaults are
  the paper's. Metrics as groups.paired_sums, and `log_odds_ratio`.
  """
  beta: Positive[float] = 0.1     # factor of the odds ratio's loss, lambda of the paper
  nll: NonNegative[float] = 1.0   # factor of the chosen's cross-entropy, a mean over tokens

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'ORPO', responses=2)
    responses = groups.responses_of(model, batch)
    logps_BK = responses.mean_logps()
    ratio_B = log_odds_ratio(logps_BK[:, 0], logps_BK[:, 1])
    sums = groups.paired_sums(self.beta * smoothed_log_loss(ratio_B), self.beta * logps_BK,
                              responses, batch, normalizers, self.nll)
    valid_B = responses.pair_valid()
    return dataclasses.replace(sums, metrics=sums.metrics | {
        'log_odds_ratio': ((ratio_B * valid_B).sum(), valid_B.sum())})
