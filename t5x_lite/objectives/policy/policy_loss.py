"""Policy gradients on rollouts: PPO, GRPO and its kin as fields of one loss.

| method | surrogate | ratio | average | other |
| --- | --- | --- | --- | --- |
| PPO (trl, InstructGPT) | clip | token | token | advantages of GAE, KL in the reward |
| GRPO (Shao et al. 2024) | clip | token | sequence | beta 0.04 |
| Dr. GRPO (Liu et al. 2025) | clip | token | constant | max_new_tokens |
| DAPO (Yu et al. 2025) | clip | token | token | clip_high 0.28 |
| GSPO (Zheng et al. 2025) | clip | sequence_mean | sequence | clip_low 3e-4, clip_high 4e-4 |
| RLOO (Ahmadian et al. 2024) | clip | sequence_sum | sequence | leave-one-out, KL in the reward |
| LUSPO (trl) | clip | sequence_mean | sequence_sum | |
| CISPO (MiniMax 2025) | cispo | token | token | max_ratio |
| SAPO (Gao et al. 2025) | sapo | token | sequence | |

Shape letters: B rows, L length.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import (
    Count,
    FieldError,
    Fraction,
    NonNegative,
    Positive,
    check_types,
)
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.policy import surrogates
from t5x_lite.objectives.policy.rollout_features import check_rollouts, completion_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyLoss:
  """The surrogate loss of a batch of rollouts, with `old_logprobs` and `advantages`.

  Defaults are PPO's; the head of the file tells those of others. Nothing is dropped out. Metrics:
  `loss`; means over tokens of `ratio`, `entropy`, estimated by -log p, `approx_kl`, nats from the
  policy that drew the tokens, `mismatch`, e^|log ratio|, 1 until the first update or the sampler is
  not what is trained; `kl` to the reference if the batch has it; and of `clip`
  `clip_ratio/{low,high}`, shares of tokens, or sequences, whose gradient the bound stops.
  """
  surrogate: Literal['clip', 'cispo', 'sapo'] = 'clip'   # see objectives/policy/surrogates.py
  ratio: surrogates.RatioLevel = 'token'     # of a token, or of a sequence: the mean or the sum
  average: surrogates.Average = 'token'      # what the loss is a mean over
  clip_low: Fraction = 0.2                   # the ratio is bounded to 1 - clip_low, 1 + clip_high
  clip_high: NonNegative[float] = 0.2        # DAPO: 0.28
  # The largest ratio: of cispo; of clip where the advantage is negative (dual clip, trl's delta).
  max_ratio: Positive[float] | None = None
  gate_temperatures: tuple[Positive[float], Positive[float]] = (1.0, 1.05)   # of sapo: A > 0, A < 0
  max_new_tokens: Count | None = None        # of average `constant`: those of the sampling
  beta: NonNegative[float] = 0.0             # factor of the KL divergence from the reference
  kl: surrogates.KLEstimator = 'k3'          # its estimate
  temperature: Positive[float] = 1.0         # divides the logits: that of the sampling

  def __post_init__(self):
    check_types(self)
    if (self.max_new_tokens is None) == (self.average == 'constant'):
      raise FieldError(self, 'max_new_tokens', "average 'constant' needs it, and no other")
    if self.surrogate == 'cispo' and self.max_ratio is None:
      raise FieldError(self, 'max_ratio', 'cispo needs it: trl has 5')
    if self.surrogate == 'clip' and self.max_ratio is not None and (
        self.max_ratio <= 1 + self.clip_high):
      raise FieldError(self, 'max_ratio', f'must be above 1 + clip_high ({1 + self.clip_high:g})')
    if self.surrogate == 'sapo' and self.max_ratio is not None:
      raise FieldError(self, 'max_ratio', 'sapo has none: gate_temperatures bound it')

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    check_rollouts(batch, 'PolicyLoss', 'old_logprobs', 'advantages',
                   *['reference_logprobs'] * (self.beta > 0))
    mask_BL = completion_mask(batch)
    logprobs_BL = jnp.where(mask_BL > 0, token_logprobs(model, batch, self.temperature), 0)
    (loss, count), ratio = self.loss_of(logprobs_BL, batch)
    total = loss if self.average == 'token' else normalizers['sequence'] * loss
    metrics = self._metrics(logprobs_BL, ratio, batch, mask_BL) | {'loss': (loss, count)}
    return LossSums(total, mask_BL.sum(), metrics)

  def loss_of(self, logprobs: jax.Array, batch: Batch
              ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """((sum, what divides it), ratio) of log-probabilities of the targets, [batch, length]."""
    mask_BL = completion_mask(batch)
    ratio = surrogates.importance_ratio(logprobs, batch['old_logprobs'], mask_BL, self.ratio)
    bounds = surrogates.Bounds(self.clip_low, self.clip_high, self.max_ratio,
                               self.gate_temperatures)
    loss_BL = surrogates.surrogate_loss(self.surrogate, ratio, batch['advantages'], logprobs,
                                        bounds)
    if self.beta:
      loss_BL = loss_BL + self.beta * surrogates.kl_estimate(
          logprobs, batch['reference_logprobs'], self.kl)
    return surrogates.aggregate(loss_BL, mask_BL, self.average, self.max_new_tokens), ratio

  def _metrics(self, logprobs_BL, ratio, batch, mask_BL):
    log_ratio_BL = (logprobs_BL - batch['old_logprobs']) * mask_BL
    of_tokens = {'ratio': jnp.exp(log_ratio_BL), 'entropy': -logprobs_BL,
                 'approx_kl': surrogates.kl_estimate(-log_ratio_BL, 0.0, 'k3'),
                 'mismatch': jnp.exp(jnp.abs(log_ratio_BL))}
    if 'reference_logprobs' in batch:
      of_tokens['kl'] = surrogates.kl_estimate(logprobs_BL, batch['reference_logprobs'], self.kl)
    metrics = {name: surrogates.aggregate(x_BL, mask_BL, 'token') for name, x_BL in
               of_tokens.items()}
    if self.surrogate == 'clip':
      unit = 'token' if self.ratio == 'token' else 'sequence'
      advantages_BL = batch['advantages']
      for name, bound_BL in (('low', (ratio < 1 - self.clip_low) & (advantages_BL < 0)),
                             ('high', (ratio > 1 + self.clip_high) & (advantages_BL > 0))):
        metrics[f'clip_ratio/{name}'] = surrogates.aggregate(
            bound_BL.astype(jnp.float32), mask_BL, unit)
    return jax.lax.stop_gradient(metrics)
