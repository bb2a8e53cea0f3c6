"""The loss of a value model, which says what reward is still to come at each token."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, Positive, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.policy import surrogates
from t5x_lite.objectives.policy.rollout_features import check_rollouts, completion_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueLoss:
  """PPO's loss of values, a mean over tokens.

  Of a model with ModelConfig.head = 'value', whose value at a position is of the target there, and
  a batch of rollouts with `old_values` and `returns`. Nothing is dropped out. Metrics, means over
  tokens: `value_loss`, without the coefficient, `value_clip`, a share, and `values`. Defaults are
  those of lm-human-preferences and trl.
  """
  coefficient: NonNegative[float] = 0.1   # factor of the loss
  clip: Positive[float] | None = 0.2   # how far from the old values they count; None: anywhere

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    check_rollouts(batch, 'ValueLoss', 'old_values', 'returns')
    values_BL = model.outputs(batch).values_BL
    if values_BL is None:
      raise UserError("ValueLoss reads values, which the model has none of: set "
                      "ModelConfig.head = 'value'")
    mask_BL = completion_mask(batch)
    values_BL = jnp.where(mask_BL > 0, values_BL, 0)
    loss_BL, clipped_BL = surrogates.value_losses(values_BL, batch['old_values'],
                                                  batch['returns'], self.clip)
    metrics = {name: surrogates.aggregate(x_BL, mask_BL, 'token') for name, x_BL in {
        'value_loss': loss_BL, 'value_clip': clipped_BL, 'values': values_BL}.items()}
    return LossSums(self.coefficient * metrics['value_loss'][0], mask_BL.sum(), metrics)
