"""From the scores of what a policy wrote to the advantages by which it learns, in NumPy.

Two ways: PPO's, where a model of values says what was expected at each token, and that of groups,
where the other responses to the prompt do. Inputs and results are float32, sums are in float64.
trl is its releases 1.16 and, of PPO, 1.9. What a mask leaves out, such as a prompt, padding and
tokens after the end, changes nothing and is 0 in the results.

Shape letters: B rows, L length, G groups, K responses, F reward functions.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from t5x_lite.core.dataclass_checks import FieldError, Positive, check_types
from t5x_lite.core.errors import UserError

Estimator = Literal['k1', 'k3']
_KL_CLIP = 0.2   # of the relative error, in lm-human-preferences


def kl_penalties(logprobs: np.ndarray, reference: np.ndarray, mask: np.ndarray,
                 estimator: Estimator = 'k1') -> np.ndarray:
  """An estimate of KL(policy | reference) at each token, nats, float32 [batch, length].

  Args:
    logprobs: [batch, length] of the tokens, under the policy that drew them.
    reference: the same under the reference.
    mask: not 0 for tokens of the response.
    estimator: `k1`, the log ratio x, unbiased (InstructGPT, lm-human-preferences); `k3`,
      e^-x - 1 + x, unbiased too and never negative (Schulman 2020).
  """
  if estimator not in get_args(Estimator):
    raise UserError(f'no estimator of the KL divergence of rewards is named {estimator!r}: '
                    f'choose from {", ".join(get_args(Estimator))}')
  ratio_BL = np.where(mask, np.float64(logprobs) - reference, 0)
  return np.float32(ratio_BL if estimator == 'k1' else np.expm1(-ratio_BL) + ratio_BL)


def token_rewards(scores: np.ndarray, kl: np.ndarray, mask: np.ndarray, *, beta: float,
                  ended: np.ndarray | None = None, missing_end_penalty: float = 0.0
                  ) -> np.ndarray:
  """-beta * KL at each token, and the score at the last one, float32 [batch, length].

  As InstructGPT and lm-human-preferences. trl's PPO has the score a position later where the row
  has one, and so learns a value after the end: a mask that is one token longer gives its figures.

  Args:
    scores: [batch], of whole responses.
    kl: of kl_penalties.
    mask: [batch, length], not 0 for tokens of the response, the end token included.
    beta: factor of the KL divergence; InstructGPT has 0.02, trl 0.05.
    ended: [batch], whether the response has an end token.
    missing_end_penalty: what the score of one without loses, trl's missing_eos_penalty.
  """
  mask_BL = np.asarray(mask) != 0
  scores_B = np.float64(scores)
  if missing_end_penalty:
    scores_B = scores_B - missing_end_penalty * ~np.asarray(ended, bool)
  rewards_BL = np.where(mask_BL, -beta * np.float64(kl), 0)
  last_B = mask_BL.shape[1] - 1 - mask_BL[:, ::-1].argmax(1)
  rewards_BL[np.arange(len(rewards_BL)), last_B] += np.where(mask_BL.any(1), scores_B, 0)
  return np.float32(rewards_BL)


def penalized_scores(scores: np.ndarray, kl: np.ndarray, beta: float) -> np.ndarray:
  """Scores less beta * the sum of a response's KL, float32 [batch]: RLOO's rewards, with k1."""
  return np.float32(np.float64(scores) - beta * np.float64(kl).sum(1))


def generalized_advantages(rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, *,
                           gamma: float = 1.0, lam: float = 0.95
                           ) -> tuple[np.ndarray, np.ndarray]:
  """GAE (Schulman et al. 2016): (advantages, returns), both float32 [batch, length].

  delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, R_t = A_t + V_t, where t+1
  is the next token of the mask, and both are 0 after the last one. Returns are of advantages that
  are not whitened.

  Args:
    rewards: [batch, length], of token_rewards.
    values: [batch, length], what the value model said before it saw the token.
    mask: [batch, length], not 0 for tokens of the response.
    gamma, lam: discount and the trade of bias and variance; InstructGPT and trl have 1 and 0.95.
  """
  mask_BL, rewards_BL, values_BL = np.asarray(mask) != 0, np.float64(rewards), np.float64(values)
  advantages_BL = np.zeros_like(rewards_BL)
  next_advantage_B = next_value_B = np.zeros(len(rewards_BL))
  for t in reversed(range(rewards_BL.shape[1])):
    there_B = mask_BL[:, t]
    delta_B = rewards_BL[:, t] + gamma * next_value_B - values_BL[:, t]
    advantages_BL[:, t] = np.where(there_B, delta_B + gamma * lam * next_advantage_B, 0)
    next_advantage_B = np.where(there_B, advantages_BL[:, t], next_advantage_B)
    next_value_B = np.where(there_B, values_BL[:, t], next_value_B)
  returns_BL = np.where(mask_BL, advantages_BL + values_BL, 0)
  return np.float32(advantages_BL), np.float32(returns_BL)


def whiten(x: np.ndarray, mask: np.ndarray, *, shift_mean: bool = True,
           epsilon: float = 1e-8) -> np.ndarray:
  """x of variance 1 over all tokens of a mask, float32 [batch, length].

  Advantages are whitened, and rewards with shift_mean = False, if at all (lm-human-preferences).

  Args:
    x: [batch, length].
    mask: [batch, length], not 0 for the tokens that count.
    shift_mean: whether the mean becomes 0; else it stays as it is.
    epsilon: added to the variance, which has Bessel's correction.
  """
  mask_BL, x_BL = np.asarray(mask) != 0, np.float64(x)
  if mask_BL.sum() < 2:
    raise UserError(f'to whiten takes two tokens or more, and a batch of rollouts has '
                    f'{mask_BL.sum()}: draw more responses, or longer ones')
  mean = x_BL[mask_BL].mean()
  whitened_BL = (x_BL - mean) / np.sqrt(x_BL[mask_BL].var(ddof=1) + epsilon)
  return np.float32(np.where(mask_BL, whitened_BL + (0 if shift_mean else mean), 0))


def adapted_kl_coefficient(coefficient: float, kl: float, *, target: float, horizon: float,
                           responses: int) -> float:
  """The coefficient of the KL divergence for the next batch (Ziegler et al. 2019, section 2.2).

  It grows while the divergence is above its target: c * (1 + clip(KL / target - 1, -0.2, 0.2) *
  responses / horizon).

  Args:
    coefficient: of this batch; lm-human-preferences begins with 0.2.
    kl: nats, mean over responses of their summed k1.
    target: nats that it is to be; 6 there.
    horizon: responses after which the coefficient may have changed by a fifth or so; 10,000 there.
    responses: of this batch.
  """
  error = np.clip(kl / target - 1, -_KL_CLIP, _KL_CLIP)
  return float(coefficient * (1 + error * responses / horizon))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupAdvantages:
  """The reward of a response compared with those of others to the prompt.

  Defaults are GRPO's (Shao et al. 2024) in trl: (r - mean) / (std + 1e-4). Dr. GRPO (Liu et al.
  2025) has scale 'none'; RLOO (Ahmadian et al. 2024) baseline 'leave_one_out' and scale 'none'.
  """
  baseline: Literal['mean', 'leave_one_out'] = 'mean'   # of all the group, or of the others
  # What divides: the standard deviation of the group's rewards; of the batch's rewards, or with
  # leave_one_out of its advantages, both as trl; or nothing.
  scale: Literal['group', 'batch', 'none'] = 'group'
  # Several rewards: their sum is compared (trl), or each is, and the sum is whitened (GDPO).
  combine: Literal['sum_then_normalize', 'normalize_then_sum'] = 'sum_then_normalize'
  weights: tuple[float, ...] | None = None   # of the reward functions; None: all 1
  ddof: Literal[0, 1] = 1                    # of standard deviations: 1 is unbiased, as in trl
  epsilon: Positive[float] = 1e-4            # added to standard deviations

  def __post_init__(self):
    check_types(self)
    if self.combine == 'normalize_then_sum' and (self.baseline, self.scale) != ('mean', 'group'):
      raise FieldError(self, 'combine', "goes with baseline 'mean' and scale 'group' alone")

  def __call__(self, rewards: np.ndarray) -> np.ndarray:
    """Advantages of responses, float32 [groups, responses]; 0 where all of a group are equal.

    Args:
      rewards: [groups, responses], or [groups, responses, functions]; nan for what could not be
        scored, which has advantage 0 and counts for no mean.
    """
    rewards_GKF = np.float64(rewards)
    if rewards_GKF.ndim == 2:
      rewards_GKF = rewards_GKF[:, :, None]
    self._check(rewards_GKF)
    weights_F = np.ones(rewards_GKF.shape[2]) if self.weights is None else np.float64(self.weights)
    scored_GK = ~np.isnan(rewards_GKF).all(2)
    summed = lambda x_GKF: np.where(scored_GK, np.nansum(x_GKF * weights_F, axis=2), np.nan)
    with np.errstate(invalid='ignore', divide='ignore'):
      if self.combine == 'normalize_then_sum':
        each_GKF = (rewards_GKF - _mean(rewards_GKF, 1)) / (self._std(rewards_GKF, 1)
                                                            + self.epsilon)
        total_GK = summed(each_GKF)
        advantages_GK = (total_GK - _mean(total_GK)) / (self._std(total_GK) + self.epsilon)
      else:
        advantages_GK = self._normalized(summed(rewards_GKF))
    first_G1F = np.take_along_axis(rewards_GKF, scored_GK.argmax(1)[:, None, None], axis=1)
    same_GKF = (rewards_GKF == first_G1F) | (np.isnan(rewards_GKF) & np.isnan(first_G1F))
    equal_G = (same_GKF.all(2) | ~scored_GK).all(1)
    return np.float32(np.where(equal_G[:, None], 0, np.nan_to_num(advantages_GK)))

  def _normalized(self, rewards_GK):
    mean_G1 = _mean(rewards_GK, 1)
    if self.baseline == 'leave_one_out':
      others_G1 = (~np.isnan(rewards_GK)).sum(1, keepdims=True) - 1
      advantages_GK = (rewards_GK - mean_G1) * (others_G1 + 1) / others_G1
    else:
      advantages_GK = rewards_GK - mean_G1
    if self.scale == 'none':
      return advantages_GK
    if self.scale == 'group':
      return advantages_GK / (self._std(rewards_GK, 1) + self.epsilon)
    of_batch = advantages_GK if self.baseline == 'leave_one_out' else rewards_GK
    return advantages_GK / (self._std(of_batch) + self.epsilon)

  def _std(self, x, axis=None):
    """Of what is not nan; nan of fewer than two."""
    count = (~np.isnan(x)).sum(axis, keepdims=True)
    squares = np.nansum(np.square(x - _mean(x, axis)), axis=axis, keepdims=True)
    return np.sqrt(squares / np.where(count > 1, count - self.ddof, np.nan))

  def _check(self, rewards_GKF):
    if rewards_GKF.shape[1] < 2:
      raise UserError('GroupAdvantages: a group of one response has nothing to be compared with, '
                      'and no standard deviation: draw two or more responses to a prompt')
    if self.weights is not None and len(self.weights) != rewards_GKF.shape[2]:
      raise FieldError(self, 'weights', f'there are {rewards_GKF.shape[2]} reward functions: give '
                       'each a weight')
    if np.isinf(rewards_GKF).any():
      raise UserError('GroupAdvantages: a reward is infinite: see what the reward function gives')


def _mean(x, axis=None):
  """Of what is not nan, with the axis kept; nan of nothing."""
  count = (~np.isnan(x)).sum(axis, keepdims=True)
  return np.nansum(x, axis=axis, keepdims=True) / np.where(count > 0, count, np.nan)
