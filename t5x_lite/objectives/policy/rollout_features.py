"""What objectives of a policy read of a batch of rollouts.

A row is a prompt and a response that was drawn; see data/features.py. `old_logprobs`, `advantages`,
`reference_logprobs`, `old_values` and `returns` are float32 [batch, length], aligned with the
targets and 0 where these have no loss weight.
"""

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch

_CURES = {'reference_logprobs': 'set Rollouts.reference = True, or PolicyLoss.beta = 0',
          'old_values': 'set Rollouts.estimator = @estimators.ValueEstimator()',
          'returns': 'set Rollouts.estimator = @estimators.ValueEstimator()'}


def check_rollouts(batch: Batch, objective: str, *features: str) -> None:
  """Raises UserError, one line with the cure, if a batch is not one of rollouts with these."""
  missing = [name for name in features if name not in batch]
  if missing:
    cure = _CURES.get(missing[0], 'set Experiment.data = @source.Rollouts()')
    raise UserError(f'{objective} reads `{missing[0]}`, which the data does not have: {cure}')


def completion_mask(batch: Batch) -> jax.Array:
  """1 for the tokens of responses and 0 for others, float32 [batch, length]."""
  return (batch['decoder_loss_weights'] != 0).astype(jnp.float32)
