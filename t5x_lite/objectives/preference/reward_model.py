"""A reward model: a number for a response, learnt from which of several is better.

Shape letters: B groups, K responses, L length; I and J run over responses.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.preference import groups


def response_rewards(values: jax.Array, loss_weights: jax.Array) -> jax.Array:
  """The value at the last position with a loss weight, [...]; 0 of a row without any.

  Args:
    values: [..., length] float, a value a position.
    loss_weights: [..., length], not 0 for the tokens of a response.
  """
  there = loss_weights != 0
  length = there.shape[-1]
  last = length - 1 - jnp.argmax(there[..., ::-1], axis=-1, keepdims=True)
  found = jnp.take_along_axis(values, last, axis=-1)[..., 0]
  return jnp.where(there.any(-1), found, 0)


def ranking_losses(rewards: jax.Array, scores: jax.Array, *, margin: float = 0.0,
                   center: float = 0.0) -> tuple[jax.Array, jax.Array]:
  """(losses, 1 where the first is better by its score) of all ordered pairs, [batch, K, K].

  The loss of a pair is -log sigmoid(r_i - r_j - margin * (score_i - score_j)) + center *
  (r_i + r_j)^2, and 0 of what is no pair: equal scores, or no response.

  Args:
    rewards: [batch, responses].
    scores: [batch, responses], larger is better, nan where there is no response.
    margin: Llama 2's (Touvron et al. 2023, equation 2), a unit of score; trl's margin of a pair.
    center: keeps rewards near 0 (Eisenstein et al. 2023), trl's center_rewards_coefficient.
  """
  first, second = rewards[:, :, None], rewards[:, None, :]
  better = scores[:, :, None] > scores[:, None, :]   # False of nan
  gap = jnp.where(better, scores[:, :, None] - scores[:, None, :], 0)
  losses = -jax.nn.log_sigmoid(first - second - margin * gap) + center * jnp.square(first + second)
  return jnp.where(better, losses, 0), better.astype(rewards.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel:
  """The pairwise loss of reward models, over all pairs of a group at once.

  So that a response is read once for all its pairs (InstructGPT, Ouyang et al. 2022, section 3.5).
  Of a model with ModelConfig.head = 'value', whose value at the last position of a response is its
  reward, and a batch of groups with scores; equal scores are no pair. Nothing is dropped out.
  Metrics: `loss`, `rewards/accuracies` and `rewards/margins`, means over pairs, and `rewards/mean`,
  over responses. Defaults are InstructGPT's.
  """
  # prompt: a mean over the pairs of a prompt, then over prompts (equation 1); pair: over all pairs,
  # as of trl, whose rows are pairs.
  average: Literal['prompt', 'pair'] = 'prompt'
  margin: NonNegative[float] = 0.0   # of rewards that a difference of 1 in score is to make
  center: NonNegative[float] = 0.0   # factor of the square of a pair's summed rewards; trl: 0.01

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'RewardModel')
    values = model.outputs(batch).values_BL
    if values is None:
      raise UserError("RewardModel reads values, which the model has none of: set "
                      "ModelConfig.head = 'value'")
    weights_BKL = batch['decoder_loss_weights']
    rewards_BK = response_rewards(values.reshape(weights_BKL.shape), weights_BKL)
    valid_BK = (weights_BKL != 0).any(-1)
    scores_BK = jnp.where(valid_BK, batch['response_scores'], jnp.nan)
    losses_BIJ, pairs_BIJ = ranking_losses(rewards_BK, scores_BK, margin=self.margin,
                                           center=self.center)
    pairs_B = pairs_BIJ.sum((1, 2))
    if self.average == 'pair':
      total = normalizers['pair'] * losses_BIJ.sum()
    else:
      total = normalizers['group'] * (losses_BIJ.sum((1, 2)) / jnp.maximum(pairs_B, 1)).sum()
    difference_BIJ = rewards_BK[:, :, None] - rewards_BK[:, None, :]
    pairs = pairs_B.sum()
    return LossSums(total, groups.loss_weight(batch), {
        'loss': (losses_BIJ.sum(), pairs),
        'rewards/accuracies': ((pairs_BIJ * (difference_BIJ > 0)).sum(), pairs),
        'rewards/margins': ((pairs_BIJ * difference_BIJ).sum(), pairs),
        'rewards/mean': (rewards_BK.sum(), valid_BK.astype(jnp.float32).sum())})
