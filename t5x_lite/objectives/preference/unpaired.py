"""KTO: responses that are good or bad, each with a prompt of its own.

Shape letters: B groups, K responses.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, Positive, check_types
from t5x_lite.data.features import Batch
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums
from t5x_lite.objectives.preference import groups


def kto_baseline(ratio: jax.Array, valid: jax.Array) -> jax.Array:
  """KTO's reference point, a scalar without gradient: an estimate of KL(policy | reference).

  Args:
    ratio: [batch] log ratios of policy and reference of completions after prompts of other
      examples (Ethayarajh et al. 2024, section 4.1); the mean, at least 0.
    valid: [batch] 1, or 0 for padding.
  """
  mean = (ratio * valid).sum() / jnp.maximum(valid.sum(), 1)
  return jax.lax.stop_gradient(jnp.maximum(mean, 0))


def kto_loss(ratio: jax.Array, desirable: jax.Array, baseline: jax.Array | float, *, beta: float,
             desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> jax.Array:
  """weight * (1 - sigmoid(beta * (ratio - baseline))) of a good response, [batch].

  Of a bad one the sign of beta is the other (section 4.1; lambda - v is what is minimised).

  Args:
    ratio: [batch] log ratios of policy and reference of responses.
    desirable: [batch] bool, whether a response is a good one.
    baseline: of kto_baseline; 0 gives APO-zero of unpaired responses (D'Oosterlinck et al. 2024,
      equation 7, trl's `apo_zero_unpaired`).
    beta: strength of the pull to the reference.
    desirable_weight, undesirable_weight: lambda of both kinds.
  """
  margin = beta * (ratio - baseline)
  return jnp.where(desirable, desirable_weight * jax.nn.sigmoid(-margin),
                   undesirable_weight * jax.nn.sigmoid(margin))


@dataclasses.dataclass(frozen=True, kw_only=True)
class KTO:
  """Kahneman-Tversky optimisation (Ethayarajh et al. 2024), a mean over responses.

  Of a batch of groups of two: first the prompt with its own completion, whose score is 1 for good
  and 0 for bad; then the prompt with the completion of another example, for the baseline of `kto`.
  The baseline is that of a microbatch, as in trl: the more rows it has, the better. Nothing is
  dropped out. Metrics: `loss`, `kl`, the baseline, and `rewards/{chosen,rejected}` and
  `logps/{chosen,rejected}`, means over good and over bad responses. Defaults are trl's.
  """
  loss: Literal['kto', 'apo_zero_unpaired'] = 'kto'   # the second has no baseline
  beta: Positive[float] = 0.1               # strength of the pull to the reference
  # So that weight * number of the good is 1 to 4/3 of that of the bad ones, says the paper.
  desirable_weight: NonNegative[float] = 1.0
  undesirable_weight: NonNegative[float] = 1.0   # of bad responses

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums:
    groups.check_groups(batch, 'KTO', 'reference_logprobs', responses=2)
    responses = groups.responses_of(model, batch)
    ratio_BK = responses.logps - groups.reference_of(batch, responses)
    good_B, valid_B = batch['response_scores'][:, 0] > 0.5, responses.valid[:, 0]
    baseline = jnp.float32(0)
    if self.loss == 'kto':
      baseline = kto_baseline(ratio_BK[:, 1], responses.valid[:, 1])
    loss_B = kto_loss(ratio_BK[:, 0], good_B, baseline, beta=self.beta,
                      desirable_weight=self.desirable_weight,
                      undesirable_weight=self.undesirable_weight)
    loss, examples = (loss_B * valid_B).sum(), valid_B.sum()
    metrics = {'loss': (loss, examples), 'kl': (baseline * examples, examples)}
    for name, kind_B in (('chosen', valid_B * good_B), ('rejected', valid_B * ~good_B)):
      metrics[f'rewards/{name}'] = (self.beta * ratio_BK[:, 0] * kind_B).sum(), kind_B.sum()
      metrics[f'logps/{name}'] = (responses.logps[:, 0] * kind_B).sum(), kind_B.sum()
    return LossSums(normalizers['group'] * loss, groups.loss_weight(batch), metrics)
