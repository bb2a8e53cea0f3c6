"""What losses of preferences read of a batch of groups, and what they report.

A group is a prompt with its responses; see data/features.py. Of a pair the chosen one is first.

Shape letters: B groups, K responses, L length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import LossSums

_CURES = {
    'response_scores': 'set Experiment.data = @preference_data.PreferenceData()',
    'reference_logprobs': 'set Experiment.data = @reference_logprobs.WithReference()'}


class Responses(NamedTuple):
  """The responses of groups; float32 [batch, responses]."""
  logps: jax.Array     # sums of the log-probabilities of their tokens, the end token included
  lengths: jax.Array   # so many tokens
  valid: jax.Array     # 1, or 0 for padding

  def mean_logps(self) -> jax.Array:
    """The log-probability of a token, -1 for padding."""
    return jnp.where(self.valid > 0, self.logps / jnp.maximum(self.lengths, 1), -1.0)

  def pair_valid(self) -> jax.Array:
    """1 for a group with both responses, [batch]."""
    return self.valid[:, 0] * self.valid[:, 1]


def check_groups(batch: Batch, objective: str, *features: str, responses: int | None = None
                 ) -> None:
  """Raises UserError, one line with the cure, if a batch is not one of groups with the features."""
  missing = [name for name in ('response_scores', *features) if name not in batch]
  if missing:
    raise UserError(f'{objective} reads `{missing[0]}`, which the data does not have: '
                    f'{_CURES[missing[0]]}')
  number = batch['response_scores'].shape[1]
  if responses and number != responses:
    raise UserError(f'{objective} reads groups of {responses} responses, and the data has groups '
                    f'of {number}: set PreferenceData.responses = {responses}')


def responses_of(model: Model, batch: Batch) -> Responses:
  """The log-probabilities and lengths of the responses of a batch of groups."""
  there_BKL = batch['decoder_loss_weights'] != 0
  logprobs_BKL = jnp.where(there_BKL, token_logprobs(model, batch), 0)
  lengths_BK = there_BKL.sum(-1).astype(jnp.float32)
  return Responses(logprobs_BKL.sum(-1), lengths_BK, (lengths_BK > 0).astype(jnp.float32))


def reference_of(batch: Batch, responses: Responses) -> jax.Array:
  """The feature `reference_logprobs`, 0 for padding, [batch, responses]."""
  return jnp.where(responses.valid > 0, batch['reference_logprobs'], 0)


def loss_weight(batch: Batch) -> jax.Array:
  """The weight of a batch in LossSums, which a step divides by."""
  return batch['decoder_loss_weights'].astype(jnp.float32).sum()


def paired_sums(loss_B: jax.Array, rewards_BK: jax.Array, responses: Responses, batch: Batch,
                normalizers: dict[str, jax.Array], nll: float = 0.0) -> LossSums:
  """A loss of pairs as sums, a mean over the pairs of the global batch.

  Metrics are trl's: `loss`, `rewards/{chosen,rejected,margins}`, `rewards/accuracies`, a share of
  pairs whose chosen has the larger reward, and `logps/{chosen,rejected}`, of whole responses,
  means over pairs; with `nll` also `nll_loss`, nats a token.

  Args:
    loss_B: of each pair.
    rewards_BK: implicit rewards, for metrics alone.
    responses: of pairs, the chosen one first.
    batch, normalizers: see Objective.
    nll: factor of the cross-entropy of the chosen responses, a mean over all their tokens, which is
      added: RPO's alpha (Pang et al. 2024, who divide by the tokens of each), trl's `sft` and
      `cpo_alpha`.
  """
  valid_B = responses.pair_valid()
  of_pairs = lambda x_B: ((x_B * valid_B).sum(), valid_B.sum())
  chosen_B, rejected_B = rewards_BK[:, 0], rewards_BK[:, 1]
  loss = jnp.where(valid_B > 0, loss_B, 0).sum()
  metrics = {'loss': (loss, valid_B.sum())} | {name: of_pairs(x_B) for name, x_B in {
      'rewards/chosen': chosen_B, 'rewards/rejected': rejected_B,
      'rewards/margins': chosen_B - rejected_B, 'rewards/accuracies': chosen_B > rejected_B,
      'logps/chosen': responses.logps[:, 0], 'logps/rejected': responses.logps[:, 1]}.items()}
  total = normalizers['group'] * loss
  if nll:
    sum_nll = -responses.logps[:, 0].sum()
    total = total + nll * normalizers['chosen'] * sum_nll
    metrics['nll_loss'] = sum_nll, responses.lengths[:, 0].sum()
  return LossSums(total, loss_weight(batch), metrics)
