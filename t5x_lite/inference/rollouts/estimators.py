"""How the rewards of a rollout become advantages: settings that a rollout source is given.

Shape letters: R rows (the completions of a prompt are rows, side by side), L length of a row,
F reward functions.
"""

import dataclasses
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from t5x_lite.core.dataclass_checks import (
  FieldError,
  NonNegative,
  Positive,
  Range,
  check_types,
)
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.inference.rollouts import advantages

_Discount = Annotated[float, Range(min=0, max=1)]


class Scored(NamedTuple):
  """A rollout, as an estimator reads it.

  Attributes:
    rewards_RF: float32, of completions by each function.
    reward_weights: of the functions, whose weighted sum is the reward.
    weights_RL: float32, 1 on the tokens that are trained on, else 0.
    logprobs_RL, reference_logprobs_RL: float32, of the policy and its reference, 0 outside what was
      written; None without a reference.
    values_RL: float32, at the position that predicts a token; None without a head of values.
  """
  rewards_RF: np.ndarray
  reward_weights: tuple[float, ...]
  weights_RL: np.ndarray
  logprobs_RL: np.ndarray
  reference_logprobs_RL: np.ndarray | None
  values_RL: np.ndarray | None

  @property
  def rewards_R(self) -> np.ndarray:
    """The rewards of completions, float32."""
    return np.float32(np.float64(self.rewards_RF) @ np.asarray(self.reward_weights))

  def kl_RL(self, estimator: str) -> np.ndarray:
    """The KL penalty of each token, float32 [rows, length]; see advantages.kl_penalties."""
    if self.reference_logprobs_RL is None:
      raise UserError('a KL penalty is of a reference policy: set Rollouts.reference = True, or '
                      'the coefficient to 0')
    return advantages.kl_penalties(self.logprobs_RL, self.reference_logprobs_RL, self.weights_RL,
                                   estimator)


class Estimate(NamedTuple):
  """Features [rows, length] of a batch, what is logged, and the state of the estimator after it."""
  features: Batch
  stats: dict[str, float]
  state: dict[str, float]


@runtime_checkable
class Estimator(Protocol):
  """Settings of an estimate of advantages; a frozen dataclass with these may be bound in gin."""

  initial_state: dict[str, float]   # {} if no rollout depends on the one before

  def check(self, group_size: int) -> None:
    """Raises FieldError for groups that it cannot estimate from."""

  def __call__(self, scored: Scored, group_size: int, state: dict[str, float]) -> Estimate:
    """The advantages of a rollout, given the state after the one before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupEstimator:
  """A completion has one advantage, by comparison with the others of its group, at all its tokens.

  Defaults are GRPO's (Shao et al. 2024) as trl has them, but for groups of equal rewards, which
  teach nothing: DAPO (Yu et al. 2025) leaves them out, too. RLOO (Ahmadian et al. 2024) has
  baseline 'leave_one_out', scale 'none' and a KL penalty, of trl 0.05.
  """
  baseline: Literal['mean', 'leave_one_out'] = 'mean'            # see advantages.GroupAdvantages
  scale: Literal['group', 'batch', 'none'] = 'group'
  combine: Literal['sum_then_normalize', 'normalize_then_sum'] = 'sum_then_normalize'
  kl_coefficient: NonNegative[float] = 0.0    # of the KL to the reference, summed, in the reward
  skip_equal: bool = True                     # groups of equal rewards have no loss weight

  def __post_init__(self):
    check_types(self)
    self._group_advantages(None)

  @property
  def initial_state(self) -> dict[str, float]:
    """See Estimator."""
    return {}

  def check(self, group_size: int) -> None:
    """See Estimator."""
    if group_size < 2:
      raise FieldError(self, 'baseline', f'of a group of {group_size} there are no others to '
                       'compare with: raise Rollouts.group_size')

  def __call__(self, scored: Scored, group_size: int, state: dict[str, float]) -> Estimate:
    """See Estimator."""
    rewards_RF, weights_F = scored.rewards_RF, scored.reward_weights
    if self.kl_coefficient:
      kl_R1 = np.float64(scored.kl_RL('k1')).sum(1, keepdims=True)
      rewards_RF = np.concatenate([rewards_RF, kl_R1], 1)
      weights_F = (*weights_F, -self.kl_coefficient)
    rewards_GKF = np.float64(rewards_RF).reshape(-1, group_size, len(weights_F))
    found_R1 = self._group_advantages(weights_F)(rewards_GKF).reshape(-1, 1)
    equal_G = (rewards_GKF == rewards_GKF[:, :1]).all((1, 2))
    weights_RL = scored.weights_RL
    if self.skip_equal:
      weights_RL = weights_RL * ~np.repeat(equal_G, group_size)[:, None]
    features = {'advantages': np.float32(found_R1 * weights_RL)}
    return Estimate(features | policy_features(scored, weights_RL),
                    {'equal_groups': float(equal_G.mean())}, state)

  def _group_advantages(self, weights: tuple[float, ...] | None) -> advantages.GroupAdvantages:
    return advantages.GroupAdvantages(baseline=self.baseline, scale=self.scale,
                                      combine=self.combine, weights=weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueEstimator:
  """PPO's advantages: of what a head of values expected at each token (GAE), less a KL penalty.

  Defaults are trl's; InstructGPT (Ouyang et al. 2022) has a KL coefficient of 0.02, and
  lm-human-preferences (Ziegler et al. 2019) 0.2, adapted to a target of 6 nats over a horizon of
  10,000 completions, with whitened rewards.
  """
  kl_coefficient: NonNegative[float] = 0.05  # of the KL to the reference, at each token
  kl_estimator: Literal['k1', 'k3'] = 'k1'   # see advantages.kl_penalties
  kl_target: Positive[float] | None = None   # nats a completion; None: the coefficient is constant
  kl_horizon: Positive[float] = 10_000.0     # completions in which the coefficient adapts
  gamma: _Discount = 1.0                     # what a reward is worth a token earlier
  lam: _Discount = 0.95                      # of GAE: 0 trusts the values, 1 what was rewarded
  whiten_rewards: bool = False               # to a variance of 1, with their mean
  whiten_advantages: bool = True             # to a mean of 0 and a variance of 1

  def __post_init__(self):
    check_types(self)
    if self.kl_target is not None and not self.kl_coefficient:
      raise FieldError(self, 'kl_target', 'scales kl_coefficient, which is 0: raise that')

  @property
  def initial_state(self) -> dict[str, float]:
    """See Estimator."""
    return {} if self.kl_target is None else {'kl_coefficient': self.kl_coefficient}

  def check(self, group_size: int) -> None:
    """See Estimator: any groups will do."""

  def __call__(self, scored: Scored, group_size: int, state: dict[str, float]) -> Estimate:
    """See Estimator."""
    if scored.values_RL is None:
      raise UserError("ValueEstimator reads values, which the model has none of: set "
                      "ModelConfig.head = 'value', and let it be new with InitFrom.missing_ok")
    mask_RL, beta = scored.weights_RL, state.get('kl_coefficient', self.kl_coefficient)
    kl_RL = scored.kl_RL(self.kl_estimator) if beta else np.zeros_like(mask_RL)
    rewards_RL = advantages.token_rewards(scored.rewards_R, kl_RL, mask_RL, beta=beta)
    if self.whiten_rewards:
      rewards_RL = advantages.whiten(rewards_RL, mask_RL, shift_mean=False)
    found_RL, returns_RL = advantages.generalized_advantages(
        rewards_RL, scored.values_RL, mask_RL, gamma=self.gamma, lam=self.lam)
    stats = {}
    if (mask_RL > 0).any():
      real = mask_RL > 0
      error, spread = (returns_RL - scored.values_RL)[real].var(), returns_RL[real].var()
      stats = {'values': scored.values_RL[real].mean(), 'returns': returns_RL[real].mean(),
               'explained_variance': 1 - error / max(spread, 1e-12)}
    if self.whiten_advantages:
      found_RL = advantages.whiten(found_RL, mask_RL)
    if self.kl_target is not None:
      stats['kl_coefficient'] = beta
      kl = float(np.float64(scored.kl_RL('k1')).sum(1).mean())
      state = {'kl_coefficient': advantages.adapted_kl_coefficient(
          beta, kl, target=self.kl_target, horizon=self.kl_horizon, responses=len(mask_RL))}
    features = {'advantages': found_RL, 'returns': returns_RL,
                'old_values': np.float32(scored.values_RL * mask_RL)}
    return Estimate(features | policy_features(scored, mask_RL),
                    {name: float(x) for name, x in stats.items()}, state)


def policy_features(scored: Scored, weights_RL: np.ndarray) -> Batch:
  """What losses of policies read besides advantages, of tokens with these loss weights."""
  of_tokens = lambda x_RL: np.float32(np.where(weights_RL > 0, x_RL, 0))
  features = {'decoder_loss_weights': weights_RL.astype(np.int32),
              'old_logprobs': of_tokens(scored.logprobs_RL)}
  if scored.reference_logprobs_RL is not None:
    features['reference_logprobs'] = of_tokens(scored.reference_logprobs_RL)
  return features
