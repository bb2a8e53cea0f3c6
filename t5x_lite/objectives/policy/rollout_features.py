"""What objectives of a policy read of a batch of rollouts.

A row is a prompt and a response that was drawn; see data/features.py. `old_logprobs`, `advantages`,
`reference_logprobs`, `old_values` and `returns` are float32 [batch, length], aligned with the
targets and 0 where these have no loss weight.
"""

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch

_CURES = {'reference_logprobs': 'give the rollouts a reference, or set PolicyLoss.beta = 0',
          'old_values': "give the rollouts values: advantages 'gae'",
          'returns': "give the rollouts values: advantages 'gae'"}


def check_rollouts(batch: Batch, objective: str, *features: str) -> None:
  """Raises UserError, one line with the cure, if a batch is not one of rollouts with these."""
  missing = [name for name in features if name not in batch]
  if missing:
    cure = _CURES.get(missing[0], 'set Experiment.data to a source of rollouts')
    raise UserError(f'{objective} reads `{missing[0]}`, which the data does not have: {cure}')


def completion_mask(batch: Batch) -> jax.Array:
  """1 for the tokens of responses and 0 for others, float32 [batch, length]."""
  return (batch['decoder_loss_weights'] != 0).astype(jnp.float32)
