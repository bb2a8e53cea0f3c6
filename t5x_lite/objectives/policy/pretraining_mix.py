"""PPO-ptx: a share of pretraining in what a policy learns (Ouyang et al. 2022, equation 2)."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import Positive, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.objective import LossSums

PREFIX = 'pretraining_'


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingMix:
  """gamma times the cross-entropy, a mean over tokens, of the features that begin with
  `pretraining_`, beside a PolicyLoss.

  They are those of a language model, `pretraining_decoder_input_tokens` and so on, in rows of a
  number and a length of their own. Metrics: `pretraining_loss`, nats a token, and
  `pretraining_accuracy`, a share.
  """
  gamma: Positive[float] = 27.8   # of InstructGPT

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    if f'{PREFIX}decoder_loss_weights' not in batch:
      raise UserError(f'PretrainingMix reads `{PREFIX}decoder_loss_weights`, which the data does '
                      'not have: give Experiment.data a source of text beside the rollouts')
    text = {name.removeprefix(PREFIX): x for name, x in batch.items() if name.startswith(PREFIX)}
    sums = CrossEntropy().sums(model, text, key)
    return LossSums(self.gamma * normalizers['pretraining'] * sums.total, jnp.float32(0), {
        f'{PREFIX}{name}': x for name, x in sums.metrics.items()})
